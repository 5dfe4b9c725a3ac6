//! The machine's words: what it is told, and what it decides.
//!
//! Nothing here knows protobuf or sockets; [`crate::wire`] translates. No item may carry a time stamp: time is an argument
//! of [`super::Machine::handle`].

use std::fmt;
use std::time::Duration;

use began::{Equilibrium, Generation, Lane, LaneLosses, Rank, Step, StepRecord};
use serde::{Deserialize, Serialize};

/// One session's stream. A trainer that comes back has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What a trainer calls itself: unique for the life of its process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrainerId(pub String);

/// Which question an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

impl fmt::Display for TrainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
        /// When whoever asks for a stop ends everything; zero: never.
        grace: Duration,
    },
    /// Everything ends at once.
    Abort {
        /// Why.
        reason: String,
    },
}

/// What [`Event::Control`] may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A checkpoint after the next step.
    Checkpoint,
    /// A checkpoint after the next step, and the end.
    Stop,
    /// A sample grid after the next step.
    Sample,
    /// Nothing but the reason in the journal.
    Note,
}

/// One message of a trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// The run it means; empty where it does not know yet.
    pub run: String,
    /// The generation it is in.
    pub generation: Generation,
    /// The message itself.
    pub body: Body,
}

/// What a trainer may say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The first message: who it is, and what it brings along.
    Hello(Hello, Box<Returning>),
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
    /// A sample grid was written, or could not be; with how much its samples differ, 0 where that was not measured.
    Sample(Written, f64),
    /// It has left its generation.
    Held {
        /// The state it holds whole.
        step: Option<Step>,
        /// Its last digest, tensor by tensor, if it was asked for.
        digest: Option<Digest>,
        /// How often the run had gone back before that state.
        lineage: u64,
    },
    /// What led to the state it holds.
    Recalled {
        /// Consecutive committed steps, oldest first.
        steps: Vec<Past>,
        /// The equilibria of the held state and the one after it, as far as it was given them.
        given: Vec<Given>,
    },
    /// A sum failed; it has left its generation and waits for the halt.
    Severed(String),
    /// Connected to all peers, and holding the generation's state.
    Ready {
        /// Seconds it took to connect.
        rendezvous: f64,
        /// Seconds it took to get the state.
        heal: f64,
    },
    /// The checkpoint to begin with cannot be used; it has left its generation.
    Unusable(Written),
    /// It cannot go on, by its own fault.
    Failure {
        /// Why.
        reason: String,
        /// Whether any other would fail the same way.
        for_all: bool,
    },
}

/// What a trainer that comes back brings along; all of it is empty in one that was just started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Returning {
    /// The state it holds whole.
    pub step: Option<Step>,
    /// The place it still has in a generation whose group is whole.
    pub claim: Option<Claim>,
    /// The newest equilibrium it was given.
    pub given: Option<Given>,
    /// How often the run had gone back before its state.
    pub lineage: u64,
    /// The first step that it can recall.
    pub remembers: Step,
}

/// A place in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which generation.
    pub generation: Generation,
    /// The rank in it.
    pub rank: Rank,
    /// Its size.
    pub world: u32,
}

/// A committed step as a trainer remembers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// What the step was given, with its orders.
    pub given: Given,
    /// The losses of all lanes, by lane.
    pub losses: Vec<LaneLosses>,
}

/// Who a trainer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// What it does.
    pub activity: Activity,
    /// For how long already.
    pub seconds: f64,
    /// The step it is in.
    pub step: Step,
}

/// The digest of a whole state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The state's step.
    pub step: Step,
    /// BLAKE3 over all of it.
    pub digest: String,
    /// Name and digest of each tensor; rank 0 only.
    pub tensors: Vec<(String, String)>,
}

/// How writing a file went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Of which state.
    pub step: Step,
    /// Why it could not be written; empty if it was.
    pub error: String,
}

/// A decision, and the reason for it in a sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// What is to be done.
    pub act: Act,
    /// Why.
    pub why: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Close a stream without another word.
    Drop(ConnectionId),
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
        /// What tells which samples all lanes drew.
        drawn: u64,
    },
    /// Forget the steps from this one on: they are computed again.
    Rewind(Step),
    /// The run goes back: checkpoints above this step hold a fault, and go. For the journal, before anything else is done.
    Back(Back),
    /// This checkpoint is damaged: put it aside.
    SetAside(Step),
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
    /// These checkpoints may go: the newest is known to be sound.
    Prune(Vec<Step>),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// You are taken in.
    Welcome {
        /// The generation in which the place that was claimed is still there; 0: none.
        generation: Generation,
    },
    /// Your place in a generation.
    Opened(Opened),
    /// The shards you may read.
    Lease(Lease),
    /// What a step needs, and what to do once it is committed.
    Equilibrium(Given),
    /// Leave the generation and say what you hold.
    Halt {
        /// With the last digest, tensor by tensor.
        digest: bool,
    },
    /// Say what led to the state you hold, from this step on.
    Recall(Step),
    /// Write what you hold.
    WriteCheckpoint(Given),
    /// The end.
    Stop {
        /// Whether the run failed.
        failed: bool,
        /// Whether the run goes on without the receiver.
        expelled: bool,
        /// Whether nobody is to take its place.
        set_aside: bool,
    },
}

/// The run goes back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Back {
    /// To this step.
    pub to: Step,
    /// How often it has gone back, this time included.
    pub lineage: u64,
    /// The learning rate from there on, where a guard lowers it.
    pub rate: Option<f64>,
}

/// The place of the receiver in a new generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What is due in the state it begins with.
    pub orders: Orders,
    /// Who gives the state to whom.
    pub heal: Heal,
    /// How often the run has gone back.
    pub lineage: u64,
}

/// The receiver's part in handing the state around.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heal {
    /// Rounds in all.
    pub rounds: u32,
    /// For one that does not hold the state: in which round it gets it, from whom.
    pub from: Option<(u32, Rank)>,
    /// For one that holds it: to whom it gives it, one a round.
    pub to: Vec<Rank>,
}

/// Shards for an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// k, rate and the watch over M_global, for a step.
    pub equilibrium: Equilibrium,
    /// Of the step before; 0 where that is not known.
    pub m_global: f64,
    /// What to do once the step is committed.
    pub orders: Orders,
}

/// What to do in the state after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Digest it.
    pub digest: bool,
    /// Write it.
    pub checkpoint: bool,
    /// Draw a sample grid.
    pub sample: bool,
    /// Hold after it.
    pub stop: bool,
    /// Leave the generation after it: a larger one opens.
    pub regroup: bool,
}
