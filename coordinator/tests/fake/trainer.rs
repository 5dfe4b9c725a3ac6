//! A trainer that computes nothing: it speaks the protocol, says made-up losses, and remembers what led to where it is.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use began::config::RunConfig;
use began_proto::v1::coordinator_message::Body as Down;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{
    CheckpointWritten, CoordinatorMessage, Equilibrium, GenerationOpened, Heartbeat, Held, Hello, LaneLosses, Orders,
    PastStep, Phase, Recalled, SampleWritten, StateDigest, StepLosses, Stop, TensorDigest, TrainerMessage, Welcome,
};
use began_record::{CHECKPOINT_FORMAT, CheckpointState, RunDir};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{PATIENCE, Result, client};

/// Between two heartbeats while nothing else is said.
const BEAT: Duration = Duration::from_millis(100);

/// The losses of a lane in a step: made up, and the same for everyone.
pub fn losses(step: u64, lane: u32) -> LaneLosses {
    let wave = ((step * 31 + u64::from(lane) * 7) % 97) as f64 / 97.0;
    LaneLosses { lane, real: 0.3 + 0.1 * wave, fake: 0.2 + 0.05 * wave, drawn: step }
}

pub fn hello(node: u32, local_rank: u32) -> Hello {
    Hello {
        version: began_proto::VERSION,
        trainer: format!("trainer-{node}-{local_rank}"),
        node,
        local_rank,
        host: "here".into(),
        pid: 1000,
        device: "cpu".into(),
        software: "fake".into(),
        ..Hello::default()
    }
}

/// How a trainer's run ended.
#[derive(Debug)]
pub enum End {
    Stop(Stop),
    Lost(String),
}

/// See the module.
pub struct Trainer {
    pub run: String,
    pub hello: Hello,
    pub welcome: Welcome,
    pub generation: u64,
    pub opened: Option<GenerationOpened>,
    /// The equilibrium it was last given.
    pub given: Option<Equilibrium>,
    /// How long a step takes it, at least.
    pub pace: Duration,
    /// In this step its losses are no numbers, once.
    pub diverges_in: Option<u64>,
    /// The state it holds.
    pub held: Option<u64>,
    pub leases: usize,
    pub up: mpsc::Sender<TrainerMessage>,
    down: Streaming<CoordinatorMessage>,
    /// It is in its generation, and nothing told it to leave.
    working: bool,
    /// It did the last step of its generation.
    stopping: bool,
    /// What is due in the state it holds, before any other step.
    due: Orders,
    /// The step whose losses it said last.
    said: Option<u64>,
    past: BTreeMap<u64, PastStep>,
    /// The last losses, digests and reports, to be said again.
    outbox: BTreeMap<&'static str, VecDeque<Up>>,
    dir: PathBuf,
    config: RunConfig,
}

impl Trainer {
    /// Connects and says hello; the error is the refusal.
    pub async fn join(address: impl ToString, hello: Hello, dir: &Path) -> Result<Self> {
        Self::join_run("", address, hello, dir).await
    }

    /// The same, for one that believes to know which run this is.
    pub async fn join_run(run: &str, address: impl ToString, hello: Hello, dir: &Path) -> Result<Self> {
        let (up, mut down) = greet(run, 0, address, hello.clone()).await?;
        let (run, welcome) = welcomed(&mut down).await?;
        let config = RunConfig::default().overlay(&welcome.config, "welcome")?;
        Ok(Self {
            run,
            hello,
            welcome,
            generation: 0,
            opened: None,
            given: None,
            pace: Duration::ZERO,
            diverges_in: None,
            held: None,
            leases: 0,
            up,
            down,
            working: false,
            stopping: false,
            due: Orders::default(),
            said: None,
            past: BTreeMap::new(),
            outbox: BTreeMap::new(),
            dir: dir.into(),
            config,
        })
    }

    /// Says hello on a new stream, with all it knows, as soon as somebody listens; whether it still has its place.
    pub async fn comes_back(&mut self, address: impl ToString) -> Result<bool> {
        let place = self.opened.clone().filter(|_| self.working).unwrap_or_default();
        let hello = Hello {
            step: self.held,
            generation: if self.working { self.generation } else { 0 },
            rank: place.rank,
            world_size: place.world_size,
            given: self.given,
            lineage: self.opened.as_ref().map_or(0, |opened| opened.lineage),
            remembers: self.past.keys().next().copied().or(self.held).unwrap_or_default(),
            ..self.hello.clone()
        };
        let until = tokio::time::Instant::now() + PATIENCE;
        (self.up, self.down) = loop {
            match greet(&self.run, self.generation, address.to_string(), hello.clone()).await {
                Ok(stream) => break stream,
                Err(error) if tokio::time::Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let (_, welcome) = welcomed(&mut self.down).await?;
        let still = self.working && welcome.generation == self.generation;
        self.welcome = welcome;
        if still {
            for body in self.outbox.values().flatten().cloned().collect::<Vec<_>>() {
                self.say(body).await?;
            }
        } else if self.working {
            self.leave().await?;
        }
        Ok(still)
    }

    /// Says what must not be lost with a stream.
    async fn say_and_keep(&mut self, kind: &'static str, body: Up) -> Result {
        let kept = self.outbox.entry(kind).or_default();
        kept.push_back(body.clone());
        if kept.len() > 2 {
            kept.pop_front();
        }
        self.say(body).await
    }

    pub async fn say(&self, body: Up) -> Result {
        let message = TrainerMessage { run: self.run.clone(), generation: self.generation, body: Some(body) };
        Ok(self.up.send(message).await?)
    }

    /// The next message, taken in; none at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Down>> {
        let until = tokio::time::Instant::now() + PATIENCE;
        let message = loop {
            match tokio::time::timeout(BEAT, self.down.message()).await {
                Ok(message) => break message?,
                Err(_) if tokio::time::Instant::now() > until => return Err("nothing came".into()),
                Err(_) => self.beat().await?,
            }
        };
        let Some(message) = message else {
            return Ok(None);
        };
        match &message.body {
            Some(Down::Opened(opened)) => {
                self.generation = message.generation;
                self.given = opened.equilibrium;
                // Whatever it held, it holds this now: nothing here takes time to receive.
                if self.held != Some(opened.step) {
                    self.past.clear();
                }
                self.past.retain(|step, _| *step < opened.step);
                self.held = Some(opened.step);
                self.due = opened.orders.unwrap_or_default();
                self.opened = Some(opened.clone());
                (self.working, self.stopping, self.said) = (true, false, None);
                self.outbox.retain(|kind, _| *kind == "reports");
            }
            Some(Down::Equilibrium(given)) => self.commit(*given),
            Some(Down::Lease(_)) => self.leases += 1,
            _ => {}
        }
        Ok(message.body)
    }

    /// An equilibrium is the word that all losses are in; with it, its step is committed.
    fn commit(&mut self, next: Equilibrium) {
        let Some(given) = self.given.filter(|given| self.working && given.step < next.step) else {
            return;
        };
        let lanes = (0..self.config.run.lanes).map(|lane| losses(given.step, lane)).collect();
        self.past.insert(given.step, PastStep { equilibrium: Some(given), losses: lanes });
        self.held = Some(next.step);
        self.due = given.orders.unwrap_or_default();
        self.given = Some(next);
    }

    pub async fn beat(&self) -> Result {
        self.say(Up::Heartbeat(Heartbeat { phase: Phase::Compute.into(), ..Default::default() })).await
    }

    pub fn rank(&self) -> u32 {
        self.opened.as_ref().map_or(0, |opened| opened.rank)
    }

    pub fn lanes(&self) -> Range<u32> {
        let world = self.opened.as_ref().map_or(1, |opened| opened.world_size);
        began::lanes::lanes_of(began::Rank(self.rank()), world, self.config.run.lanes)
    }

    pub async fn send_losses(&mut self, step: u64) -> Result {
        self.said = Some(step);
        let diverges = self.diverges_in.take_if(|at| *at == step).is_some();
        let real = |lane: LaneLosses| if diverges { f64::NAN } else { lane.real };
        let lanes = self.lanes().map(|lane| losses(step, lane));
        let lanes = lanes.map(|lane| LaneLosses { real: real(lane), ..lane }).collect();
        let losses = StepLosses { step, lanes, step_seconds: 0.0, waited_seconds: 0.0 };
        self.say_and_keep("losses", Up::Losses(losses)).await
    }

    async fn leave(&mut self) -> Result {
        self.working = false;
        let lineage = self.opened.as_ref().map_or(0, |opened| opened.lineage);
        self.say(Up::Held(Held { step: self.held, digest: None, lineage })).await
    }

    /// Waits for its place in a generation after `last`.
    pub async fn opens_after(&mut self, last: u64) -> Result {
        while self.generation <= last {
            if let Some(end) = self.step_aside().await? {
                return Err(format!("{end:?}").into());
            }
        }
        Ok(())
    }

    /// Trains until it is told to stop, or has committed `until` steps.
    pub async fn train(&mut self, until: u64) -> Result<Option<End>> {
        loop {
            if self.working {
                let due = std::mem::take(&mut self.due);
                self.obey(due).await?;
                self.stopping |= due.stop;
                if due.regroup {
                    self.leave().await?;
                }
            }
            let step = self.given.map_or(0, |given| given.step);
            if self.working && step >= until {
                return Ok(None);
            }
            if self.working && !self.stopping && self.said != Some(step) {
                tokio::time::sleep(self.pace).await;
                self.send_losses(step).await?;
            }
            let held = self.held;
            while self.held == held && self.due == Orders::default() {
                if let Some(end) = self.step_aside().await? {
                    return Ok(Some(end));
                }
                if self.working && self.said.is_none() && !self.stopping {
                    break;
                }
            }
        }
    }

    /// Does what was ordered for the state it holds.
    async fn obey(&mut self, orders: Orders) -> Result {
        let Some(given) = self.given else { return Ok(()) };
        if orders.digest {
            let digest = format!("{:016x}", given.k.to_bits() ^ given.step);
            let tensors = match self.rank() {
                0 => vec![TensorDigest { name: "all".into(), digest: digest.clone() }],
                _ => vec![],
            };
            let digest = StateDigest { step: given.step, digest, tensors };
            self.say_and_keep("digests", Up::Digest(digest)).await?;
        }
        if orders.checkpoint && self.rank() == 0 {
            self.write(&given).await?;
        }
        if orders.sample && self.rank() == 0 {
            let path = format!("samples/step-{:08}.png", given.step);
            self.say(Up::Sample(SampleWritten { step: given.step, path, ..Default::default() })).await?;
        }
        Ok(())
    }

    async fn write(&mut self, given: &Equilibrium) -> Result {
        let path = self.write_checkpoint(given)?;
        let written = CheckpointWritten { step: given.step, path, ..Default::default() };
        self.say_and_keep("reports", Up::Checkpoint(written)).await
    }

    pub fn write_checkpoint(&self, given: &Equilibrium) -> Result<String> {
        let stall =
            began::equilibrium::Stall { sum: given.stall_sum, count: given.stall_count, best: given.stall_best };
        let equilibrium = began::Equilibrium { step: began::Step(given.step), k: given.k, rate: given.rate, stall };
        let state = CheckpointState {
            format: CHECKPOINT_FORMAT,
            run: self.run.clone(),
            equilibrium,
            epoch: 0,
            seed: self.config.run.seed,
            lanes: self.config.run.lanes,
            model: self.config.model,
            carry: 0.0,
            digest: "none".into(),
            files: Default::default(),
        };
        let path = format!("checkpoints/{}", RunDir::step_name(equilibrium.step));
        std::fs::create_dir_all(self.dir.join(&path))?;
        std::fs::write(self.dir.join(&path).join("state.json"), serde_json::to_vec(&state)?)?;
        Ok(path)
    }

    /// Takes one message in, and answers what is to be answered at once; it may end everything.
    pub async fn step_aside(&mut self) -> Result<Option<End>> {
        match self.next().await {
            Err(error) => return Ok(Some(End::Lost(error.to_string()))),
            Ok(None) => return Ok(Some(End::Lost("closed".into()))),
            Ok(Some(Down::Stop(stop))) => return Ok(Some(End::Stop(stop))),
            Ok(Some(Down::Halt(_))) => self.leave().await?,
            Ok(Some(Down::Recall(recall))) => {
                let held = self.held.unwrap_or_default();
                let steps = self.past.range(recall.step.min(held)..held).map(|(_, past)| past.clone()).collect();
                let given = self.given.filter(|given| given.step >= held).into_iter().collect();
                self.say(Up::Recalled(Recalled { steps, given })).await?;
            }
            Ok(Some(Down::WriteCheckpoint(write))) => {
                self.write(&write.equilibrium.ok_or("no equilibrium")?).await?;
            }
            Ok(Some(_)) => {}
        }
        Ok(None)
    }
}

async fn greet(
    run: &str,
    generation: u64,
    address: impl ToString,
    hello: Hello,
) -> Result<(mpsc::Sender<TrainerMessage>, Streaming<CoordinatorMessage>)> {
    let (up, sent) = mpsc::channel(64);
    up.send(TrainerMessage { run: run.into(), generation, body: Some(Up::Hello(hello)) }).await?;
    let down = client(address).await?.session(ReceiverStream::new(sent)).await?.into_inner();
    Ok((up, down))
}

async fn welcomed(down: &mut Streaming<CoordinatorMessage>) -> Result<(String, Welcome)> {
    let first = tokio::time::timeout(PATIENCE, down.message()).await??.ok_or("closed at once")?;
    match first.body {
        Some(Down::Welcome(welcome)) => Ok((first.run, welcome)),
        Some(Down::Refused(refused)) => Err(refused.reason.into()),
        other => Err(format!("{other:?}").into()),
    }
}
