//! How the processes of a launch are started, the first time and again.
//!
//! They are started from the main thread, always with the same flags; a coordinator that is started again listens where the
//! one before it did, so that its trainers find it.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use began_credentials::Role;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{News, Plan};
use crate::agent::orders::CREDENTIALS;
use crate::child::{self, Child, Exit, Stdout, Waiter};
use crate::cli::LaunchArgs;
use crate::credentials::{self, Credentials};
use crate::devices::Device;
use crate::nodes::Start;
use crate::output::Log;
use crate::tied;

/// How long the coordinator may take to say where it listens.
const LISTENING: Duration = Duration::from_secs(30);

/// What a coordinator says first.
#[derive(Clone, Debug, Deserialize)]
pub struct Listening {
    /// Where it listens.
    #[serde(rename = "listening")]
    pub address: String,
    /// The address of its page, if it serves one.
    #[serde(rename = "http")]
    pub page: Option<String>,
    /// SHA-256 of its page's certificate, if that has one.
    pub fingerprint: Option<String>,
}

impl Listening {
    /// Where the page listens, for a coordinator that is started again.
    #[must_use]
    pub fn http(&self) -> Option<String> {
        let (_, place) = self.page.as_deref()?.split_once("://")?;
        Some(place.trim_end_matches('/').to_owned())
    }
}

/// A coordinator that was started: its process, who waits for it, and what it says on stdout.
pub type Started = (Child, Waiter, Option<ChildStdout>);

/// Starts a coordinator that is to listen at `listen`, and to serve its page at `http`.
///
/// # Errors
/// If it cannot be started.
pub fn coordinator(
    plan: &Plan,
    run: &Path,
    (listen, http): (&str, Option<&str>),
    credentials: &Credentials,
    log: &Log,
) -> Result<Started> {
    let mut command = tied::command(&plan.coordinator)?;
    command.arg("--run").arg(run).args(["--listen", listen, "--world", &plan.shape.world().to_string()]);
    command.args(["--nodes", &plan.shape.nodes.to_string(), "--supervised"]);
    if plan.accept_changed_checkpoint {
        command.arg("--accept-changed-checkpoint");
    }
    if let Some(http) = http {
        command.args(["--http", http]);
    }
    credentials.tell(&mut command, Role::Coordinator);
    child::start(command, log, Stdout::Ours)
        .with_context(|| format!("cannot start the coordinator ({})", plan.coordinator.display()))
}

/// Tells of a coordinator's end, and follows what else it says.
pub fn attend_coordinator(mut waiter: Waiter, stdout: ChildStdout, log: Log, teller: mpsc::UnboundedSender<News>) {
    tokio::spawn(log.follow(stdout));
    tokio::spawn(async move {
        let exit = waiter.wait().await;
        let _ = teller.send(News::CoordinatorEnded(exit));
    });
}

/// As [`attend_coordinator`], for one that was started again: if it does not say in time where it listens, that is told, too.
pub fn attend_restarted(
    started: (Waiter, Option<ChildStdout>),
    pid: u32,
    log: Log,
    teller: mpsc::UnboundedSender<News>,
) {
    let (mut waiter, stdout) = started;
    let (late, note) = (teller.clone(), log.clone());
    tokio::spawn(async move {
        match where_it_listens(stdout).await {
            Ok((_, stdout)) => note.follow(stdout).await,
            Err(error) => {
                note.note(&format!("{error:#}"));
                let _ = late.send(News::CoordinatorMute { pid });
            }
        }
    });
    tokio::spawn(async move {
        let exit = waiter.wait().await;
        let _ = teller.send(News::CoordinatorEnded(exit));
    });
}

/// Starts the agent of a node; what it reports, and its end, go to `teller`.
///
/// # Errors
/// If it cannot be started.
pub fn agent(
    plan: &Plan,
    args: &LaunchArgs,
    run: &Path,
    node: u32,
    (address, held): (&str, &Credentials),
    log: &Log,
    teller: &mpsc::UnboundedSender<News>,
) -> Result<Child> {
    let gpus = plan.shape.gpus;
    let mut start = Start::default();
    let mut say = |words: &[&str]| start.arguments.extend(words.iter().map(OsString::from));
    say(&["agent", "--coordinator", address, "--node", &node.to_string(), "--trainers", &gpus.to_string()]);
    say(&["--first-rank", &(node * gpus).to_string(), "--device", plan.device.name()]);
    say(&["--grace", &args.grace.as_secs_f64().to_string(), "--restarts", &args.restarts.to_string()]);
    if args.forward_logs {
        say(&["--forward-logs"]);
    }
    if let Some(interface) = &plan.nodes.interface {
        say(&["--interface", interface]);
    }
    let remote = plan.nodes.backend.is_remote();
    if remote {
        if plan.nodes.backend.signals_everyone() {
            say(&["--deaf"]);
        }
        say(&["--lost-after", &plan.nodes.lost_after.as_secs_f64().to_string()]);
    }
    start.arguments.extend(["--run".into(), run.into()]);
    // Nodes that share this machine share its GPUs: each gets a part of them, counted from 0 by its own trainers.
    if plan.device == Device::Cuda && plan.nodes.share_gpu {
        start.arguments.push("--share-gpu".into());
        if let (Some(first), false) = (plan.gpus.names.first(), remote) {
            start.environment.push(("CUDA_VISIBLE_DEVICES".into(), first.into()));
        }
    } else if plan.device == Device::Cuda && plan.shape.nodes > 1 && !remote {
        let from = (node * gpus) as usize;
        let part = plan.gpus.names.get(from..from + gpus as usize).context("there are fewer GPUs than trainers")?;
        start.environment.push(("CUDA_VISIBLE_DEVICES".into(), part.join(",").into()));
    }
    // Other machines get theirs over the pipe; what is in this environment is about this machine's files.
    let handed = if remote { held.line_for(Role::Trainer)? } else { None };
    if handed.is_some() {
        start.arguments.push("--credentials-from-stdin".into());
    }
    let mut command = plan.nodes.backend.command(node, &start)?;
    match remote {
        true => credentials::forget(&mut command),
        false => held.tell(&mut command, Role::Trainer),
    }
    let (child, mut waiter, stdout) =
        child::start(command, log, Stdout::Ours).with_context(|| format!("cannot start the agent of node {node}"))?;
    if let Some(handed) = handed {
        child.tell(&format!("{CREDENTIALS}{handed}"));
    }
    let (reports, ended, log) = (teller.clone(), teller.clone(), log.clone());
    let reader = tokio::spawn(async move {
        let Some(stdout) = stdout else { return };
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(report) => {
                    let _ = reports.send(News::Report { node, report });
                }
                Err(_) => log.note(&line),
            }
        }
    });
    tokio::spawn(async move {
        let exit = waiter.wait().await;
        // What the agent reported goes before its own end: its trainers' ends are the causes.
        let _ = timeout(Duration::from_secs(1), reader).await;
        let _ = ended.send(News::AgentEnded { node, exit });
    });
    Ok(child)
}

/// The coordinator's first line, within bounds, and the rest of its stdout.
///
/// # Errors
/// If it says something else, or nothing.
pub async fn where_it_listens(stdout: Option<ChildStdout>) -> Result<(Listening, ChildStdout)> {
    let stdout = stdout.context("the coordinator has no stdout")?;
    let mut lines: Lines<_> = BufReader::new(stdout.take(1 << 16)).lines();
    let line = match timeout(LISTENING, lines.next_line()).await {
        Ok(line) => line.context("cannot read what the coordinator says")?,
        Err(_) => bail!("the coordinator did not say within {} s where it listens", LISTENING.as_secs()),
    };
    let line = line.context("the coordinator ended before it said where it listens")?;
    let listening: Listening = serde_json::from_str(&line)
        .with_context(|| format!("the coordinator should say {{\"listening\":\"ADDRESS\"}} first and said {line:?}"))?;
    Ok((listening, lines.into_inner().into_inner().into_inner()))
}

/// Ends a coordinator whose launch does not begin.
pub async fn end_now(child: &mut Child, waiter: &mut Waiter) -> Option<Exit> {
    // One that is about to end by itself says more by its own end than by our KILL.
    child.close_stdin();
    if let Some(exit) = waiter.within(Duration::from_secs(2)).await {
        return Some(exit);
    }
    child.signal(Signal::SIGKILL);
    waiter.within(Duration::from_secs(5)).await.map(|_| Exit { code: None, signal: None })
}

/// Why a coordinator did not start, with how it ended and its last lines.
#[must_use]
pub fn failure(error: &anyhow::Error, exit: Option<Exit>, log: &Log) -> anyhow::Error {
    let how = match exit {
        Some(exit @ (Exit { code: Some(_), .. } | Exit { signal: Some(_), .. })) => format!(" ({exit})"),
        _ => String::new(),
    };
    let lines: String = log.last_lines().iter().map(|line| format!("\n    {line}")).collect();
    let said = if lines.is_empty() { "; it wrote nothing".to_owned() } else { format!("; its last lines:{lines}") };
    anyhow!("{error:#}{how}{said}")
}
