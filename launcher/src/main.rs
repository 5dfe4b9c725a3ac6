//! The `launcher` binary: from the command line to the exit code.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use launcher::cli::{Cli, Command, with_default_command};
use launcher::nodes::{check, probe};
use launcher::{
    agent, campaign, chaos, diagnose, inspect, kubernetes, ledger, page, reproduce, resume, tied, top, train, verify,
};

fn main() -> ExitCode {
    let cli = Cli::parse_from(with_default_command(std::env::args_os()));
    let quick = match cli.command {
        Command::Tied { deaf, parent, program } => {
            tied::become_tied(parent, &program, deaf).map(|never| match never {})
        }
        Command::Probe => probe::probe(),
        Command::Campaign(args) => campaign::campaign(&args),
        Command::Diagnose(args) => diagnose::diagnose(&args),
        Command::Compare(args) => diagnose::compare(&args),
        Command::Page(args) => page::page(&args),
        Command::Digest { run } => inspect::digest(&run),
        Command::Ledger { run, data, json } => ledger::ledger(&run, data.as_deref(), json),
        Command::Kubernetes(args) => kubernetes::kubernetes(&args),
        Command::Verify { run, other } => {
            let verdict = verify::verify(&run, &other);
            let written = match verdict.exit_code() {
                2 => writeln!(std::io::stderr(), "{}", verdict.text()),
                _ => writeln!(std::io::stdout(), "{}", verdict.text()),
            };
            match written {
                // The exit code is the verdict, whether somebody reads the words or not.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
                _ => Ok(verdict.exit_code()),
            }
        }
        command => on_this_thread(command),
    };
    match quick {
        Ok(code) => ExitCode::from(code),
        // `launcher diagnose RUN | head`: whoever read has read enough.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Everything that waits runs on the main thread: the kernel ties children to the thread that started them.
fn on_this_thread(command: Command) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match command {
            Command::Train(args) => train::train(&args).await,
            Command::Resume(args) => resume::resume(&args).await,
            Command::Reproduce(args) => reproduce::reproduce(&args).await,
            Command::Check(args) => check::check(&args).await,
            Command::Chaos(args) => chaos::chaos(&args).await,
            Command::Agent(args) if args.pod => kubernetes::pod::node::agent(args).await,
            Command::Status { run, json, credentials } => inspect::status(&run, json, &credentials).await,
            Command::Top(args) => top::top(args).await,
            Command::Stop { run, wait, credentials } => inspect::stop(&run, wait, &credentials).await,
            Command::Agent(args) => agent::run(args).await,
            Command::Coordinate(args) => kubernetes::pod::coordinate::coordinate(args).await,
            Command::Tied { .. }
            | Command::Probe
            | Command::Campaign(_)
            | Command::Diagnose(_)
            | Command::Compare(_)
            | Command::Page(_)
            | Command::Digest { .. }
            | Command::Verify { .. }
            | Command::Ledger { .. }
            | Command::Kubernetes(_) => Ok(0),
        }
    });
    runtime.shutdown_background();
    code
}
