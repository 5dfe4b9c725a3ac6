//! The one task that owns the machine: feeds it events and time, and carries its decisions out.
//!
//! It must never block: messages go into bounded queues (a trainer that does not empty its own counts as lost), records
//! to a thread of their own. What it decides about a run, it decides only through the machine.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use began::Step;
use began_proto::v1::{Ended, Progress, StatusResponse};
use began_record::{DigestRow, Entry, EventRow, Launch, LaunchedTrainer, LeaseRow, StepRow, TensorDigest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::beside::Beside;
use crate::diagnosis::Collector;
use crate::downlink::{Letter, Queue};
use crate::exchange::Exchange;
use crate::history;
use crate::inputs::InputLog;
use crate::machine::{
    Act, Action, Body, Clock, ConnectionId, Decision, Event, Hello, Machine, Message, Note, Said, Ticket,
};
use crate::page::feed::News;
use crate::recorder::{Record, wall_clock};
use crate::spans::Spans;
use crate::wire::{self, Letterhead};

/// A step back waits so long for its place in the journal: rare enough to hold up everything else.
const BACK_WAIT: Duration = Duration::from_secs(2);

/// How long the actor may take to answer a question.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Messages that may wait for one trainer: the leases of a world of tiny epochs, and some.
pub const OUTGOING: usize = 4096;
/// Messages of all trainers that may wait for the machine.
pub const INCOMING: usize = 4096;

/// What the actor is handed.
#[derive(Debug)]
pub enum Input {
    /// A stream that has said hello; comes before that hello.
    Connected(ConnectionId, Outlet),
    /// A trainer's message.
    Said(ConnectionId, Said),
    /// A stream ended.
    Broken(ConnectionId, String),
    /// Somebody asks for something.
    Control {
        /// What.
        action: Action,
        /// Who asks, and why.
        reason: String,
        /// When whoever asks for a stop ends everything; zero: never.
        grace: Duration,
        /// Gets the step after which it is done, or why not.
        reply: oneshot::Sender<Result<Step, String>>,
    },
    /// How does the run stand?
    Status(oneshot::Sender<StatusResponse>),
    /// Something is not recorded.
    Trouble(String),
    /// End everything at once.
    Abort(String),
}

/// The way to one trainer. Dropping it closes the stream.
#[derive(Debug)]
pub struct Outlet {
    /// Its queue.
    pub queue: Queue,
    /// Held for as long as the stream may live.
    pub alive: oneshot::Sender<()>,
}

/// Why the actor gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It ended.
    #[error("the coordinator is shutting down")]
    Gone,
    /// It is busy.
    #[error("no answer within {} s", ANSWER_WAIT.as_secs())]
    Late,
}

/// Asks the actor something, with a bound.
///
/// # Errors
/// If it gives no answer.
pub async fn ask<T>(
    actor: &mpsc::Sender<Input>,
    question: impl FnOnce(oneshot::Sender<T>) -> Input,
) -> Result<T, Unanswered> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        actor.send(question(reply)).await.map_err(|_| Unanswered::Gone)?;
        answer.await.map_err(|_| Unanswered::Gone)
    };
    tokio::time::timeout(ANSWER_WAIT, asked).await.map_err(|_| Unanswered::Late)?
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it failed.
    pub failed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// The last step that is known to be complete.
    pub step: Step,
}

/// What the actor works with.
#[derive(Debug)]
pub struct Actor {
    /// Decides.
    pub machine: Machine,
    /// What stands on every message.
    pub letterhead: Letterhead,
    /// The rendezvous.
    pub exchange: Arc<Exchange>,
    /// Who hears of what happens.
    pub beside: Beside,
    /// Sums up what the trainers tell of single images.
    pub diagnosis: Collector,
    /// Tells spans, where they are asked for.
    pub spans: Option<Spans>,
    /// Keeps what the machine is told, for a replay.
    pub inputs: InputLog,
    /// Which launch of the run this is.
    pub launch: u32,
    /// `run.steps`.
    pub steps: u64,
    /// `run.lanes`.
    pub lanes: u32,
    /// `--world`.
    pub world: u32,
}

impl Actor {
    /// Works until `inputs` close. `outcome` is told as soon as the run ends; questions are answered after that too.
    pub async fn run(self, mut inputs: mpsc::Receiver<Input>, outcome: oneshot::Sender<Outcome>) {
        let mut work = Work {
            tick: self.machine.tick_interval(),
            clock: Clock::new(longest_gap(self.machine.tick_interval())),
            actor: self,
            started: Instant::now(),
            outlets: HashMap::new(),
            replies: HashMap::new(),
            next_ticket: 0,
            ignored: HashMap::new(),
            broken: Vec::new(),
            launched: false,
            world_size: 0,
            outcome: Some(outcome),
        };
        let mut ticks = tokio::time::interval(work.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        work.happen(Event::Started);
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => work.take(input),
                    None => return,
                },
                _ = ticks.tick() => work.happen(Event::Tick),
            }
        }
    }
}

struct Work {
    actor: Actor,
    tick: Duration,
    clock: Clock,
    started: Instant,
    outlets: HashMap<ConnectionId, Outlet>,
    replies: HashMap<Ticket, oneshot::Sender<Result<Step, String>>>,
    next_ticket: u64,
    /// How many messages of a stream were ignored, so that a flood of them does not flood the log.
    ignored: HashMap<ConnectionId, u64>,
    /// Streams that turned out broken while decisions were carried out.
    broken: Vec<(ConnectionId, String)>,
    launched: bool,
    world_size: u32,
    outcome: Option<oneshot::Sender<Outcome>>,
}

impl Work {
    fn take(&mut self, input: Input) {
        match input {
            Input::Connected(connection, outlet) => {
                self.outlets.insert(connection, outlet);
            }
            Input::Said(connection, message) => self.happen(Event::Said { connection, message }),
            Input::Broken(connection, reason) => {
                self.forget(connection);
                self.happen(Event::Broken { connection, reason });
            }
            Input::Control { action, reason, grace, reply } => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.replies.insert(ticket, reply);
                self.happen(Event::Control { ticket, action, reason, grace });
            }
            Input::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Input::Trouble(text) => {
                tracing::warn!("{text}");
                let note = self.note_now("warning");
                self.note(&note, &text);
            }
            Input::Abort(reason) => self.happen(Event::Abort { reason }),
        }
    }

    /// Feeds one event, and whatever carrying its decisions out brings about.
    fn happen(&mut self, event: Event) {
        let hello_from = match &event {
            Event::Said { connection, message: Said { body: Body::Hello(..), .. } } => Some(*connection),
            _ => None,
        };
        let mut event = Some(event);
        while let Some(now) = event.take() {
            let at = self.awake();
            let noted = self.actor.inputs.note(&now, at);
            let decisions = self.actor.machine.handle(now, at);
            self.actor.inputs.decided(noted, &decisions, &self.actor.beside.recorder);
            for decision in decisions {
                self.carry_out(decision);
            }
            event = self.broken.pop().map(|(connection, reason)| Event::Broken { connection, reason });
        }
        if self.actor.machine.has_ended() {
            // Queues drain by themselves; the streams end behind the last message.
            self.outlets.clear();
        }
        if let Some(connection) = hello_from.filter(|_| self.actor.machine.has_ended()) {
            self.forget(connection);
        }
    }

    /// The time awake, in whole microseconds as the journal keeps it.
    fn awake(&mut self) -> Duration {
        let awake = self.clock.at(self.started.elapsed());
        Duration::from_micros(awake.as_micros() as u64)
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.outlets.remove(&connection);
        self.ignored.remove(&connection);
    }

    fn carry_out(&mut self, Decision { act, why }: Decision) {
        let time = wall_clock();
        match act {
            Act::Send { to, message } => self.send(&to, &message, &why),
            Act::Refuse(connection) => {
                tracing::warn!("refused: {why}");
                if let Some(outlet) = self.outlets.remove(&connection) {
                    let _ = outlet.queue.try_send(Letter::of(&self.actor.letterhead.refusal(&why)));
                }
                self.forget(connection);
            }
            Act::Ignore(connection) => {
                let times = self.ignored.entry(connection).or_default();
                *times += 1;
                if times.is_power_of_two() {
                    tracing::warn!(times, "ignored: {why}");
                }
            }
            Act::Drop(connection) => {
                tracing::debug!(connection = connection.0, "{why}");
                self.forget(connection);
            }
            Act::Open { generation, step, world } => {
                let names = world.iter().map(|hello| hello.trainer.0.clone());
                self.actor.exchange.open(generation.0, names);
                self.actor.beside.recorder.record(Record::Now);
                if let Some(spans) = &mut self.actor.spans {
                    spans.opened(generation.0, step.0, world.len(), &why);
                }
                self.world_size = world.len() as u32;
                if !std::mem::replace(&mut self.launched, true) {
                    self.actor.beside.recorder.record(Record::Launch(launch(time, step, &world)));
                }
            }
            Act::Close(_) => {
                self.actor.exchange.close();
                if let Some(spans) = &mut self.actor.spans {
                    spans.closed(&why);
                }
            }
            Act::Step { record, generation, seconds, images_per_second, drawn } => {
                tracing::debug!("{why}");
                let row = StepRow { record, generation: generation.0, seconds, time, drawn };
                self.actor.beside.recorder.record(Record::Entry(Entry::Step(row)));
                self.actor.diagnosis.step(record);
                if let Some(spans) = &mut self.actor.spans {
                    spans.step(&record, seconds, images_per_second);
                }
                self.actor.beside.page.tell(|| News::Step(row, images_per_second));
                self.actor.beside.watchers.progress(Progress {
                    step: record.step.next().0,
                    steps: self.actor.steps,
                    real: record.real,
                    fake: record.fake,
                    k: record.k,
                    m_global: record.m_global,
                    rate: record.rate,
                    images_per_second,
                    world_size: self.world_size,
                });
            }
            Act::Note(note) => {
                match note.kind {
                    "warning" | "lost" | "corruption" | "guard" => tracing::warn!("{why}"),
                    kind => tracing::info!(kind, "{why}"),
                }
                self.note(&note, &why);
                if let Some(spans) = &mut self.actor.spans {
                    spans.happened(note.kind, &why);
                }
            }
            Act::Digest(digest) => {
                let tensors = digest.tensors.into_iter().map(|(name, digest)| TensorDigest { name, digest }).collect();
                let (step, launch) = (digest.step.0, self.actor.launch);
                let row = DigestRow { step, launch, digest: digest.digest, tensors };
                self.actor.beside.recorder.record(Record::Entry(Entry::Digest(row)));
            }
            Act::Lease { rank, generation, lease } => {
                tracing::debug!("{why}");
                let row = LeaseRow {
                    generation: generation.0,
                    epoch: lease.epoch,
                    rank: rank.0,
                    first_step: lease.first_step.0,
                    end_step: lease.end_step.0,
                    shards: lease.shards,
                };
                self.actor.beside.recorder.record(Record::Entry(Entry::Lease(row)));
            }
            Act::Sample(step) => self.actor.beside.recorder.record(Record::Sample(step)),
            Act::Prune(steps) => self.actor.beside.recorder.record(Record::Prune(steps)),
            Act::Back(back) => {
                tracing::warn!("{why}");
                // In the journal before the checkpoints go, and before any trainer is told of what follows: a coordinator that
                // starts in between must know of it.
                let note = Note { step: back.to, ..self.note_now("back") };
                self.note(&note, &history::tell(&back));
                self.actor.diagnosis.back(back.lineage);
                if !self.actor.beside.recorder.sync(BACK_WAIT) {
                    let limit = BACK_WAIT.as_secs();
                    tracing::warn!(
                        "that the run goes back is not in the journal within {limit} s, and it goes on all the same"
                    );
                }
                self.actor.beside.recorder.record(Record::Discard(back.to));
            }
            Act::SetAside(step) => self.actor.beside.recorder.record(Record::SetAside(step)),
            Act::Rewind(step) => {
                tracing::debug!("{why}");
                self.actor.beside.recorder.record(Record::Entry(Entry::Rewind(step)));
                self.actor.diagnosis.rewind(step);
                self.actor.beside.page.tell(|| News::Rewind(step));
            }
            Act::Answer { ticket, answer } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    let _ = reply.send(answer);
                }
            }
            Act::End { failed, step } => {
                let ended = Ended { failed, reason: why.clone(), step: step.0 };
                self.actor.beside.page.tell(|| News::Ended(ended.clone()));
                self.actor.beside.watchers.ended(ended);
                if let Some(spans) = &mut self.actor.spans {
                    spans.ended(&why, failed);
                }
                if let Some(outcome) = self.outcome.take() {
                    let _ = outcome.send(Outcome { failed, reason: why, step });
                }
            }
        }
    }

    fn send(&mut self, to: &[ConnectionId], message: &Message, why: &str) {
        let letter = Letter::of(&self.actor.letterhead.message(self.actor.machine.generation(), message, why));
        for connection in to {
            let Some(outlet) = self.outlets.get(connection) else {
                continue;
            };
            let reason = match outlet.queue.try_send(letter.clone()) {
                Ok(()) => continue,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    format!("it left {OUTGOING} messages unread")
                }
                Err(mpsc::error::TrySendError::Closed(_)) => "its stream is closed".to_owned(),
            };
            self.outlets.remove(connection);
            self.broken.push((*connection, reason));
        }
    }

    fn note(&self, note: &Note, text: &str) {
        let time = wall_clock();
        let Note { kind, step, generation, rank, node } = *note;
        let rank = rank.map(|rank| rank.0);
        self.actor.beside.note(EventRow {
            time,
            kind: kind.into(),
            text: text.into(),
            step: step.0,
            generation: generation.0,
            rank,
            node,
        });
    }

    fn note_now(&mut self, kind: &'static str) -> Note {
        let now = self.awake();
        let status = self.actor.machine.status(now);
        Note { kind, step: status.step, generation: status.generation, rank: None, node: None }
    }

    fn status(&mut self) -> StatusResponse {
        let (uptime, now) = (self.started.elapsed(), self.awake());
        StatusResponse {
            run: self.actor.letterhead.run.clone(),
            steps: self.actor.steps,
            lanes: self.actor.lanes,
            expected_trainers: self.actor.world,
            progress: self.actor.beside.watchers.newest(),
            uptime_seconds: uptime.as_secs_f64(),
            ..wire::status(self.actor.machine.status(now))
        }
    }
}

/// A longer time between two ticks is the coordinator's own absence, and nobody else's silence.
fn longest_gap(tick: Duration) -> Duration {
    (10 * tick).max(Duration::from_millis(250))
}

fn launch(time: f64, from: Step, world: &[Hello]) -> Launch {
    let nodes: BTreeSet<u32> = world.iter().map(|hello| hello.node).collect();
    let trainer = |(rank, hello): (u32, &Hello)| LaunchedTrainer {
        rank,
        node: hello.node,
        host: hello.host.clone(),
        device: hello.device.clone(),
        software: hello.software.clone(),
    };
    Launch {
        time: time as u64,
        nodes: nodes.len() as u32,
        world: world.len() as u32,
        from_step: from.0,
        trainers: (0..).zip(world).map(trainer).collect(),
    }
}
