//! What happens to a launch, what is to be done, and what it comes to.

use std::fmt;
use std::time::Duration;

use crate::child::Exit;

/// Who asked the launcher to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM or SIGHUP.
    Terminate,
}

/// One of the processes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The coordinator.
    Coordinator,
    /// The agent of a node.
    Agent(u32),
    /// A trainer.
    Trainer {
        /// Its node.
        node: u32,
        /// Its rank at the start of the launch.
        rank: u32,
    },
}

/// A process that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Which.
    pub process: Process,
    /// Its id.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// The last lines it wrote.
    pub last_lines: Vec<String>,
}

/// What its agent does about a trainer that ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Then {
    /// Nothing; `asked`: it had asked it to end.
    Nothing {
        /// Whether it had.
        asked: bool,
    },
    /// It starts another.
    Restart {
        /// After this pause.
        pause: Duration,
        /// The how-manieth restart without a step this is.
        attempt: u32,
        /// How many there may be.
        allowed: u32,
    },
    /// It starts nobody in its place any more, for this reason.
    SetAside(String),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Happened {
    /// The coordinator ended.
    CoordinatorEnded(Gone),
    /// An agent ended; `over`: it had no place left to look after, and said so.
    AgentEnded {
        /// Itself.
        agent: Gone,
        /// Its node.
        node: u32,
        /// Whether it had said so.
        over: bool,
    },
    /// A trainer ended.
    TrainerEnded(Gone, Then),
    /// An agent could not start its first trainers.
    CouldNotStart {
        /// The node.
        node: u32,
        /// Why.
        reason: String,
    },
    /// A trainer of this node committed steps.
    Committed {
        /// The node.
        node: u32,
    },
    /// The run took a step.
    Stepped,
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
    /// Start the coordinator again, at the same address.
    StartCoordinator,
    /// Start the agent of a node again.
    StartAgent(u32),
    /// Tell the agents to start no trainer any more.
    RestartNobody,
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

impl Gone {
    /// "trainer 5 (node 1, process 77) was killed by signal 9 (KILL)".
    #[must_use]
    pub fn sentence(&self) -> String {
        end_of(self.process, self.pid, self.exit)
    }
}

/// How a process ended, in a sentence.
#[must_use]
pub fn end_of(process: Process, pid: u32, exit: Exit) -> String {
    let was = if exit.signal.is_some() { "was " } else { "" };
    let name = match process {
        Process::Coordinator => format!("the coordinator (process {pid})"),
        Process::Agent(node) => format!("the agent of node {node} (process {pid})"),
        Process::Trainer { node, rank } => format!("trainer {rank} (node {node}, process {pid})"),
    };
    format!("{name} {was}{exit}")
}

/// A pause before a new start, for people.
pub struct After(pub Duration);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() { f.write_str("at once") } else { write!(f, "in {} s", self.0.as_secs_f64()) }
    }
}
