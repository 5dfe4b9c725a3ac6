//! The machine's words: what it is told, and what it decides.
//!
//! Nothing here knows protobuf or sockets; [`crate::wire`] translates. No item may carry a time stamp: time is an argument
//! of [`super::Machine::handle`].

use std::fmt;

use began::{Equilibrium, Generation, Lane, LaneLosses, Rank, Step, StepRecord};

/// One session's stream. A trainer that comes back has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What a trainer calls itself: unique for the life of its process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrainerId(pub String);

/// Which question an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl fmt::Display for TrainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event of all.
    Started,
    /// A trainer said something.
    Said {
        /// On which stream.
        connection: ConnectionId,
        /// What.
        message: Said,
    },
    /// A stream ended, by itself or with an error.
    Broken {
        /// Which.
        connection: ConnectionId,
        /// The transport's words.
        reason: String,
    },
    /// Time passes; comes every [`super::Machine::tick_interval`].
    Tick,
    /// Somebody asks for something.
    Control {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What is asked.
        action: Action,
        /// Who asks and why.
        reason: String,
    },
    /// Everything ends at once.
    Abort {
        /// Why.
        reason: String,
    },
}

/// What [`Event::Control`] may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A checkpoint after the next step.
    Checkpoint,
    /// A checkpoint after the next step, and the end.
    Stop,
    /// A sample grid after the next step.
    Sample,
}

/// One message of a trainer.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The run it means; empty where it does not know yet.
    pub run: String,
    /// The generation it is in.
    pub generation: Generation,
    /// The message itself.
    pub body: Body,
}

/// What a trainer may say.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The first message.
    Hello(Hello),
    /// The losses of its lanes in a step.
    Losses {
        /// Which step.
        step: Step,
        /// By lane.
        lanes: Vec<(Lane, LaneLosses)>,
    },
    /// It is alive.
    Heartbeat(Heartbeat),
    /// The digest of the state it holds.
    Digest(Digest),
    /// A checkpoint was written, or could not be.
    Checkpoint(Written),
    /// A sample grid was written, or could not be.
    Sample(Written),
    /// What it holds after a halt.
    Held {
        /// The committed steps behind the state.
        step: Step,
        /// The losses of all lanes in the step before.
        losses: Vec<(Lane, LaneLosses)>,
    },
    /// It cannot go on, by its own fault.
    Failure(String),
}

/// Who a trainer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the protocol.
    pub version: u32,
    /// Its name.
    pub trainer: TrainerId,
    /// Index of its node.
    pub node: u32,
    /// Its index on the node.
    pub local_rank: u32,
    /// The node's name.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// "cpu" or the GPU's name.
    pub device: String,
    /// Versions of trainer and libtorch.
    pub software: String,
}

/// What a trainer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// It has not said.
    #[default]
    Unknown,
    /// Opening data, building networks.
    Starting,
    /// Waiting for peers to connect.
    Rendezvous,
    /// Computing.
    Compute,
    /// Waiting for a batch.
    Data,
    /// Waiting for peers in a sum.
    Reduce,
    /// Waiting for the coordinator.
    Equilibrium,
    /// Writing a checkpoint or samples.
    Write,
    /// Outside a generation.
    Idle,
}

impl Activity {
    /// Whether the trainer is busy by itself, rather than waiting for others.
    #[must_use]
    pub fn is_own(self) -> bool {
        matches!(self, Self::Unknown | Self::Starting | Self::Compute | Self::Data | Self::Write)
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "in an unknown phase",
            Self::Starting => "starting",
            Self::Rendezvous => "waiting for its peers to connect",
            Self::Compute => "computing",
            Self::Data => "waiting for data",
            Self::Reduce => "waiting for its peers in a sum",
            Self::Equilibrium => "waiting for the coordinator",
            Self::Write => "writing",
            Self::Idle => "idle",
        })
    }
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heartbeat {
    /// What it does.
    pub activity: Activity,
    /// For how long already.
    pub seconds: f64,
    /// The step it is in.
    pub step: Step,
}

/// The digest of a whole state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The state's step.
    pub step: Step,
    /// BLAKE3 over all of it.
    pub digest: String,
    /// Name and digest of each tensor; rank 0 only.
    pub tensors: Vec<(String, String)>,
}

/// How writing a file went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of which state.
    pub step: Step,
    /// Why it could not be written; empty if it was.
    pub error: String,
}

/// A decision, and the reason for it in a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is to be done.
    pub act: Act,
    /// Why.
    pub why: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Send a message to these.
    Send {
        /// To whom.
        to: Vec<ConnectionId>,
        /// What.
        message: Message,
    },
    /// Send the reason to a peer that is not taken in, and close its stream.
    Refuse(ConnectionId),
    /// Drop a message that changes nothing; the reason names it.
    Ignore(ConnectionId),
    /// Open the rendezvous of a new generation.
    Open {
        /// Its number.
        generation: Generation,
        /// The step it goes on from.
        step: Step,
        /// Its trainers in rank order.
        world: Vec<Hello>,
    },
    /// Close the rendezvous of the generation.
    Close(Generation),
    /// Keep a finished step.
    Step {
        /// Losses, k, rate, M_global.
        record: StepRecord,
        /// The generation that computed it.
        generation: Generation,
        /// How long it took.
        seconds: f64,
        /// Images a second, over the last steps.
        images_per_second: f64,
    },
    /// Keep an event; the reason is its text.
    Note(Note),
    /// Keep the digest on which all trainers agree.
    Digest(Digest),
    /// Keep a lease.
    Lease {
        /// To whom.
        rank: Rank,
        /// In which generation.
        generation: Generation,
        /// Which shards for what.
        lease: Lease,
    },
    /// A sample grid is there.
    Sample(Step),
    /// Old checkpoints may go: the newest is known to be sound.
    Prune,
    /// Answer a control request.
    Answer {
        /// Which.
        ticket: Ticket,
        /// The step after which it is done, or why not.
        answer: Result<Step, String>,
    },
    /// The run is over; comes exactly once, last.
    End {
        /// Whether it failed.
        failed: bool,
        /// The last step that is known to be complete.
        step: Step,
    },
}

/// Something for the journal and the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// "joined", "generation", "lost", "checkpoint", ...
    pub kind: &'static str,
    /// The step the run is in.
    pub step: Step,
    /// The generation it is in.
    pub generation: Generation,
    /// Whom it is about.
    pub rank: Option<Rank>,
    /// Which node it is about.
    pub node: Option<u32>,
}

/// A message to a trainer.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// You are taken in.
    Welcome,
    /// Your place in a generation.
    Opened(Opened),
    /// The shards you may read.
    Lease(Lease),
    /// What a step needs, and what to do once it is committed.
    Equilibrium(Given),
    /// Leave the generation and say what you hold.
    Halt,
    /// Write what you hold.
    WriteCheckpoint(Given),
    /// The end.
    Stop {
        /// Whether the run failed.
        failed: bool,
    },
}

/// A place in a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// How many trainers.
    pub world_size: u32,
    /// The receiver's place.
    pub rank: Rank,
    /// The checkpoint to go on from, relative to the run; empty at step 0.
    pub checkpoint: String,
    /// Go on from it even if its hashes are wrong.
    pub accept_changed_checkpoint: bool,
    /// What the first step needs.
    pub given: Given,
}

/// Shards for an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which epoch.
    pub epoch: u64,
    /// First step that draws from it.
    pub first_step: Step,
    /// First step that does not any more.
    pub end_step: Step,
    /// Indices of the shards.
    pub shards: Vec<u32>,
}

/// An equilibrium as it is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// k, rate and the watch over M_global, for a step.
    pub equilibrium: Equilibrium,
    /// Of the step before; 0 where that is not known.
    pub m_global: f64,
    /// What to do once the step is committed.
    pub orders: Orders,
}

/// What to do in the state after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Digest it.
    pub digest: bool,
    /// Write it.
    pub checkpoint: bool,
    /// Draw a sample grid.
    pub sample: bool,
    /// Hold after it.
    pub stop: bool,
}
