//! The agent: starts the trainers of one node, keeps their logs, reports their ends, and ends after all of them.
//!
//! It never ends one trainer because another failed: the coordinator halts the others, so that their state is written
//! first. It must leave no trainer behind: not when it is asked to end, not when its parent dies, not when it is
//! killed itself (each trainer is tied to it by the kernel).

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::child::{self, Child, Exit, STOPPED_FOR_ANOTHER, Stdout};
use crate::cli::AgentArgs;
use crate::output::Log;
use crate::{binaries, node_log};

/// How long trainers have to end after TERM when the agent's parent is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// How long a killed trainer may take to go; one in an uninterruptible wait (a dead file server) may never.
const KILL_TIME: Duration = Duration::from_secs(5);

/// What an agent tells its launcher: one JSON object a line on stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Report {
    /// A trainer was started.
    Started {
        /// Its rank.
        rank: u32,
        /// Its index on the node.
        local_rank: u32,
        /// Its process.
        pid: u32,
    },
    /// A trainer ended.
    Exited {
        /// Its rank.
        rank: u32,
        /// Its index on the node.
        local_rank: u32,
        /// Its process.
        pid: u32,
        /// How it ended.
        #[serde(flatten)]
        exit: Exit,
        /// Whether the agent had asked it to.
        asked: bool,
        /// The last lines it wrote.
        last_lines: Vec<String>,
    },
    /// A trainer wrote a line.
    Output {
        /// Its rank.
        rank: u32,
        /// The line.
        line: String,
    },
    /// A trainer could not be started.
    Failed {
        /// Why.
        reason: String,
    },
}

fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        // A launcher that is gone reads nothing more; that it is gone is seen on stdin.
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}

struct Trainer {
    rank: u32,
    local_rank: u32,
    child: Child,
    log: Log,
    /// Whether the agent has asked it to end.
    asked: bool,
}

/// Runs an agent to its end; its exit code is 0 if all trainers' were, else the worst of them.
///
/// # Errors
/// If it cannot watch for the end of its parent or of its trainers.
pub async fn run(args: AgentArgs) -> Result<u8> {
    // Not KILL: the agent is to see to it that its trainers end, too.
    nix::sys::prctl::set_pdeathsig(Signal::SIGHUP).context("cannot ask to be told of the parent's end")?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut orphaned = std::pin::pin!(end_of_stdin());
    let mut parent_gone = false;

    let (ends, mut ended) = mpsc::unbounded_channel();
    let mut trainers: Vec<Trainer> = Vec::new();
    let mut ending = Ending::default();
    let mut worst = 0;
    for local_rank in 0..args.trainers {
        match start(&args, local_rank, &ends) {
            Ok(trainer) => trainers.push(trainer),
            Err(error) => {
                report(&Report::Failed { reason: format!("{error:#}") });
                worst = 1;
                ending.ask(&mut trainers, args.grace.min(ORPHAN_GRACE));
                break;
            }
        }
    }
    let mut left = trainers.len();
    while left > 0 {
        tokio::select! {
            Some((rank, exit)) = ended.recv() => {
                left -= 1;
                if let Some(trainer) = trainers.iter().find(|trainer| trainer.rank == rank) {
                    report(&trainer.exited(exit));
                    worst = worse(worst, exit);
                }
            }
            () = &mut orphaned, if !parent_gone => {
                parent_gone = true;
                ending.ask(&mut trainers, args.grace.min(ORPHAN_GRACE));
            }
            _ = hangup.recv() => ending.ask(&mut trainers, args.grace.min(ORPHAN_GRACE)),
            _ = terminate.recv() => ending.ask(&mut trainers, args.grace),
            _ = interrupt.recv() => ending.ask(&mut trainers, args.grace),
            _ = quit.recv() => ending.kill(&mut trainers),
            () = sleep_until(ending.deadline.unwrap_or_else(Instant::now)), if ending.deadline.is_some() => {
                if ending.killed {
                    let stuck = trainers.iter().filter(|trainer| trainer.child.is_alive());
                    let stuck: Vec<String> = stuck.map(|trainer| trainer.child.pid().to_string()).collect();
                    let _ = writeln!(std::io::stderr(), "{} s after KILL these processes are still there: {}", KILL_TIME.as_secs(), stuck.join(", "));
                    return Ok(1);
                }
                ending.kill(&mut trainers);
            }
        }
    }
    Ok(worst)
}

/// Where the agent stands in ending its trainers: asked (TERM), then killed.
#[derive(Default)]
struct Ending {
    deadline: Option<Instant>,
    killed: bool,
}

impl Ending {
    fn ask(&mut self, trainers: &mut [Trainer], grace: Duration) {
        if self.killed {
            return;
        }
        for trainer in trainers {
            trainer.asked = true;
            trainer.child.signal(Signal::SIGTERM);
        }
        // Asked again with less time, the shorter one counts.
        let deadline = Instant::now() + grace;
        self.deadline = Some(self.deadline.map_or(deadline, |before| before.min(deadline)));
    }

    fn kill(&mut self, trainers: &mut [Trainer]) {
        for trainer in trainers {
            trainer.asked = true;
            trainer.child.signal(Signal::SIGKILL);
        }
        self.killed = true;
        self.deadline = Some(Instant::now() + KILL_TIME);
    }
}

impl Trainer {
    fn exited(&self, exit: Exit) -> Report {
        Report::Exited {
            rank: self.rank,
            local_rank: self.local_rank,
            pid: self.child.pid(),
            exit,
            asked: self.asked,
            last_lines: self.log.last_lines(),
        }
    }
}

fn start(args: &AgentArgs, local_rank: u32, ends: &mpsc::UnboundedSender<(u32, Exit)>) -> Result<Trainer> {
    let rank = args.first_rank + local_rank;
    let program = binaries::trainer()?;
    let mut command: Command = child::tied(&program)?;
    command
        .args(["run", "--coordinator", &args.coordinator, "--run"])
        .arg(&args.run)
        .args(["--node", &args.node.to_string(), "--local-rank", &local_rank.to_string()])
        .args(["--device", &args.device, "--supervised"])
        // Read when libtorch is loaded. The bits of a step depend on both, so nothing in the environment may change them:
        // one CPU thread, and cuBLAS with the fixed workspace that its deterministic kernels need.
        .env("OMP_NUM_THREADS", "1")
        .env("MKL_NUM_THREADS", "1")
        .env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    let sink = args.forward_logs.then(|| {
        Box::new(move |line: &str| report(&Report::Output { rank, line: line.into() })) as Box<dyn Fn(&str) + Send>
    });
    let log = Log::append_to(&node_log(&args.run, args.node, Some(rank)), sink);
    let (child, mut waiter, _) = child::start(command, &log, Stdout::Logged)
        .with_context(|| format!("cannot start trainer {rank} ({})", program.display()))?;
    report(&Report::Started { rank, local_rank, pid: child.pid() });
    let ends = ends.clone();
    tokio::spawn(async move {
        let exit = waiter.wait().await;
        let _ = ends.send((rank, exit));
    });
    Ok(Trainer { rank, local_rank, child, log, asked: false })
}

/// Ends when the parent closes the agent's stdin or dies. Without a pipe there (an agent started by hand) it never does.
async fn end_of_stdin() {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let Ok(mut stdin) = stdin.and_then(pipe::Receiver::from_owned_fd) else {
        return std::future::pending().await;
    };
    let mut ignored = [0; 64];
    while let Ok(1..) = stdin.read(&mut ignored).await {}
}

/// The worse of an exit code and an end: own failures count more than being stopped for another's.
fn worse(code: u8, exit: Exit) -> u8 {
    match (code, exit.as_code()) {
        (code, 0) => code,
        (0, new) => new,
        (code, new) if i32::from(code) == STOPPED_FOR_ANOTHER => new,
        (code, _) => code,
    }
}

/// Becomes `program`, which the kernel kills when the process `parent` ends.
///
/// # Errors
/// If the parent is gone already, or the program cannot be started; otherwise it does not return.
pub fn become_tied(parent: i32, program: &[std::ffi::OsString]) -> Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt;
    let (name, arguments) = program.split_first().context("no program was named")?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot be tied to the parent")?;
    // Had it died before the line above, no signal would come.
    if nix::unistd::getppid().as_raw() != parent {
        anyhow::bail!("process {parent}, which {} belongs to, is gone", name.display());
    }
    let error = std::process::Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_flat_object() -> serde_json::Result<()> {
        let exit = Exit { code: None, signal: Some(9) };
        let report =
            Report::Exited { rank: 5, local_rank: 1, pid: 77, exit, asked: false, last_lines: vec!["a".into()] };
        let text = serde_json::to_string(&report)?;
        assert!(
            text.starts_with(r#"{"event":"exited","rank":5,"local_rank":1,"pid":77,"code":null,"signal":9"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Report>(&text)?, report);
        Ok(())
    }

    #[test]
    fn the_worst_end_counts() {
        let code = |code| Exit { code: Some(code), signal: None };
        assert_eq!(worse(0, code(0)), 0);
        assert_eq!(worse(0, code(3)), 3);
        assert_eq!(worse(3, code(7)), 7);
        assert_eq!(worse(7, code(3)), 7);
        assert_eq!(worse(3, Exit { code: None, signal: Some(9) }), 1);
    }
}
