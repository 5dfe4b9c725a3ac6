//! The `trainer` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trainer::commands::{conform::Conform, describe::Describe};

/// Trains BEGAN on one device, and does what belongs to that: prepares data, draws samples, checks itself.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Conform(Conform),
    Describe(Describe),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Conform(command) => command.run().map(|passed| if passed { 0 } else { 1 }),
        Command::Describe(command) => command.run().map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("trainer: {error:#}");
            ExitCode::from(1)
        }
    }
}
