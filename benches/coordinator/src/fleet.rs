//! Made-up trainers: each has a connection and a stream of its own, answers what it is asked, and tells when it was told what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::coordinator_message::Body as Down;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{
    CoordinatorMessage, Heartbeat, Held, Hello, LaneLosses, PastStep, Phase, Recalled, StepLosses, TrainerMessage,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a trainer was told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    Opened(u64),
    Halt,
    Equilibrium,
}

/// Who was told what, when.
type Sighting = (u32, Seen, Instant);

/// One made-up trainer's end.
struct Member {
    up: UnboundedSender<TrainerMessage>,
    task: tokio::task::JoinHandle<()>,
    shared: Arc<Shared>,
}

/// What its task and the bench both see.
#[derive(Default)]
struct Shared {
    run: std::sync::Mutex<String>,
    generation: AtomicU64,
    lanes: AtomicU64,
    step: AtomicU64,
    silent: AtomicBool,
    given: std::sync::Mutex<Option<began_proto::v1::Equilibrium>>,
}

/// All of them.
pub(crate) struct Fleet {
    address: String,
    lanes: u32,
    members: BTreeMap<u32, Member>,
    lives: u32,
    seen: (UnboundedSender<Sighting>, UnboundedReceiver<Sighting>),
}

fn loss(step: u64, lane: u32) -> LaneLosses {
    let wave = ((step * 31 + u64::from(lane) * 7) % 97) as f64 / 97.0;
    LaneLosses { lane, real: 0.3 + 0.1 * wave, fake: 0.2 + 0.05 * wave, drawn: 1 }
}

impl Fleet {
    pub(crate) fn new(address: &str, lanes: u32) -> Self {
        Self { address: address.into(), lanes, members: BTreeMap::new(), lives: 0, seen: unbounded_channel() }
    }

    /// Connects and says hello; returns once it is let in.
    pub(crate) async fn connect(&mut self, place: u32) -> Result<()> {
        self.prepare(place).await?;
        self.hello(place)
    }

    /// Opens the stream, and says nothing yet.
    pub(crate) async fn prepare(&mut self, place: u32) -> Result<()> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?.tcp_nodelay(true);
        let channel = endpoint.connect().await?;
        let mut client = CoordinatorClient::new(channel).max_decoding_message_size(began_proto::MAX_MESSAGE);
        let (up, sent) = unbounded_channel();
        let down = client.session(UnboundedReceiverStream::new(sent)).await?.into_inner();
        let shared = Arc::new(Shared::default());
        let live = Live { place, lanes: self.lanes, up: up.clone(), shared: shared.clone(), seen: self.seen.0.clone() };
        let task = tokio::spawn(live.listen(down));
        self.members.insert(place, Member { up, task, shared });
        Ok(())
    }

    pub(crate) fn hello(&mut self, place: u32) -> Result<()> {
        self.lives += 1;
        let member = self.members.get(&place).context("no such trainer")?;
        let hello = Hello {
            version: began_proto::VERSION,
            trainer: format!("bench {place} {}", self.lives),
            node: place / 8,
            local_rank: place % 8,
            host: "here".into(),
            pid: self.lives,
            device: "made up".into(),
            software: "made up".into(),
            ..Hello::default()
        };
        member.up.send(TrainerMessage { run: String::new(), generation: 0, body: Some(Up::Hello(hello)) })?;
        Ok(())
    }

    pub(crate) fn drop_stream(&mut self, place: u32) {
        if let Some(member) = self.members.remove(&place) {
            member.task.abort();
        }
    }

    /// From now on this one sends nothing; since when nothing was heard of it, at the earliest.
    pub(crate) fn silence(&mut self, place: u32) -> Instant {
        if let Some(member) = self.members.get(&place) {
            member.shared.silent.store(true, Ordering::SeqCst);
            // Heard for the last time now.
            let _ = member.up.send(member.shared.heartbeat());
        }
        Instant::now()
    }

    /// Puts another in the place of one that is silent.
    pub(crate) async fn replace(&mut self, place: u32) -> Result<()> {
        self.drop_stream(place);
        self.connect(place).await
    }

    async fn next(&mut self) -> Result<Sighting> {
        let next = tokio::time::timeout(PATIENCE, self.seen.1.recv()).await;
        next.context("nothing came for a minute")?.context("nobody is left")
    }

    /// When the last of `count` was told of the generation.
    pub(crate) async fn all_opened(&mut self, generation: u64, count: usize) -> Result<Instant> {
        let mut told = 0;
        loop {
            let (_, seen, at) = self.next().await?;
            if seen.opens(generation) {
                told += 1;
                if told == count {
                    return Ok(at);
                }
            }
        }
    }

    /// When the first was halted.
    pub(crate) async fn first_halt(&mut self) -> Result<Instant> {
        loop {
            let (_, seen, at) = self.next().await?;
            if matches!(seen, Seen::Halt) {
                return Ok(at);
            }
        }
    }

    fn say_losses(&self) {
        for member in self.members.values() {
            if let Some(message) = member.shared.losses() {
                let _ = member.up.send(message);
            }
        }
    }

    /// Steps at that pace; how long each answer took, from the last losses sent to the last one told.
    pub(crate) async fn steps(&mut self, pace: u64, time: Duration) -> Result<Vec<Duration>> {
        let mut answers = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / pace.max(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let began = Instant::now();
        while began.elapsed() < time {
            ticks.tick().await;
            // All but one have said theirs; the last one's losses make the step complete.
            let last = *self.members.keys().next_back().context("no trainers")?;
            let held_back = self.members.remove(&last).context("no trainers")?;
            self.say_losses();
            tokio::time::sleep(Duration::from_millis(8)).await;
            let message = held_back.shared.losses().context("a trainer without a place")?;
            self.members.insert(last, held_back);
            let sent = Instant::now();
            self.members[&last].up.send(message)?;
            let answer = self.all_answered().await?;
            answers.push(answer - sent);
        }
        Ok(answers)
    }

    async fn all_answered(&mut self) -> Result<Instant> {
        let mut told = 0;
        loop {
            let (_, seen, at) = self.next().await?;
            match seen {
                Seen::Equilibrium => told += 1,
                Seen::Opened(generation) => bail!("generation {generation} was opened in the middle of a step"),
                Seen::Halt => bail!("the generation was halted in the middle of a step"),
            }
            if told == self.members.len() {
                return Ok(at);
            }
        }
    }

    /// Goes on with steps until the generation of that many opens; when the last was told.
    pub(crate) async fn grow(&mut self, generation: u64, count: usize) -> Result<Instant> {
        let mut told = 0;
        let began = Instant::now();
        self.say_losses();
        let mut answered = 0;
        while began.elapsed() < PATIENCE {
            let next = tokio::time::timeout(Duration::from_millis(100), self.seen.1.recv()).await;
            let Ok(Some((_, seen, at))) = next else {
                self.say_losses();
                continue;
            };
            match seen {
                Seen::Opened(opened) if opened == generation => {
                    told += 1;
                    if told == count {
                        return Ok(at);
                    }
                }
                Seen::Equilibrium => {
                    answered += 1;
                    if answered == count - 1 {
                        answered = 0;
                        self.say_losses();
                    }
                }
                _ => {}
            }
        }
        bail!("generation {generation} did not open within a minute")
    }
}

impl Shared {
    fn message(&self, body: Up) -> TrainerMessage {
        let run = self.run.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        TrainerMessage { run, generation: self.generation.load(Ordering::SeqCst), body: Some(body) }
    }

    fn heartbeat(&self) -> TrainerMessage {
        let step = self.step.load(Ordering::SeqCst);
        self.message(Up::Heartbeat(Heartbeat { phase: Phase::Compute.into(), step, ..Default::default() }))
    }

    /// The losses of its lanes in the step it is in.
    fn losses(&self) -> Option<TrainerMessage> {
        let (lanes, step) = (self.lanes.load(Ordering::SeqCst), self.step.load(Ordering::SeqCst));
        let lanes = (lanes >> 32) as u32..lanes as u32;
        if lanes.is_empty() {
            return None;
        }
        let losses = StepLosses { step, lanes: lanes.map(|lane| loss(step, lane)).collect(), ..Default::default() };
        Some(self.message(Up::Losses(losses)))
    }
}

struct Live {
    place: u32,
    lanes: u32,
    up: UnboundedSender<TrainerMessage>,
    shared: Arc<Shared>,
    seen: UnboundedSender<Sighting>,
}

impl Live {
    async fn listen(self, mut down: tonic::Streaming<CoordinatorMessage>) {
        let mut beats = tokio::time::interval(Duration::from_millis(1_250));
        // Not all at once.
        beats.reset_after(Duration::from_millis(1_250 * u64::from(self.place % 97) / 97 + 1));
        loop {
            let message = tokio::select! {
                received = down.message() => match received {
                    Ok(Some(message)) => message,
                    _ => return,
                },
                _ = beats.tick() => {
                    if !self.shared.silent.load(Ordering::SeqCst) {
                        let _ = self.up.send(self.shared.heartbeat());
                    }
                    continue;
                }
            };
            if self.shared.silent.load(Ordering::SeqCst) {
                continue;
            }
            self.take(message);
        }
    }

    fn take(&self, message: CoordinatorMessage) {
        let now = Instant::now();
        let tell = |seen| {
            // A bench that is over listens no more.
            let _ = self.seen.send((self.place, seen, now));
        };
        match message.body {
            Some(Down::Welcome(_)) => {
                *self.shared.run.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = message.run;
            }
            Some(Down::Opened(opened)) => {
                let lanes = began::lanes::lanes_of(began::Rank(opened.rank), opened.world_size, self.lanes);
                self.shared.generation.store(message.generation, Ordering::SeqCst);
                self.shared.lanes.store((u64::from(lanes.start) << 32) | u64::from(lanes.end), Ordering::SeqCst);
                self.shared.step.store(opened.step, Ordering::SeqCst);
                *self.shared.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = opened.equilibrium;
                // Told last: who hears of it asks for the losses of a place that is then known.
                tell(Seen::Opened(message.generation));
            }
            Some(Down::Equilibrium(given)) => {
                let before = self.shared.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(given);
                let regroups = before.and_then(|given| given.orders).is_some_and(|orders| orders.regroup);
                self.shared.step.store(given.step, Ordering::SeqCst);
                tell(Seen::Equilibrium);
                if regroups {
                    self.held();
                }
            }
            Some(Down::Halt(_)) => {
                tell(Seen::Halt);
                self.held();
            }
            Some(Down::Recall(_)) => {
                let given = *self.shared.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                // What it holds it was given; no step before is asked for in this bench.
                let recalled = Recalled { steps: Vec::<PastStep>::new(), given: given.into_iter().collect() };
                let _ = self.up.send(self.shared.message(Up::Recalled(recalled)));
            }
            _ => {}
        }
    }

    fn held(&self) {
        self.shared.lanes.store(0, Ordering::SeqCst);
        let step = Some(self.shared.step.load(Ordering::SeqCst));
        let _ = self.up.send(self.shared.message(Up::Held(Held { step, ..Held::default() })));
    }
}
