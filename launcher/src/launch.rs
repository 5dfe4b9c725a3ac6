//! One launch: starts the coordinator and the agents, carries what happens to [`crate::supervision`] and does what it
//! says, until all of them are gone.
//!
//! It decides nothing itself. It runs on the main thread, and it never returns while a process that it started lives,
//! unless that process withstood KILL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use began::RunConfig;
use began_credentials::Mode;
use began_proto::v1::watch_event::Body;
use began_record::RunDir;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::agent::orders::{HERE, KILL, NO_MORE_RESTARTS, TERMINATE};
use crate::agent::{End, Report};
use crate::child::{Child, Exit};
use crate::cli::LaunchArgs;
use crate::configure::Shape;
use crate::credentials::Credentials;
use crate::devices::{Device, Gpus};
use crate::made::Made;
use crate::nodes::Nodes;
use crate::output::Log;
use crate::page::Place;
use crate::show::Show;
use crate::supervision::{Act, Asked, Gone, Happened, Process, Supervision, Then};
use crate::watch::Contact;
use crate::{ending, node_log, page, watch};

mod signals;
mod start;

pub use signals::{Signalled, Signals};
pub use start::Listening;

/// How long the connection to a node may take to end once the node was told to kill everything.
const CLOSING: Duration = Duration::from_secs(2);

/// Everything a launch needs to know.
#[derive(Debug)]
pub struct Plan {
    /// The run's folder, as the user named it.
    pub run: RunDir,
    /// Its configuration.
    pub config: RunConfig,
    /// Where the nodes are.
    pub nodes: Nodes,
    /// How many, and trainers on each.
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
pub enum News {
    /// An agent reports.
    Report {
        /// Its node.
        node: u32,
        /// What.
        report: Report,
    },
    /// An agent ended.
    AgentEnded {
        /// Its node.
        node: u32,
        /// How.
        exit: Exit,
    },
    /// The coordinator ended.
    CoordinatorEnded(Exit),
    /// A coordinator that was started again did not say in time where it listens.
    CoordinatorMute {
        /// Its process.
        pid: u32,
    },
    /// A process could not be started again.
    NotStarted(Process, String),
    /// Something for people.
    Say(String),
}

/// Starts everything, watches over it to the end, and says how it ended. Returns the exit code.
///
/// # Errors
/// If the run could not be started; nothing runs then, and what was made for it is gone.
pub async fn launch(plan: Plan, args: &LaunchArgs, show: &mut Show) -> Result<u8> {
    let mut launch = match Launch::start(&plan, args).await {
        Ok(launch) => launch,
        Err(Stopped::Error(error)) => {
            ending::clean_up(&plan, show);
            return Err(error);
        }
        Err(Stopped::Asked(asked)) => return Ok(ending::stopped_before_start(&plan, asked, show)),
    };
    launch.watch_over(show).await;
    launch.retract();
    Ok(ending::say(&plan, &launch.supervision.outcome(), show))
}

struct Launch<'a> {
    plan: &'a Plan,
    args: &'a LaunchArgs,
    /// The run's folder, absolute.
    path: PathBuf,
    coordinator: Child,
    coordinator_log: Log,
    /// Every coordinator of this launch: whichever announced itself last may have been killed.
    coordinators: Vec<u32>,
    contact: Contact,
    /// Where its page listens, if it serves one.
    http: Option<String>,
    page: Option<Place>,
    credentials: Credentials,
    agents: Vec<Agent>,
    supervision: Supervision,
    signals: Signals,
    news: mpsc::UnboundedReceiver<News>,
    teller: mpsc::UnboundedSender<News>,
    seen: mpsc::UnboundedReceiver<Body>,
    /// The furthest step that was seen: a watch that is taken up again may show it once more.
    step: Option<u64>,
    /// The furthest step that a trainer of each node has committed.
    committed: BTreeMap<u32, u64>,
}

struct Agent {
    child: Child,
    log: Log,
    /// It said that it has no place left to look after.
    over: bool,
    /// When something was last heard of it, or it was started.
    heard: Instant,
    /// Nothing was, and the way to it was ended.
    given_up: bool,
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

impl<'a> Launch<'a> {
    async fn start(plan: &'a Plan, args: &'a LaunchArgs) -> Result<Self, Stopped> {
        let mut signals = Signals::new()?;
        let (teller, news) = mpsc::unbounded_channel();
        let path = std::path::absolute(plan.run.path())?;
        let coordinator_log = coordinator_log(plan);
        let run = plan.run.manifest()?.run;
        let address = plan.nodes.address;
        let exposed = plan.nodes.backend.is_remote() || address.is_some_and(|address| !address.is_loopback());
        let names: Vec<String> = ["127.0.0.1".into(), "localhost".into()]
            .into_iter()
            .chain(address.map(|address| address.to_string()))
            .collect();
        let exposed = exposed || (args.tls != Mode::Off && args.http.as_deref().is_some_and(page::is_exposed));
        let credentials = Credentials::for_launch(args.tls, args.token_file.as_deref(), &run, &names, exposed)?;
        let (mut coordinator, mut waiter, stdout) = start::coordinator(
            plan,
            &path,
            (&plan.nodes.listen(), args.http.as_deref()),
            &credentials,
            &coordinator_log,
        )?;
        let listening = tokio::select! {
            listening = start::where_it_listens(stdout) => listening.map_err(Stopped::Error),
            asked = signals.asked() => Err(Stopped::Asked(asked)),
        };
        let (listening, stdout) = match listening {
            Ok(listening) => listening,
            Err(stopped) => {
                let exit = start::end_now(&mut coordinator, &mut waiter).await;
                return Err(match stopped {
                    Stopped::Asked(asked) => Stopped::Asked(asked),
                    Stopped::Error(error) => Stopped::Error(start::failure(&error, exit, &coordinator_log)),
                });
            }
        };
        let told = credentials.client().and_then(|control| Ok((control, Place::of(&listening, &credentials)?)));
        let (control, page) = match told {
            Ok(told) => told,
            Err(error) => {
                start::end_now(&mut coordinator, &mut waiter).await;
                return Err(Stopped::Error(error));
            }
        };
        start::attend_coordinator(waiter, stdout, coordinator_log.clone(), teller.clone());

        let mut agents: Vec<Agent> = Vec::new();
        for node in 0..plan.shape.nodes {
            match start_agent(plan, args, &path, node, (&listening.address, &credentials), &teller) {
                Ok(agent) => agents.push(agent),
                Err(error) => {
                    // Killed, agents take their trainers with them: they are tied.
                    agents.iter_mut().for_each(|agent| agent.child.close_stdin());
                    let started = || agents.iter().map(|agent| &agent.child).chain([&coordinator]);
                    started().for_each(|child| child.signal(Signal::SIGKILL));
                    let all_gone = async {
                        while started().any(Child::is_alive) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    let _ = timeout(Duration::from_secs(5), all_gone).await;
                    return Err(Stopped::Error(error));
                }
            }
        }
        let (see, seen) = mpsc::unbounded_channel();
        let http = listening.http();
        let contact = Contact { address: listening.address, credentials: control };
        tokio::spawn(watch::follow(contact.clone(), see));
        let supervision = Supervision::new(plan.shape.nodes, args.grace, args.restarts);
        let coordinators = vec![coordinator.pid()];
        Ok(Self {
            plan,
            args,
            path,
            coordinator,
            coordinator_log,
            coordinators,
            contact,
            http,
            page,
            credentials,
            agents,
            supervision,
            signals,
            news,
            teller,
            seen,
            step: None,
            committed: BTreeMap::new(),
        })
    }

    /// A coordinator that was killed could not take back where it is to be found.
    fn retract(&self) {
        let run = &self.plan.run;
        let alive = |pid| pid == self.coordinator.pid() && self.coordinator.is_alive();
        let stale = |pid| self.coordinators.contains(&pid) && !alive(pid);
        if run.announcement().is_ok_and(|announcement| announcement.is_some_and(|left| stale(left.pid))) {
            run.retract();
        }
    }

    async fn watch_over(&mut self, show: &mut Show) {
        if let Some(place) = &self.page {
            show.page(place, self.plan.run.path());
        }
        let mut watching = true;
        let remote = self.plan.nodes.backend.is_remote();
        let mut said_here = tokio::time::interval((self.plan.nodes.lost_after / 5).max(Duration::from_millis(100)));
        said_here.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.supervision.is_over() {
            let deadline = self.supervision.deadline();
            let happened = tokio::select! {
                signal = self.signals.next() => match signal {
                    Signalled::End(asked) => Some(Happened::Asked(asked)),
                    Signalled::Checkpoint => {
                        self.checkpoint(show);
                        None
                    }
                },
                _ = said_here.tick(), if remote => {
                    self.keep_in_touch(show);
                    None
                }
                Some(news) = self.news.recv() => self.take(news, show),
                body = self.seen.recv(), if watching => match body {
                    Some(body) => self.told(body, show),
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
            if let Some(happened @ Happened::Ended { .. }) = self.told(body, show) {
                self.supervision.on(happened, Instant::now());
            }
        }
    }

    /// Shows what the coordinator tells; what of it is news for the supervision.
    fn told(&mut self, body: Body, show: &mut Show) -> Option<Happened> {
        match body {
            Body::Progress(progress) => {
                let step = progress.step;
                show.progress(progress, Instant::now());
                // A step that is computed again is no progress.
                (Some(step) > self.step).then(|| {
                    self.step = Some(step);
                    Happened::Stepped
                })
            }
            Body::Event(event) => {
                show.event(&event);
                None
            }
            Body::Ended(ended) => Some(Happened::Ended { failed: ended.failed, reason: ended.reason }),
        }
    }

    fn take(&mut self, news: News, show: &Show) -> Option<Happened> {
        match news {
            News::Report { node, report } => self.reported(node, report, show),
            News::AgentEnded { node, exit } => {
                let agent = self.agents.get(node as usize)?;
                let (pid, last_lines) = (agent.child.pid(), agent.log.last_lines());
                let gone = Gone { process: Process::Agent(node), pid, exit, last_lines };
                if !agent.over
                    && let Some(meaning) = self.plan.nodes.backend.meaning(node, exit)
                {
                    show.say(&meaning);
                }
                Some(Happened::AgentEnded { agent: gone, node, over: agent.over })
            }
            News::CoordinatorEnded(exit) => {
                let (pid, last_lines) = (self.coordinator.pid(), self.coordinator_log.last_lines());
                Some(Happened::CoordinatorEnded(Gone { process: Process::Coordinator, pid, exit, last_lines }))
            }
            News::CoordinatorMute { pid } => {
                // Its end is told like any other.
                if pid == self.coordinator.pid() {
                    self.coordinator.signal(Signal::SIGKILL);
                }
                None
            }
            News::NotStarted(process, reason) => {
                let exit = Exit { code: Some(2), signal: None };
                let gone = Gone { process, pid: 0, exit, last_lines: vec![reason] };
                Some(match process {
                    Process::Agent(node) => Happened::AgentEnded { agent: gone, node, over: false },
                    _ => Happened::CoordinatorEnded(gone),
                })
            }
            News::Say(text) => {
                show.say(&text);
                None
            }
        }
    }

    fn reported(&mut self, node: u32, report: Report, show: &Show) -> Option<Happened> {
        if let Some(agent) = self.agents.get_mut(node as usize) {
            agent.heard = Instant::now();
        }
        let gone = |End { rank, pid, exit, last_lines, .. }| {
            let process = Process::Trainer { node, rank };
            Gone { process, pid, exit, last_lines }
        };
        match report {
            Report::Output { rank, line } => {
                show.output(node, rank, &line);
                None
            }
            Report::Started { .. } | Report::Here => None,
            Report::Committed { step, .. } => {
                let furthest = self.committed.entry(node).or_default();
                (step > *furthest).then(|| {
                    *furthest = step;
                    Happened::Committed { node }
                })
            }
            Report::Exited { end, asked } => Some(Happened::TrainerEnded(gone(end), Then::Nothing { asked })),
            Report::Restarting { end, in_seconds, attempt, allowed } => {
                let pause = Duration::try_from_secs_f64(in_seconds).unwrap_or_default();
                Some(Happened::TrainerEnded(gone(end), Then::Restart { pause, attempt, allowed }))
            }
            Report::SetAside { end, reason } => Some(Happened::TrainerEnded(gone(end), Then::SetAside(reason))),
            Report::Failed { reason } => Some(Happened::CouldNotStart { node, reason }),
            Report::Over => {
                if let Some(agent) = self.agents.get_mut(node as usize) {
                    agent.over = true;
                }
                None
            }
        }
    }

    fn act(&mut self, act: Act, show: &Show) {
        match act {
            Act::Say(text) => show.say(&text),
            Act::StartCoordinator => self.start_coordinator(),
            Act::StartAgent(node) => self.start_agent(node),
            Act::RestartNobody => self.agents.iter().for_each(|agent| agent.child.tell(NO_MORE_RESTARTS)),
            Act::AskToStop(reason) => {
                let (contact, teller, grace) = (self.contact.clone(), self.teller.clone(), self.args.grace);
                tokio::spawn(async move {
                    if let Err(error) = watch::stop_within(&contact, &reason, grace).await {
                        let _ =
                            teller.send(News::Say(format!("the coordinator could not be asked to stop: {error:#}")));
                    }
                });
            }
            // To another machine a signal does not get: it would end the connection and leave what is there.
            Act::EndAgents if self.plan.nodes.backend.is_remote() => {
                self.agents.iter().for_each(|agent| agent.child.tell(TERMINATE));
            }
            Act::EndAgents => self.agents.iter().for_each(|agent| agent.child.signal(Signal::SIGTERM)),
            Act::CloseAgents => self.agents.iter_mut().for_each(|agent| agent.child.close_stdin()),
            Act::CloseCoordinator => self.coordinator.close_stdin(),
            Act::KillAll if self.plan.nodes.backend.is_remote() => {
                for agent in &mut self.agents {
                    agent.child.tell(KILL);
                    agent.child.close_stdin();
                    // The way to a node that is cut off does not end by itself.
                    agent.child.kill_after(CLOSING);
                }
                self.coordinator.signal(Signal::SIGKILL);
            }
            Act::KillAll => {
                // Killed, agents take their trainers with them: they are tied.
                self.agents.iter().for_each(|agent| agent.child.signal(Signal::SIGKILL));
                self.coordinator.signal(Signal::SIGKILL);
            }
        }
    }

    /// Tells the nodes that the launcher is there, and gives up those that have not answered for long: what started them may
    /// hold a connection that leads nowhere. They give the launcher up as well.
    fn keep_in_touch(&mut self, show: &Show) {
        let patience = self.plan.nodes.lost_after;
        for (node, agent) in (0..).zip(&mut self.agents) {
            agent.child.tell(HERE);
            if agent.heard.elapsed() > patience && agent.child.is_alive() && !agent.over && !agent.given_up {
                agent.given_up = true;
                let host = self.plan.nodes.backend.host(node);
                let seconds = patience.as_secs_f64();
                show.say(&format!(
                    "node {node} ({host}) was not heard of for {seconds} s (--lost-after): it is given up"
                ));
                agent.child.signal(Signal::SIGKILL);
            }
        }
    }

    /// Asks for a checkpoint after the next step.
    fn checkpoint(&self, show: &Show) {
        show.say("SIGUSR1: a checkpoint is asked for");
        let (contact, teller) = (self.contact.clone(), self.teller.clone());
        tokio::spawn(async move {
            if let Err(error) = watch::ask_for_checkpoint(&contact, "the launcher got SIGUSR1").await {
                let _ = teller.send(News::Say(format!("the coordinator could not be asked for one: {error:#}")));
            }
        });
    }

    fn start_coordinator(&mut self) {
        let log = coordinator_log(self.plan);
        let listen = (self.contact.address.as_str(), self.http.as_deref());
        match start::coordinator(self.plan, &self.path, listen, &self.credentials, &log) {
            Ok((coordinator, waiter, stdout)) => {
                self.coordinators.push(coordinator.pid());
                start::attend_restarted((waiter, stdout), coordinator.pid(), log.clone(), self.teller.clone());
                self.coordinator = coordinator;
                self.coordinator_log = log;
            }
            Err(error) => {
                let _ = self.teller.send(News::NotStarted(Process::Coordinator, format!("{error:#}")));
            }
        }
    }

    fn start_agent(&mut self, node: u32) {
        let to = (self.contact.address.as_str(), &self.credentials);
        match start_agent(self.plan, self.args, &self.path, node, to, &self.teller) {
            Ok(started) => {
                if let Some(agent) = self.agents.get_mut(node as usize) {
                    *agent = started;
                }
            }
            Err(error) => {
                let _ = self.teller.send(News::NotStarted(Process::Agent(node), format!("{error:#}")));
            }
        }
    }
}

fn coordinator_log(plan: &Plan) -> Log {
    Log::append_to(&plan.run.logs().join("coordinator.log"), None)
}

fn start_agent(
    plan: &Plan,
    args: &LaunchArgs,
    path: &std::path::Path,
    node: u32,
    to: (&str, &Credentials),
    teller: &mpsc::UnboundedSender<News>,
) -> Result<Agent> {
    let log = Log::append_to(&node_log(plan.run.path(), node, None), None);
    let child = start::agent(plan, args, path, node, to, &log, teller)?;
    Ok(Agent { child, log, over: false, heard: Instant::now(), given_up: false })
}
