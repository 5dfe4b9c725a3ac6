//! The coordinator's binary: options, signals and exit codes around [`coordinator::Coordinator`].
//!
//! Exit codes: 0 the run is finished or was stopped on request, 1 it failed (the reason is the last line on stderr), 2 it
//! could not be started. The only line on stdout says where it listens. `coordinator replay RUN` ends with 0 if every
//! decision came out again, with 1 if not, with 2 if there is nothing to replay.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use began_credentials::Arguments as Credentials;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use coordinator::courtesy::Shares;
use coordinator::server::Handle;
use coordinator::{Coordinator, Options};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Keeps a run: who takes part, what each step needs, and what happens when something goes wrong.
/// Threads that look after connections and decide.
const THREADS: usize = 2;

#[derive(Debug, Parser)]
#[command(version, about, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    arguments: Option<Arguments>,
    // Not among the arguments: clap would take those for absent then.
    #[command(flatten)]
    credentials: Credentials,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the machine again what the journal of a run says it was told, and compare every decision
    Replay {
        /// The directory of the run
        run: PathBuf,
        /// Nothing but the last line
        #[arg(long)]
        quiet: bool,
    },
}

#[derive(Args, Debug)]
struct Arguments {
    /// The directory of the run
    #[arg(long, env = "BEGAN_RUN")]
    run: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, env = "BEGAN_LISTEN", default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    listen: String,
    /// Serve the run's page, its interface and /metrics there; port 0 takes a free one
    #[arg(long, env = "BEGAN_HTTP", value_name = "HOST:PORT")]
    http: Option<String>,
    /// How many trainers make the world
    #[arg(long, env = "BEGAN_WORLD", value_parser = clap::value_parser!(u32).range(1..))]
    world: u32,
    /// On how many nodes; lets those that do not come be named
    #[arg(long, env = "BEGAN_NODES", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// End when stdin closes, and leave Ctrl-C to whoever holds the other end
    #[arg(long, env = "BEGAN_SUPERVISED")]
    supervised: bool,
    /// Go on from a checkpoint even if its hashes are wrong
    #[arg(long, env = "BEGAN_ACCEPT_CHANGED_CHECKPOINT")]
    accept_changed_checkpoint: bool,
    /// How long to wait for all trainers to come
    #[arg(long, env = "BEGAN_FORMING_TIMEOUT", default_value = "120", value_name = "SECONDS", value_parser = seconds)]
    forming_timeout: Duration,
    /// Keep no journal: for measuring what one costs
    #[arg(long, env = "BEGAN_NO_JOURNAL", hide = true)]
    no_journal: bool,
    /// How log lines look
    #[arg(long, env = "BEGAN_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds, as in 120 or 0.5".to_owned())?;
    if seconds > 0.0 && seconds <= 1e6 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("expected seconds above 0 and at most a million, got {seconds}"))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let arguments = match (cli.command, cli.arguments) {
        (Some(Command::Replay { run, quiet }), _) => return replay(&run, quiet),
        (None, Some(arguments)) => arguments,
        (None, None) => {
            let missing = "--run RUN and --world N are needed, or a command";
            Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, missing).exit()
        }
    };
    let shares = Shares::new(THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .on_thread_start(move || shares.take())
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&format!("cannot start threads: {error}")),
    };
    let code = runtime.block_on(run(arguments, cli.credentials));
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}

fn replay(run: &Path, quiet: bool) -> ExitCode {
    let show = |line: &str| {
        if !quiet {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    };
    let found = match coordinator::replay::replay(run, show) {
        Ok(found) => found,
        Err(error) => return cannot_start(&error.to_string()),
    };
    for difference in &found.differences {
        let _ = writeln!(std::io::stderr(), "different: {difference}");
    }
    let verdict = if found.differences.is_empty() { "every decision came out again" } else { "not all came out again" };
    let _ = writeln!(
        std::io::stdout(),
        "{}: {verdict}: {} events led to {} decisions, {} steps in {} generations, over {} starts of the coordinator",
        run.display(),
        found.events,
        found.decisions,
        found.steps,
        found.generations,
        found.starts
    );
    ExitCode::from(u8::from(!found.differences.is_empty()))
}

async fn run(arguments: Arguments, credentials: Credentials) -> ExitCode {
    log(arguments.log_format);
    let options = Options {
        run: arguments.run,
        listen: arguments.listen,
        http: arguments.http,
        credentials,
        world: arguments.world,
        nodes: arguments.nodes,
        accept_changed_checkpoint: arguments.accept_changed_checkpoint,
        forming_timeout: arguments.forming_timeout,
        journal: !arguments.no_journal,
    };
    // Caught from the first moment on: a signal during the start must not leave a half-announced run behind.
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (term, interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => return cannot_start(&format!("cannot listen for signals: {error}")),
    };
    let coordinator = match Coordinator::start(&options).await {
        Ok(coordinator) => coordinator,
        Err(error) => return cannot_start(&error.to_string()),
    };
    let address = coordinator.address();
    tracing::info!("listening on {address}: {}", coordinator.guarded_by());
    tokio::spawn(heed_signals(coordinator.handle(), term, interrupt, arguments.supervised));
    if arguments.supervised {
        end_with_stdin(coordinator.handle());
    }
    let mut ready = serde_json::json!({ "listening": address.to_string() });
    if let Some(page) = coordinator.page() {
        tracing::info!("the page is at {}", page.url());
        ready["http"] = page.url().into();
        ready["fingerprint"] = page.fingerprint().into();
    }
    let ready = format!("{ready}\n");
    if let Err(error) = std::io::stdout().write_all(ready.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        tracing::warn!("nobody reads where this coordinator listens ({address}): {error}");
    }
    let outcome = coordinator.finished().await;
    if outcome.failed {
        let _ = writeln!(std::io::stderr(), "the run failed: {}", outcome.reason);
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

fn cannot_start(why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {why}");
    ExitCode::from(2)
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BEGAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// The first request to end is a graceful one, the second is not.
async fn heed_signals(
    handle: Handle,
    mut term: tokio::signal::unix::Signal,
    mut interrupt: tokio::signal::unix::Signal,
    supervised: bool,
) {
    let mut asked = false;
    loop {
        let name = tokio::select! {
            Some(()) = term.recv() => "SIGTERM",
            // Ctrl-C reaches the whole process group; the launcher decides what it means.
            Some(()) = interrupt.recv() => if supervised { continue } else { "SIGINT" },
            else => return,
        };
        if asked {
            handle.abort(&format!("a second signal ({name}) ended the run at once")).await;
        } else {
            handle.stop(name).await;
        }
        asked = true;
    }
}

/// Stdin ends when the launcher does, however that ends.
fn end_with_stdin(handle: Handle) {
    let runtime = tokio::runtime::Handle::current();
    let watch = move || {
        let mut buffer = [0; 256];
        loop {
            match std::io::stdin().read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        runtime.block_on(handle.abort("the launcher is gone: stdin closed"));
    };
    if let Err(error) = std::thread::Builder::new().name("stdin".into()).spawn(watch) {
        tracing::warn!("the launcher's end will not be noticed: {error}");
    }
}
