//! Made-up trainers: each has a connection and a stream of its own, answers what it is asked, and tells when it was told what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began::Step;
use began::diagnosis::Schedule;
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::coordinator_message::Body as Down;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{
    CoordinatorMessage, Heartbeat, Held, Hello, ImageLosses, LaneImages, LaneLosses, PastStep, Phase, Recalled,
    StepLosses, TrainerMessage,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Images of a lane in a step.
const IMAGES: u32 = 16;

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
    /// Which steps the losses of single images are told of, if they are.
    images: Option<Schedule>,
    /// Whether they leave the cores to whoever wants one, after each message.
    gives_way: bool,
    members: BTreeMap<u32, Member>,
    lives: u32,
    seen: (UnboundedSender<Sighting>, UnboundedReceiver<Sighting>),
}

/// Something between 0 and 1 that looks as if it were drawn.
fn noise(step: u64, lane: u32, image: u32) -> f64 {
    let mixed = (step * 0x9e37_79b9 + u64::from(lane) * 0x85eb_ca6b + u64::from(image) * 0xc2b2_ae35 + 1)
        .wrapping_mul(0x2545_f491_4f6c_dd1d);
    (mixed >> 40) as f64 / f64::from(1 << 24)
}

/// The losses of a lane, as of a run that goes well.
fn loss(step: u64, lane: u32) -> LaneLosses {
    let time = step as f64;
    let real = 0.06 + 0.2 * (-time / 400.0).exp() + 0.02 * (noise(step, lane, 0) - 0.5);
    let swing = 1.0 + 0.3 * (time / 60.0).sin() * (-time / 900.0).exp();
    LaneLosses { lane, real, fake: 0.5 * real * swing, drawn: 1 }
}

/// What is told of a lane's images.
fn images(step: u64, lane: u32) -> LaneImages {
    let LaneLosses { real, fake, .. } = loss(step, lane);
    let spread = |mean: f64, from: u32| {
        // Sums of three are nearly normal.
        let draw = |image: u32| (0..3).map(|part| noise(step, lane, from + 3 * image + part)).sum::<f64>() - 1.5;
        (0..IMAGES).map(|image| (mean * (1.0 + 0.3 * draw(image))) as f32).collect()
    };
    LaneImages {
        lane,
        real: spread(real, 1),
        fake: spread(fake, 500),
        values: 768,
        out_of_range: 2,
        inner: 588,
        specks: 1,
    }
}

impl Fleet {
    /// Nobody yet. `images`: whether the losses of single images are told, as trainers do. `gives_way`: a thread that the kernel
    /// has given a core keeps it for up to 4 ms, however low its priority; unless it asks whether somebody else wants it.
    pub(crate) fn new(address: &str, lanes: u32, steps: u64, images: bool, gives_way: bool) -> Self {
        let run = began::config::Run { lanes, steps, ..began::RunConfig::default().run };
        let images = images.then(|| Schedule::of(&run));
        Self {
            address: address.into(),
            lanes,
            images,
            gives_way,
            members: BTreeMap::new(),
            lives: 0,
            seen: unbounded_channel(),
        }
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
        let live = Live {
            place,
            lanes: self.lanes,
            gives_way: self.gives_way,
            up: up.clone(),
            shared: shared.clone(),
            seen: self.seen.0.clone(),
        };
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
            host: format!("node-{:03}", place / 8),
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
        for (place, member) in &self.members {
            self.say_losses_of(*place, member);
        }
    }

    fn say_losses_of(&self, place: u32, member: &Member) {
        let step = Step(member.shared.step.load(Ordering::SeqCst));
        if self.images.is_some_and(|schedule| schedule.measures_losses(step))
            && let Some(message) = member.shared.images()
        {
            let _ = member.up.send(message);
        }
        if let Some(message) = member.shared.losses(place) {
            let _ = member.up.send(message);
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
            let sent = Instant::now();
            self.say_losses_of(last, &held_back);
            self.members.insert(last, held_back);
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
        let phase = Phase::Compute.into();
        self.message(Up::Heartbeat(Heartbeat { phase, step, resident_bytes: 3 << 30, ..Default::default() }))
    }

    /// The losses of its lanes in the step it is in.
    fn losses(&self, place: u32) -> Option<TrainerMessage> {
        let (lanes, step) = self.at()?;
        // One is slow: the others wait for it.
        let slow = place == 77;
        let step_seconds = 0.05 + 0.002 * noise(step, place, 9);
        let waited_seconds = if slow { 0.001 } else { 0.012 + 0.004 * noise(step, place, 10) };
        let lanes = lanes.map(|lane| loss(step, lane)).collect();
        Some(self.message(Up::Losses(StepLosses { step, lanes, step_seconds, waited_seconds })))
    }

    /// What is told of the images in it.
    fn images(&self) -> Option<TrainerMessage> {
        let (lanes, step) = self.at()?;
        Some(self.message(Up::Images(ImageLosses { step, lanes: lanes.map(|lane| images(step, lane)).collect() })))
    }

    /// Its lanes, if it has any, and the step it is in.
    fn at(&self) -> Option<(std::ops::Range<u32>, u64)> {
        let (lanes, step) = (self.lanes.load(Ordering::SeqCst), self.step.load(Ordering::SeqCst));
        let lanes = (lanes >> 32) as u32..lanes as u32;
        (!lanes.is_empty()).then_some((lanes, step))
    }
}

struct Live {
    place: u32,
    lanes: u32,
    gives_way: bool,
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
            if self.gives_way {
                std::thread::yield_now();
            }
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
