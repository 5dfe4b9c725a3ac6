//! What the coordinator's pod starts: it makes the run or goes on with it, and keeps a coordinator for it.
//!
//! A coordinator that dies is started again here, at the same address; one that ended is not. Told to go, it has the run
//! finish its step and write a checkpoint, and says that it was interrupted. It must never call a run finished that is not.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use began_data::{DataError, Manifest};
use began_record::RunDir;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::ending::{self, CANNOT, DIED, INTERRUPTED};
use super::making;
use super::standing::{Standing, is_finished};
use crate::child::{self, Child, Exit, Stdout};
use crate::cli::CoordinateArgs;
use crate::configure::Shape;
use crate::launch::Signals;
use crate::output::Log;
use crate::restarts::{Restarts, SUPPORT};
use crate::{binaries, tied};

/// One that lived for so long did not fail in a row with the one before.
const LIVED: Duration = Duration::from_secs(120);
/// How often it is said that the data is not there yet.
const REMIND: Duration = Duration::from_secs(30);
/// Data that is not there is waited for at most for so long; the startup probe has to wait longer.
const DATA_TIME: Duration = Duration::from_secs(1500);
/// After the time for an end in order, the coordinator has so long to write its last rows.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// `launcher coordinate`. Returns the exit code, one of [`ending`]'s.
///
/// # Errors
/// If the system does not let it watch for signals or start processes.
pub async fn coordinate(args: CoordinateArgs) -> Result<u8> {
    let mut signals = Signals::new()?;
    let shape = Shape { nodes: args.nodes, gpus: args.gpus };
    let prepared = tokio::select! {
        prepared = prepare(&args, shape) => prepared,
        _ = signals.next() => return Ok(INTERRUPTED),
    };
    let run = match prepared {
        Ok(run) => run,
        Err(error) => {
            say(&format!("error: {error:#}"));
            return Ok(CANNOT);
        }
    };
    if is_finished(&run) {
        say(&format!(
            "{} is finished; for more, make the manifests again with --set run.steps=N",
            run.path().display()
        ));
        Standing::Finished.write(run.path())?;
        return Ok(0);
    }
    Standing::Running.write(run.path())?;
    keep(&args, shape, &run, &mut signals).await
}

/// Everything up to the coordinator's start.
async fn prepare(args: &CoordinateArgs, shape: Shape) -> Result<RunDir> {
    let config = making::configuration(&args.config, shape)?;
    wait_for_data(Path::new(&config.data.path), args.forming_timeout.min(DATA_TIME)).await?;
    let (run, said) = making::run(&args.run, &config)?;
    say(&said);
    Ok(run)
}

/// A volume may be filled while the pod waits. What is there and is no data is not waited for.
async fn wait_for_data(path: &Path, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let mut said = None;
    loop {
        let error = match Manifest::load(path) {
            Err(error @ DataError::NotPrepared { .. }) => error,
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        };
        if start.elapsed() >= patience {
            return Err(error).with_context(|| format!("waited {} s for the data", patience.as_secs()));
        }
        if said.is_none_or(|said: Instant| said.elapsed() >= REMIND) {
            say(&format!("waiting for the data: {error}"));
            said = Some(Instant::now());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Keeps a coordinator until it ends for good, or may not be started any more.
async fn keep(args: &CoordinateArgs, shape: Shape, run: &RunDir, signals: &mut Signals) -> Result<u8> {
    let mut restarts = Restarts::new(SUPPORT, args.restarts);
    loop {
        let start = Instant::now();
        let (exit, asked) = one_life(args, shape, run, signals).await?;
        if let Some((standing, code)) = ending::of_coordinator(exit, asked, is_finished(run)) {
            standing.write(run.path())?;
            return Ok(code);
        }
        if start.elapsed() >= LIVED {
            restarts.progressed();
        }
        let Some(again) = restarts.failed() else {
            say(&format!("the coordinator {exit}, and was started again {} times (--restarts)", args.restarts));
            return Ok(DIED);
        };
        say(&format!("the coordinator {exit}; starting another in {} s", again.pause.as_secs_f64()));
        if timeout(again.pause, signals.next()).await.is_ok() {
            Standing::Interrupted.write(run.path())?;
            return Ok(INTERRUPTED);
        }
    }
}

/// One coordinator, from its start to its end; whether it was told to go.
async fn one_life(args: &CoordinateArgs, shape: Shape, run: &RunDir, signals: &mut Signals) -> Result<(Exit, bool)> {
    let log = Log::append_to(&run.logs().join("coordinator.log"), Some(Box::new(say)));
    let mut command = tied::command(&binaries::coordinator()?)?;
    command.arg("--run").arg(run.path()).args(["--listen", &args.listen, "--supervised"]);
    command.args(["--world", &shape.world().to_string(), "--nodes", &shape.nodes.to_string()]);
    command.args(["--forming-timeout", &args.forming_timeout.as_secs_f64().to_string()]);
    if args.accept_changed_checkpoint {
        command.arg("--accept-changed-checkpoint");
    }
    let (mut coordinator, mut waiter, _) =
        child::start(command, &log, Stdout::Logged).context("cannot start the coordinator")?;
    tokio::select! {
        exit = waiter.wait() => return Ok((exit, false)),
        _ = signals.next() => {}
    }
    // Before it is told: nobody may see its trainers end and not see why.
    Standing::Interrupted.write(run.path())?;
    say("this pod has to go: the run finishes its step, writes a checkpoint, and goes on in the next one");
    coordinator.signal(Signal::SIGTERM);
    let exit = tokio::select! {
        exit = waiter.within(args.grace + LAST_WRITES) => exit,
        _ = signals.next() => None,
    };
    Ok((ended_at_last(&mut coordinator, &mut waiter, exit).await, true))
}

async fn ended_at_last(coordinator: &mut Child, waiter: &mut child::Waiter, exit: Option<Exit>) -> Exit {
    match exit {
        Some(exit) => exit,
        None => {
            say("it did not end in time and is killed");
            coordinator.signal(Signal::SIGKILL);
            waiter.within(LAST_WRITES).await.unwrap_or(Exit { code: None, signal: Some(Signal::SIGKILL as i32) })
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
