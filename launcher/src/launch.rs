//! One launch: starts the coordinator and the agents, carries what happens to [`crate::supervision`] and does what it
//! says, until all of them are gone.
//!
//! It decides nothing itself. It runs on the main thread, and it never returns while a process that it started lives,
//! unless that process withstood KILL.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use began::RunConfig;
use began_proto::v1::watch_event::Body;
use began_record::RunDir;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::agent::Report;
use crate::child::{self, Child, Exit, Stdout, Waiter};
use crate::cli::ShowArgs;
use crate::configure::Shape;
use crate::devices::{Device, Gpus};
use crate::output::Log;
use crate::show::Show;
use crate::supervision::{Act, Asked, Happened, Process, Supervision};
use crate::train::Made;
use crate::{binaries, ending, node_log, watch};

/// How long the coordinator may take to say where it listens.
const LISTENING: Duration = Duration::from_secs(30);

/// Everything a launch needs to know.
#[derive(Debug)]
pub struct Plan {
    /// The run's folder, as the user named it.
    pub run: RunDir,
    /// Its configuration.
    pub config: RunConfig,
    /// Nodes and trainers.
    pub shape: Shape,
    /// What the trainers compute on.
    pub device: Device,
    /// The GPUs there are, if they compute on GPUs.
    pub gpus: Gpus,
    /// The coordinator's program.
    pub coordinator: PathBuf,
    /// Go on even from a checkpoint that is not as it was written.
    pub accept_changed_checkpoint: bool,
    /// The run's folder, if this launch made it.
    pub made: Option<Made>,
}

/// What the tasks that wait for something tell the launch.
enum News {
    Report { node: u32, report: Report },
    AgentEnded { node: u32, exit: Exit },
    CoordinatorEnded(Exit),
    Say(String),
}

#[derive(Deserialize)]
struct Listening {
    listening: String,
}

/// Starts everything, watches over it to the end, and says how it ended. Returns the exit code.
///
/// # Errors
/// If the run could not be started; nothing runs then, and what was made for it is gone.
pub async fn launch(plan: Plan, args: &ShowArgs, show: &mut Show) -> Result<u8> {
    let mut launch = match Launch::start(&plan, args).await {
        Ok(launch) => launch,
        Err(Stopped::Error(error)) => {
            ending::clean_up(&plan, show);
            return Err(error);
        }
        Err(Stopped::Asked(asked)) => return Ok(ending::stopped_before_start(&plan, asked, show)),
    };
    launch.watch_over(show).await;
    launch.retract(&plan.run);
    Ok(ending::say(&plan, &launch.supervision.outcome(), show))
}

struct Launch {
    coordinator: Child,
    address: String,
    agents: Vec<Child>,
    agent_logs: Vec<Log>,
    coordinator_log: Log,
    supervision: Supervision,
    signals: Signals,
    news: mpsc::UnboundedReceiver<News>,
    teller: mpsc::UnboundedSender<News>,
    seen: mpsc::UnboundedReceiver<Body>,
}

enum Stopped {
    Asked(Asked),
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl Launch {
    async fn start(plan: &Plan, args: &ShowArgs) -> Result<Self, Stopped> {
        let mut signals = Signals::new()?;
        let (teller, news) = mpsc::unbounded_channel();
        let path = std::path::absolute(plan.run.path())?;
        let log = Log::append_to(&plan.run.logs().join("coordinator.log"), None);

        let mut command = child::tied(&plan.coordinator)?;
        command.arg("--run").arg(&path).args(["--listen", "127.0.0.1:0", "--world", &plan.shape.world().to_string()]);
        command.args(["--nodes", &plan.shape.nodes.to_string(), "--supervised"]);
        if plan.accept_changed_checkpoint {
            command.arg("--accept-changed-checkpoint");
        }
        let (mut coordinator, mut waiter, stdout) = child::start(command, &log, Stdout::Ours)
            .with_context(|| format!("cannot start the coordinator ({})", plan.coordinator.display()))?;
        let listening = tokio::select! {
            listening = where_it_listens(stdout) => listening.map_err(Stopped::Error),
            asked = signals.next() => Err(Stopped::Asked(asked)),
        };
        let (address, stdout) = match listening {
            Ok(listening) => listening,
            Err(stopped) => {
                let exit = end_now(&mut coordinator, &mut waiter).await;
                return Err(match stopped {
                    Stopped::Asked(asked) => Stopped::Asked(asked),
                    Stopped::Error(error) => Stopped::Error(start_failure(&error, exit, &log)),
                });
            }
        };
        tokio::spawn(log.clone().follow(stdout));
        let ended = teller.clone();
        tokio::spawn(async move {
            let exit = waiter.wait().await;
            let _ = ended.send(News::CoordinatorEnded(exit));
        });

        let mut agents = Vec::new();
        let mut agent_logs = Vec::new();
        for node in 0..plan.shape.nodes {
            let log = Log::append_to(&node_log(plan.run.path(), node, None), None);
            match start_agent(plan, args, &path, node, &address, &log, &teller) {
                Ok(agent) => agents.push(agent),
                Err(error) => {
                    // Killed, agents take their trainers with them: they are tied.
                    for started in agents.iter().chain([&coordinator]) {
                        started.signal(Signal::SIGKILL);
                    }
                    let all_gone = async {
                        while agents.iter().chain([&coordinator]).any(Child::is_alive) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    let _ = timeout(Duration::from_secs(5), all_gone).await;
                    return Err(Stopped::Error(error));
                }
            }
            agent_logs.push(log);
        }
        let (see, seen) = mpsc::unbounded_channel();
        tokio::spawn(watch::follow(address.clone(), see));
        let supervision = Supervision::new(plan.shape.nodes, args.grace);
        Ok(Self {
            coordinator,
            address,
            agents,
            agent_logs,
            coordinator_log: log,
            supervision,
            signals,
            news,
            teller,
            seen,
        })
    }

    /// A coordinator that was killed could not take back where it is to be found.
    fn retract(&self, run: &RunDir) {
        let stale = |pid| pid == self.coordinator.pid() && !self.coordinator.is_alive();
        if run.announcement().is_ok_and(|announcement| announcement.is_some_and(|left| stale(left.pid))) {
            run.retract();
        }
    }

    async fn watch_over(&mut self, show: &mut Show) {
        let mut watching = true;
        while !self.supervision.is_over() {
            let deadline = self.supervision.deadline();
            let happened = tokio::select! {
                asked = self.signals.next() => Some(Happened::Asked(asked)),
                Some(news) = self.news.recv() => self.take(news, show),
                body = self.seen.recv(), if watching => match body {
                    Some(Body::Progress(progress)) => {
                        show.progress(progress, Instant::now());
                        None
                    }
                    Some(Body::Event(event)) => {
                        show.event(&event);
                        None
                    }
                    Some(Body::Ended(ended)) => Some(Happened::Ended { failed: ended.failed, reason: ended.reason }),
                    None => {
                        watching = false;
                        None
                    }
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => Some(Happened::Tick),
            };
            let Some(happened) = happened else { continue };
            for act in self.supervision.on(happened, Instant::now()) {
                self.act(act, show);
            }
        }
        // What the coordinator said last may still be on its way from the watch.
        while let Ok(body) = self.seen.try_recv() {
            match body {
                Body::Progress(progress) => show.progress(progress, Instant::now()),
                Body::Event(event) => show.event(&event),
                Body::Ended(ended) => {
                    self.supervision.on(Happened::Ended { failed: ended.failed, reason: ended.reason }, Instant::now());
                }
            }
        }
    }

    fn take(&self, news: News, show: &Show) -> Option<Happened> {
        match news {
            News::Report { node, report: Report::Output { rank, line } } => {
                show.output(node, rank, &line);
                None
            }
            News::Report { report: Report::Started { .. }, .. } => None,
            News::Report { node, report: Report::Exited { rank, pid, exit, asked, last_lines, .. } } => {
                Some(Happened::Exited { process: Process::Trainer { node, rank }, pid, exit, asked, last_lines })
            }
            News::Report { node, report: Report::Failed { reason } } => Some(Happened::CouldNotStart { node, reason }),
            News::AgentEnded { node, exit } => {
                let pid = self.agents.get(node as usize).map_or(0, Child::pid);
                let last_lines = self.agent_logs.get(node as usize).map(Log::last_lines).unwrap_or_default();
                Some(Happened::Exited { process: Process::Agent(node), pid, exit, asked: false, last_lines })
            }
            News::CoordinatorEnded(exit) => {
                let (pid, last_lines) = (self.coordinator.pid(), self.coordinator_log.last_lines());
                Some(Happened::Exited { process: Process::Coordinator, pid, exit, asked: false, last_lines })
            }
            News::Say(text) => {
                show.say(&text);
                None
            }
        }
    }

    fn act(&mut self, act: Act, show: &Show) {
        match act {
            Act::Say(text) => show.say(&text),
            Act::AskToStop(reason) => {
                let (address, teller) = (self.address.clone(), self.teller.clone());
                tokio::spawn(async move {
                    if let Err(error) = watch::ask_to_stop(&address, &reason).await {
                        let _ =
                            teller.send(News::Say(format!("the coordinator could not be asked to stop: {error:#}")));
                    }
                });
            }
            Act::EndAgents => self.agents.iter().for_each(|agent| agent.signal(Signal::SIGTERM)),
            Act::CloseAgents => self.agents.iter_mut().for_each(Child::close_stdin),
            Act::CloseCoordinator => self.coordinator.close_stdin(),
            Act::KillAll => {
                // Killed, agents take their trainers with them: they are tied.
                self.agents.iter().for_each(|agent| agent.signal(Signal::SIGKILL));
                self.coordinator.signal(Signal::SIGKILL);
            }
        }
    }
}

fn start_agent(
    plan: &Plan,
    args: &ShowArgs,
    run: &std::path::Path,
    node: u32,
    address: &str,
    log: &Log,
    teller: &mpsc::UnboundedSender<News>,
) -> Result<Child> {
    let gpus = plan.shape.gpus;
    let mut command = Command::new(binaries::own()?);
    command
        .args(["agent", "--coordinator", address, "--run"])
        .arg(run)
        .args(["--node", &node.to_string(), "--trainers", &gpus.to_string()])
        .args(["--first-rank", &(node * gpus).to_string(), "--device", plan.device.name()])
        .args(["--grace", &args.grace.as_secs_f64().to_string()]);
    if args.forward_logs {
        command.arg("--forward-logs");
    }
    // Nodes that share this machine share its GPUs: each gets a part of them, counted from 0 by its own trainers.
    if plan.device == Device::Cuda && plan.shape.nodes > 1 {
        let from = (node * gpus) as usize;
        let part = plan.gpus.names.get(from..from + gpus as usize).context("there are fewer GPUs than trainers")?;
        command.env("CUDA_VISIBLE_DEVICES", part.join(","));
    }
    let (child, mut waiter, stdout) =
        child::start(command, log, Stdout::Ours).with_context(|| format!("cannot start the agent of node {node}"))?;
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
async fn where_it_listens(stdout: Option<ChildStdout>) -> Result<(String, ChildStdout)> {
    let stdout = stdout.context("the coordinator has no stdout")?;
    let mut lines: Lines<_> = BufReader::new(stdout.take(1 << 16)).lines();
    let line = match timeout(LISTENING, lines.next_line()).await {
        Ok(line) => line.context("cannot read what the coordinator says")?,
        Err(_) => bail!("the coordinator did not say within {} s where it listens", LISTENING.as_secs()),
    };
    let line = line.context("the coordinator ended before it said where it listens")?;
    let listening: Listening = serde_json::from_str(&line)
        .with_context(|| format!("the coordinator should say {{\"listening\":\"ADDRESS\"}} first and said {line:?}"))?;
    Ok((listening.listening, lines.into_inner().into_inner().into_inner()))
}

async fn end_now(child: &mut Child, waiter: &mut Waiter) -> Option<Exit> {
    // One that is about to end by itself says more by its own end than by our KILL.
    child.close_stdin();
    if let Some(exit) = waiter.within(Duration::from_secs(2)).await {
        return Some(exit);
    }
    child.signal(Signal::SIGKILL);
    waiter.within(Duration::from_secs(5)).await.map(|_| Exit { code: None, signal: None })
}

fn start_failure(error: &anyhow::Error, exit: Option<Exit>, log: &Log) -> anyhow::Error {
    let how = match exit {
        Some(exit @ (Exit { code: Some(_), .. } | Exit { signal: Some(_), .. })) => format!(" ({exit})"),
        _ => String::new(),
    };
    let lines: String = log.last_lines().iter().map(|line| format!("\n    {line}")).collect();
    let said = if lines.is_empty() { "; it wrote nothing".to_owned() } else { format!("; its last lines:{lines}") };
    anyhow!("{error:#}{how}{said}")
}

/// What asks the launcher to stop.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.hangup.recv() => Asked::Terminate,
        }
    }
}
