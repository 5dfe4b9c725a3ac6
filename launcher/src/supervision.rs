//! What is to be done when something happens to a launch, and in the end: what it came to.
//!
//! Pure: no clock, no process, no socket. It gets what happened and when, and answers what to do. Whatever happens,
//! every process is gone after a bounded time: each stage has a deadline and leads to a harder one.

use std::time::{Duration, Instant};

use crate::child::Exit;

/// How long the coordinator may take to say what becomes of the run after one of its processes failed.
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
/// Connections break before the process that died is reported. A trainer that failed by code within this time before
/// its coordinator or its agent died failed for that.
const ECHO: Duration = Duration::from_secs(1);

/// Who asked the launcher to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM or SIGHUP.
    Terminate,
}

/// One of the processes of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Process {
    /// The coordinator.
    Coordinator,
    /// The agent of a node.
    Agent(u32),
    /// A trainer.
    Trainer {
        /// Its node.
        node: u32,
        /// Its rank.
        rank: u32,
    },
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A process ended.
    Exited {
        /// Which.
        process: Process,
        /// Its id.
        pid: u32,
        /// How.
        exit: Exit,
        /// Whether its agent had asked it to end.
        asked: bool,
        /// The last lines it wrote.
        last_lines: Vec<String>,
    },
    /// An agent could not start a trainer.
    CouldNotStart {
        /// The node.
        node: u32,
        /// Why.
        reason: String,
    },
    /// The coordinator said that the run ended.
    Ended {
        /// Whether it failed.
        failed: bool,
        /// Why it ended.
        reason: String,
    },
    /// Someone asked the launcher to stop.
    Asked(Asked),
    /// Time went by.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask the coordinator to finish the step, write a checkpoint and end.
    AskToStop(String),
    /// Ask the agents to end: TERM.
    EndAgents,
    /// Close the agents' stdin.
    CloseAgents,
    /// Close the coordinator's stdin.
    CloseCoordinator,
    /// Kill everything.
    KillAll,
    /// Tell people.
    Say(String),
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Which process, if it was one.
    pub process: Option<(Process, u32, Exit)>,
    /// The last lines it wrote.
    pub last_lines: Vec<String>,
    /// Why, where something other than its end says so.
    pub reason: Option<String>,
}

/// What a launch came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended as it should; the coordinator's words, if it had any.
    Ended(Option<String>),
    /// It was stopped by a signal to the launcher. `orderly`: the coordinator said that it ended, with a checkpoint.
    Stopped {
        /// By which.
        by: Asked,
        /// Whether the coordinator finished.
        orderly: bool,
    },
    /// It failed.
    Failed(Cause),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    /// Something failed; the coordinator is to say what becomes of it.
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
    agents: u32,
    agents_gone: u32,
    coordinator: Option<Exit>,
    coordinator_closed: bool,
    ended: Option<(bool, String)>,
    asked: Option<Asked>,
    failures: Vec<(Instant, Cause)>,
}

impl Supervision {
    /// A launch with a running coordinator and this many agents.
    #[must_use]
    pub fn new(agents: u32, grace: Duration) -> Self {
        Self {
            grace,
            stage: Stage::Running,
            deadline: None,
            agents,
            agents_gone: 0,
            coordinator: None,
            coordinator_closed: false,
            ended: None,
            asked: None,
            failures: Vec::new(),
        }
    }

    /// When to come back with [`Happened::Tick`], if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether nothing is left to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::GivenUp || (self.coordinator.is_some() && self.agents_gone >= self.agents)
    }

    /// Whether the processes that are left are being ended by force.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.stage >= Stage::Terminating
    }

    /// Takes in what happened and says what to do.
    pub fn on(&mut self, happened: Happened, now: Instant) -> Vec<Act> {
        match happened {
            Happened::Exited { process, pid, exit, asked, last_lines } => {
                self.exited(process, pid, exit, asked, last_lines, now)
            }
            Happened::CouldNotStart { node, reason } => {
                let reason = format!("node {node}: {reason}");
                self.failed(Cause { process: None, last_lines: Vec::new(), reason: Some(reason) }, now)
            }
            Happened::Ended { failed, reason } => {
                self.ended = Some((failed, reason));
                self.enter(Stage::Settling, SETTLE, now);
                Vec::new()
            }
            Happened::Asked(asked) => self.asked_to_stop(asked, now),
            Happened::Tick => self.tick(now),
        }
    }

    fn exited(
        &mut self,
        process: Process,
        pid: u32,
        exit: Exit,
        asked: bool,
        last_lines: Vec<String>,
        now: Instant,
    ) -> Vec<Act> {
        let cause = Cause { process: Some((process.clone(), pid, exit)), last_lines, reason: None };
        match process {
            Process::Coordinator => {
                self.coordinator = Some(exit);
                let unexpected =
                    self.ended.is_none() && exit.code != Some(0) && !self.is_forced() && !self.coordinator_closed;
                if unexpected {
                    self.failures.push((now, cause));
                }
                self.enter(Stage::Settling, GATHER, now);
                Vec::new()
            }
            Process::Agent(_) => {
                self.agents_gone += 1;
                // An agent's code follows from its trainers', which were reported; only its own death is news.
                let died = exit.signal.is_some() || (exit.code != Some(0) && !self.a_trainer_failed());
                let mut acts = Vec::new();
                let well = matches!(self.ended, Some((false, _)));
                if died && !self.is_forced() && !well && exit.code != Some(crate::child::STOPPED_FOR_ANOTHER) {
                    acts = self.failed(cause, now);
                }
                if self.agents_gone >= self.agents {
                    acts.extend(self.agents_are_gone(now));
                }
                acts
            }
            Process::Trainer { .. } => {
                if exit.is_orderly() || asked || self.is_forced() {
                    Vec::new()
                } else {
                    self.failed(cause, now)
                }
            }
        }
    }

    fn a_trainer_failed(&self) -> bool {
        self.failures
            .iter()
            .any(|(_, cause)| !matches!(cause.process, Some((Process::Coordinator | Process::Agent(_), ..))))
    }

    fn failed(&mut self, cause: Cause, now: Instant) -> Vec<Act> {
        self.failures.push((now, cause));
        self.enter(Stage::Failing, VERDICT, now);
        Vec::new()
    }

    fn agents_are_gone(&mut self, now: Instant) -> Vec<Act> {
        if self.coordinator.is_some() {
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
        if self.asked.replace(asked).is_some() || self.stage >= Stage::Terminating {
            let acts = vec![Act::Say("ending everything at once".into()), Act::KillAll];
            self.enter(Stage::Killing, KILLED, now);
            return acts;
        }
        if self.stage >= Stage::Settling {
            return Vec::new();
        }
        self.enter(Stage::Stopping, self.grace, now);
        let reason = match asked {
            Asked::Interrupt => "the launcher was interrupted (Ctrl-C)",
            Asked::Terminate => "the launcher was asked to end (SIGTERM)",
        };
        vec![
            Act::Say("finishing the step and writing a checkpoint (again to stop at once)".into()),
            Act::AskToStop(reason.into()),
        ]
    }

    fn tick(&mut self, now: Instant) -> Vec<Act> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        let everyone_left = self.agents_gone >= self.agents;
        match self.stage {
            Stage::Failing if everyone_left => self.close_coordinator(now),
            Stage::Failing => {
                self.enter(Stage::Stopping, self.grace, now);
                vec![Act::AskToStop("a process of the run failed".into())]
            }
            Stage::Stopping => {
                let mut acts = vec![Act::Say(format!(
                    "the coordinator did not say within {} s that the run ended; ending all processes",
                    self.grace.as_secs_f64()
                ))];
                acts.extend(self.terminate(now));
                acts
            }
            Stage::Settling if everyone_left => self.close_coordinator(now),
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

    /// Only ever to a harder stage; each has a deadline of its own.
    fn enter(&mut self, stage: Stage, time: Duration, now: Instant) {
        if stage > self.stage {
            self.stage = stage;
            self.deadline = Some(now + time);
        } else if stage == Stage::Settling && self.stage == stage {
            // Both the coordinator's word and its end lead here; the earlier deadline holds.
            self.deadline = Some(self.deadline.map_or(now + time, |before| before.min(now + time)));
        }
    }

    /// What the launch came to.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let cause = self.first_cause();
        let said = self.ended.as_ref().map(|(_, reason)| reason.clone()).filter(|reason| !reason.is_empty());
        let failed = match (&self.ended, self.coordinator) {
            (Some((failed, _)), _) => *failed,
            (None, Some(exit)) => exit.code != Some(0) || cause.is_some(),
            (None, None) => true,
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

    /// The first process that failed of itself.
    fn first_cause(&self) -> Option<Cause> {
        let (first_time, first) = self.failures.first()?;
        let by_code = matches!(first.process, Some((Process::Trainer { .. }, _, exit)) if exit.signal.is_none());
        let behind_it = self.failures.iter().find(|(time, cause)| {
            let whom = match cause.process {
                Some((Process::Coordinator, _, exit)) => exit.signal.is_some(),
                Some((Process::Agent(_), _, exit)) => exit.signal.is_some(),
                _ => false,
            };
            whom && time.duration_since(*first_time) < ECHO
        });
        let cause = if by_code { behind_it.map_or(first, |(_, cause)| cause) } else { first };
        Some(cause.clone())
    }
}

const NO_WORD: &str = "all trainers ended, and the coordinator did not say why";

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Exit = Exit { code: Some(0), signal: None };
    const VICTIM: Exit = Exit { code: Some(3), signal: None };
    const KILL: Exit = Exit { code: None, signal: Some(9) };
    const SEVEN: Exit = Exit { code: Some(7), signal: None };

    fn trainer(rank: u32, exit: Exit) -> Happened {
        exited(Process::Trainer { node: rank / 2, rank }, exit)
    }

    fn exited(process: Process, exit: Exit) -> Happened {
        Happened::Exited { process, pid: 100, exit, asked: false, last_lines: vec!["last".into()] }
    }

    fn ended(failed: bool) -> Happened {
        Happened::Ended { failed, reason: "the coordinator's sentence".into() }
    }

    struct Story {
        machine: Supervision,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { machine: Supervision::new(2, Duration::from_secs(30)), now: Instant::now() }
        }

        fn then(&mut self, happened: Happened) -> Vec<Act> {
            self.now += Duration::from_millis(10);
            self.machine.on(happened, self.now)
        }

        /// Nothing happens until the next deadline.
        fn silence(&mut self) -> Vec<Act> {
            if let Some(deadline) = self.machine.deadline() {
                self.now = deadline;
            }
            self.then(Happened::Tick)
        }

        fn cause(&self) -> Process {
            match self.machine.outcome() {
                Outcome::Failed(Cause { process: Some((process, ..)), .. }) => process,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_run_that_ends_by_itself_is_left_alone() {
        let mut story = Story::new();
        for happened in [
            ended(false),
            trainer(0, OK),
            trainer(1, OK),
            exited(Process::Coordinator, OK),
            exited(Process::Agent(0), OK),
            exited(Process::Agent(1), OK),
        ] {
            assert!(!story.machine.is_over());
            assert_eq!(story.then(happened), []);
        }
        assert!(story.machine.is_over());
        assert_eq!(story.machine.outcome(), Outcome::Ended(Some("the coordinator's sentence".into())));
    }

    #[test]
    fn the_root_cause_is_the_first_that_is_no_victim() {
        let mut story = Story::new();
        story.then(trainer(0, VICTIM));
        story.then(trainer(3, KILL));
        story.then(trainer(2, SEVEN));
        story.then(ended(true));
        story.then(exited(Process::Coordinator, Exit { code: Some(1), signal: None }));
        assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 3 });
        let Outcome::Failed(cause) = story.machine.outcome() else { panic!("not failed") };
        assert_eq!(cause.reason.as_deref(), Some("the coordinator's sentence"));
    }

    #[test]
    fn a_dead_coordinator_is_named_even_if_trainers_fail_a_moment_before_it_is_seen() {
        let mut story = Story::new();
        story.then(trainer(0, SEVEN));
        story.then(exited(Process::Coordinator, KILL));
        assert_eq!(story.cause(), Process::Coordinator);
        assert_eq!(story.silence(), [Act::EndAgents]);
    }

    #[test]
    fn a_dead_agent_is_named() {
        let mut story = Story::new();
        story.then(exited(Process::Agent(1), KILL));
        story.then(ended(true));
        assert_eq!(story.cause(), Process::Agent(1));
    }

    #[test]
    fn an_agent_that_ends_after_its_trainer_failed_is_not_the_cause() {
        let mut story = Story::new();
        story.then(trainer(2, SEVEN));
        story.then(exited(Process::Agent(1), SEVEN));
        assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 2 });
    }

    #[test]
    fn whatever_does_not_end_is_ended_in_bounded_time() {
        let mut story = Story::new();
        let start = story.now;
        story.then(trainer(0, KILL));
        let mut acts = Vec::new();
        while !story.machine.is_over() {
            acts.extend(story.silence());
        }
        assert!(story.now - start < Duration::from_secs(60));
        let place = |act: &Act| acts.iter().position(|other| other == act);
        assert!(matches!(acts[0], Act::AskToStop(_)));
        assert!(place(&Act::EndAgents) < place(&Act::CloseAgents) && place(&Act::CloseAgents) < place(&Act::KillAll));
        assert_eq!(story.cause(), Process::Trainer { node: 0, rank: 0 });
    }

    #[test]
    fn a_stopped_survivor_of_a_failed_run_is_ended_within_seconds() {
        let mut story = Story::new();
        let start = story.now;
        story.then(trainer(0, KILL));
        story.then(ended(true));
        assert_eq!(story.silence(), [Act::EndAgents]);
        assert_eq!(story.silence(), [Act::CloseAgents, Act::CloseCoordinator]);
        assert!(story.now - start < Duration::from_secs(10));
    }

    #[test]
    fn ctrl_c_asks_for_a_checkpoint_and_twice_kills() {
        let mut story = Story::new();
        let acts = story.then(Happened::Asked(Asked::Interrupt));
        assert!(matches!(acts.last(), Some(Act::AskToStop(_))), "{acts:?}");
        assert_eq!(story.then(Happened::Asked(Asked::Interrupt)).last(), Some(&Act::KillAll));
        assert_eq!(story.machine.outcome(), Outcome::Stopped { by: Asked::Interrupt, orderly: false });
    }

    #[test]
    fn an_orderly_stop_is_one_that_the_coordinator_ended() {
        let mut story = Story::new();
        story.then(Happened::Asked(Asked::Terminate));
        story.then(ended(false));
        story.then(exited(Process::Coordinator, OK));
        assert_eq!(story.machine.outcome(), Outcome::Stopped { by: Asked::Terminate, orderly: true });
    }

    #[test]
    fn a_coordinator_that_outlives_all_trainers_is_closed() {
        let mut story = Story::new();
        story.then(exited(Process::Agent(0), OK));
        story.then(exited(Process::Agent(1), OK));
        assert_eq!(story.silence(), [Act::CloseCoordinator]);
        assert_eq!(story.silence(), [Act::KillAll]);
        story.then(exited(Process::Coordinator, KILL));
        assert!(story.machine.is_over());
        assert!(matches!(story.machine.outcome(), Outcome::Failed(Cause { process: None, .. })));
    }
}
