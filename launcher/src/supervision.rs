//! What is to be done when something happens to a launch, and in the end: what it came to.
//!
//! Pure: no clock, no process, no socket. It gets what happened and when, and answers what to do. A coordinator or an agent
//! that dies is started again; the agents do the same for their trainers. Once the run ends, or nothing is left to start
//! again, every process is gone after a bounded time: each stage has a deadline and leads to a harder one.

use std::time::{Duration, Instant};

use crate::child::{Exit, SET_ASIDE, STOPPED_FOR_ANOTHER};

mod blame;
mod healing;
#[cfg(test)]
mod tests;
mod words;

use blame::Blame;
use healing::Part;
use words::After;
pub use words::{Act, Asked, Cause, Gone, Happened, Outcome, Process, Then, end_of};

/// How long the coordinator may take to say what becomes of a run that has nobody left to train.
pub const VERDICT: Duration = Duration::from_secs(5);
/// How long ends are gathered after the coordinator's own, before the rest is asked to end.
pub const GATHER: Duration = Duration::from_secs(2);
/// How long the processes of an ended run may take to end by themselves.
pub const SETTLE: Duration = Duration::from_secs(5);
/// How long agents have after TERM before their stdin is closed, which shortens their trainers' time.
pub const POLITE: Duration = Duration::from_secs(3);
/// How long agents have after that before they are killed.
pub const FIRM: Duration = Duration::from_secs(4);
/// How long the killed may take to go.
pub const KILLED: Duration = Duration::from_secs(5);

/// The coordinator's codes for a run that ended well, and for one that failed; with any other it died.
const ENDED: [Option<i32>; 2] = [Some(0), Some(1)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    /// Nobody is left to train, or never was; the coordinator is to say what becomes of the run.
    Failing,
    /// The coordinator was asked to stop.
    Stopping,
    /// The run ended, or its coordinator did; the processes end by themselves.
    Settling,
    Terminating,
    Closing,
    Killing,
    /// Killed processes are still there: nothing more can be done.
    GivenUp,
}

/// The state of a launch.
#[derive(Debug)]
pub struct Supervision {
    grace: Duration,
    stage: Stage,
    deadline: Option<Instant>,
    coordinator: Part,
    agents: Vec<Part>,
    coordinator_closed: bool,
    ended: Option<(bool, String)>,
    asked: Option<Asked>,
    /// Whether the run took a step in this launch.
    stepped: bool,
    /// Whether it cannot begin: nobody comes in some place any more.
    cannot_begin: bool,
    blame: Blame,
}

impl Supervision {
    /// A launch with a running coordinator and this many agents, each of which may fail `restarts` times in a row.
    #[must_use]
    pub fn new(agents: u32, grace: Duration, restarts: u32) -> Self {
        Self {
            grace,
            stage: Stage::Running,
            deadline: None,
            coordinator: Part::new(restarts),
            agents: (0..agents).map(|_| Part::new(restarts)).collect(),
            coordinator_closed: false,
            ended: None,
            asked: None,
            stepped: false,
            cannot_begin: false,
            blame: Blame::default(),
        }
    }

    /// When to come back with [`Happened::Tick`], if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = self.agents.iter().chain([&self.coordinator]).filter_map(Part::due);
        due.chain(self.deadline).min()
    }

    /// Whether nothing is left to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::GivenUp || (self.coordinator.is_gone().is_some() && self.everyone_left())
    }

    /// Whether the processes that are left are being ended by force.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.stage >= Stage::Terminating
    }

    fn everyone_left(&self) -> bool {
        self.agents.iter().all(|agent| agent.is_gone().is_some())
    }

    /// Takes in what happened and says what to do.
    pub fn on(&mut self, happened: Happened, now: Instant) -> Vec<Act> {
        match happened {
            Happened::CoordinatorEnded(gone) => self.coordinator_ended(gone, now),
            Happened::AgentEnded { agent, node, over } => self.agent_ended(agent, node, over, now),
            Happened::TrainerEnded(gone, then) => self.trainer_ended(gone, then, now),
            Happened::CouldNotStart { node, reason } => {
                let reason = format!("node {node}: {reason}");
                let said = Act::Say(reason.clone());
                self.blame.failed(Cause { process: None, last_lines: Vec::new(), reason: Some(reason) }, now);
                self.gone_for_good(now);
                vec![said]
            }
            Happened::Committed { node } => {
                if let Some(agent) = self.agents.get_mut(node as usize) {
                    agent.progressed();
                }
                Vec::new()
            }
            Happened::Stepped => {
                self.stepped = true;
                self.coordinator.progressed();
                self.blame.stepped(now);
                Vec::new()
            }
            Happened::Ended { failed, reason } => {
                self.ended = Some((failed, reason));
                self.enter(Stage::Settling, SETTLE, now);
                vec![Act::RestartNobody]
            }
            Happened::Asked(asked) => self.asked_to_stop(asked, now),
            Happened::Tick => self.tick(now),
        }
    }

    /// Nobody comes in some place any more. A run that took steps goes on without it; one that never began waits for it in vain.
    fn gone_for_good(&mut self, now: Instant) {
        if !self.stepped && self.stage == Stage::Running {
            self.cannot_begin = true;
            self.enter(Stage::Failing, VERDICT, now);
        }
    }

    fn coordinator_ended(&mut self, gone: Gone, now: Instant) -> Vec<Act> {
        let died = self.ended.is_none() && !ENDED.contains(&gone.exit.code);
        // Also where a stop was asked for: without it there would be no checkpoint of the last steps.
        if died && self.stage <= Stage::Stopping && !self.coordinator_closed && !self.everyone_left() {
            self.blame.failed(cause(&gone), now);
            let (again, said) = self.coordinator.died(&gone, now);
            if !again {
                self.enter(Stage::Settling, GATHER, now);
            }
            return vec![Act::Say(said)];
        }
        let unexpected =
            self.ended.is_none() && gone.exit.code != Some(0) && !self.is_forced() && !self.coordinator_closed;
        if unexpected {
            self.blame.failed(cause(&gone), now);
        }
        self.coordinator.gone(gone.exit);
        self.enter(Stage::Settling, GATHER, now);
        Vec::new()
    }

    fn agent_ended(&mut self, gone: Gone, node: u32, over: bool, now: Instant) -> Vec<Act> {
        let Some(agent) = self.agents.get_mut(node as usize) else { return Vec::new() };
        let mut acts = Vec::new();
        if self.stage == Stage::Running && !over {
            let (again, said) = agent.died(&gone, now);
            self.blame.failed(cause(&gone), now);
            acts.push(Act::Say(said));
            if again {
                return acts;
            }
            self.gone_for_good(now);
        } else {
            agent.gone(gone.exit);
            // An agent's code follows from its trainers', which were reported; only its own death is news.
            let of_trainers = over || gone.exit.code == Some(STOPPED_FOR_ANOTHER) || self.blame.has_trainer();
            let died = gone.exit.signal.is_some() || (gone.exit.code != Some(0) && !of_trainers);
            if died && !self.is_forced() && !matches!(self.ended, Some((false, _))) {
                self.blame.failed(cause(&gone), now);
            }
        }
        if self.everyone_left() {
            acts.extend(self.agents_are_gone(now));
        }
        acts
    }

    fn trainer_ended(&mut self, gone: Gone, then: Then, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        let how = gone.sentence();
        let failed = match then {
            Then::Nothing { asked } => !asked && !gone.exit.is_orderly(),
            Then::Restart { pause, attempt, allowed } => {
                let after = After(pause);
                acts.push(Act::Say(format!("{how}; starting another {after} (restart {attempt} of {allowed})")));
                true
            }
            Then::SetAside(reason) => {
                acts.push(Act::Say(format!("{how}; its place stays empty: {reason}")));
                // One whose results differ is put out by a run that goes on without it.
                if gone.exit.code != Some(SET_ASIDE) {
                    self.gone_for_good(now);
                }
                true
            }
        };
        if failed && !self.is_forced() {
            self.blame.failed(cause(&gone), now);
        }
        acts
    }

    fn agents_are_gone(&mut self, now: Instant) -> Vec<Act> {
        // There will be nobody for a new coordinator to lead.
        self.coordinator.stay_gone();
        if self.coordinator.is_gone().is_some() {
            return Vec::new();
        }
        if self.is_forced() {
            self.coordinator_closed = true;
            return vec![Act::CloseCoordinator];
        }
        // Nobody is left to train; the coordinator says so, or is closed at the deadline.
        self.enter(Stage::Failing, VERDICT, now);
        Vec::new()
    }

    fn asked_to_stop(&mut self, asked: Asked, now: Instant) -> Vec<Act> {
        if self.asked.replace(asked).is_some() || self.is_forced() {
            let acts = vec![Act::Say("ending everything at once".into()), Act::KillAll];
            self.enter(Stage::Killing, KILLED, now);
            return acts;
        }
        if self.stage >= Stage::Settling {
            return Vec::new();
        }
        self.enter(Stage::Stopping, self.grace, now);
        let mut acts = vec![
            Act::Say("finishing the step and writing a checkpoint (again to stop at once)".into()),
            Act::RestartNobody,
        ];
        if self.coordinator.due().is_none() {
            acts.push(Act::AskToStop(why_asked(asked).into()));
        }
        if self.everyone_left() {
            acts.extend(self.agents_are_gone(now));
        }
        acts
    }

    fn tick(&mut self, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        if self.coordinator.start_if_due(now) {
            acts.push(Act::StartCoordinator);
            if let Some(asked) = self.asked {
                acts.push(Act::AskToStop(why_asked(asked).into()));
            }
        }
        for (node, agent) in (0..).zip(&mut self.agents) {
            if agent.start_if_due(now) {
                acts.push(Act::StartAgent(node));
            }
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            acts.extend(self.next_stage(now));
        }
        acts
    }

    fn next_stage(&mut self, now: Instant) -> Vec<Act> {
        match self.stage {
            Stage::Failing | Stage::Settling if self.everyone_left() => self.close_coordinator(now),
            Stage::Failing => {
                self.enter(Stage::Stopping, self.grace, now);
                vec![Act::RestartNobody, Act::AskToStop("a process of the run failed".into())]
            }
            Stage::Stopping => {
                let mut acts = vec![Act::Say(format!(
                    "the coordinator did not say within {} s that the run ended; ending all processes",
                    self.grace.as_secs_f64()
                ))];
                acts.extend(self.terminate(now));
                acts
            }
            Stage::Running | Stage::Settling => self.terminate(now),
            Stage::Terminating => {
                self.enter(Stage::Closing, FIRM, now);
                vec![Act::CloseAgents, Act::CloseCoordinator]
            }
            Stage::Closing => {
                self.enter(Stage::Killing, KILLED, now);
                vec![Act::KillAll]
            }
            Stage::Killing => {
                self.stage = Stage::GivenUp;
                self.deadline = None;
                vec![Act::Say(format!("{} s after KILL some processes are still there", KILLED.as_secs()))]
            }
            Stage::GivenUp => Vec::new(),
        }
    }

    fn close_coordinator(&mut self, now: Instant) -> Vec<Act> {
        self.coordinator_closed = true;
        self.enter(Stage::Closing, FIRM, now);
        vec![Act::CloseCoordinator]
    }

    fn terminate(&mut self, now: Instant) -> Vec<Act> {
        self.enter(Stage::Terminating, POLITE, now);
        vec![Act::EndAgents]
    }

    /// Only ever to a harder stage; each has a deadline of its own, and none of them starts an agent again. A coordinator
    /// is started again up to the stage where one is asked to stop.
    fn enter(&mut self, stage: Stage, time: Duration, now: Instant) {
        if stage > self.stage {
            self.stage = stage;
            self.deadline = Some(now + time);
            self.agents.iter_mut().for_each(Part::stay_gone);
            if stage > Stage::Stopping {
                self.coordinator.stay_gone();
            }
        } else if stage == Stage::Settling && self.stage == stage {
            // Both the coordinator's word and its end lead here; the earlier deadline holds.
            self.deadline = Some(self.deadline.map_or(now + time, |before| before.min(now + time)));
        }
    }

    /// What the launch came to.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let cause = self.blame.root();
        let said = self.ended.as_ref().map(|(_, reason)| reason.clone()).filter(|reason| !reason.is_empty());
        let failed = match (&self.ended, self.coordinator.is_gone()) {
            // The coordinator was asked to stop, and did so in order.
            (Some(_), _) if self.cannot_begin && !self.stepped => true,
            (Some((failed, _)), _) => *failed,
            // In order, though its word did not arrive; closed, it ends so too, but had nobody left to train.
            (None, Some(Exit { code: Some(0), .. })) => self.coordinator_closed,
            (None, _) => true,
        };
        match (self.asked, cause) {
            (Some(by), None) => Outcome::Stopped { by, orderly: !failed },
            (_, Some(cause)) if failed => Outcome::Failed(Cause { reason: cause.reason.or(said), ..cause }),
            (Some(by), Some(_)) => Outcome::Stopped { by, orderly: true },
            (None, None) if failed => {
                let reason = said.or_else(|| self.coordinator_closed.then(|| NO_WORD.to_owned()));
                Outcome::Failed(Cause { process: None, last_lines: Vec::new(), reason })
            }
            (None, _) => Outcome::Ended(said),
        }
    }
}

fn cause(gone: &Gone) -> Cause {
    Cause { process: Some((gone.process, gone.pid, gone.exit)), last_lines: gone.last_lines.clone(), reason: None }
}

fn why_asked(asked: Asked) -> &'static str {
    match asked {
        Asked::Interrupt => "the launcher was interrupted (Ctrl-C)",
        Asked::Terminate => "the launcher was asked to end (SIGTERM)",
    }
}

const NO_WORD: &str = "all trainers ended, and the coordinator did not say why";
