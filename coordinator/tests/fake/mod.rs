//! A run on the disk, and trainers that speak the protocol but compute nothing.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use began::config::RunConfig;
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::coordinator_message::Body as Down;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{
    CheckpointWritten, CoordinatorMessage, Equilibrium, GenerationOpened, Heartbeat, Held, Hello, LaneLosses, Phase,
    SampleWritten, StateDigest, StepLosses, Stop, TensorDigest, TrainerMessage, Welcome,
};
use began_record::{CHECKPOINT_FORMAT, CheckpointState, RunDir, RunManifest};
use coordinator::{Coordinator, Options};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Run {
    folder: tempfile::TempDir,
    pub config: RunConfig,
}

impl Run {
    /// A fresh run of `lanes` lanes over a small data set.
    pub fn new(lanes: u32, change: impl FnOnce(&mut RunConfig)) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let report = began_data::prepare::prepare(&began_data::prepare::Options {
            source: "synthetic:faces".into(),
            out: data.clone(),
            size: 16,
            count: 40,
            samples_per_shard: 10,
            quiet: true,
            ..Default::default()
        })?;
        let mut config = RunConfig::default();
        config.model.size = 16;
        config.data.path = data.to_string_lossy().into_owned();
        config.run.lanes = lanes;
        config.run.batch = 2;
        config.run.steps = 20;
        config.run.checkpoint_every = 8;
        config.run.digest_every = 5;
        config.run.sample_every = 10;
        change(&mut config);
        let manifest = RunManifest::new(&config, report.digest);
        RunDir::create(&folder.path().join("run"), &config, &manifest)?;
        Ok(Self { folder, config })
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn dir(&self) -> Result<RunDir> {
        Ok(RunDir::open(&self.path())?)
    }

    pub fn options(&self, world: u32) -> Options {
        Options {
            run: self.path(),
            listen: "127.0.0.1:0".into(),
            world,
            nodes: None,
            accept_changed_checkpoint: false,
            forming_timeout: PATIENCE,
            journal: true,
        }
    }

    pub async fn coordinator(&self, world: u32) -> Result<Coordinator> {
        Ok(Coordinator::start(&self.options(world)).await?)
    }
}

pub async fn client(address: impl ToString) -> Result<CoordinatorClient<Channel>> {
    Ok(CoordinatorClient::connect(format!("http://{}", address.to_string())).await?)
}

/// What `began::Equilibrium` is on the wire.
fn equilibrium(given: &Equilibrium) -> began::Equilibrium {
    let stall = began::equilibrium::Stall { sum: given.stall_sum, count: given.stall_count, best: given.stall_best };
    began::Equilibrium { step: began::Step(given.step), k: given.k, rate: given.rate, stall }
}

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
        step: None,
    }
}

/// A trainer that computes nothing.
pub struct Trainer {
    pub run: String,
    pub welcome: Welcome,
    pub generation: u64,
    pub opened: Option<GenerationOpened>,
    /// The equilibrium it was last given.
    pub given: Option<Equilibrium>,
    pub leases: usize,
    pub up: mpsc::Sender<TrainerMessage>,
    down: Streaming<CoordinatorMessage>,
    dir: PathBuf,
    config: RunConfig,
}

/// How a trainer's run ended.
#[derive(Debug)]
pub enum End {
    Stop(Stop),
    Lost(String),
}

impl Trainer {
    /// Connects and says hello; the error is the refusal.
    pub async fn join(address: impl ToString, hello: Hello, dir: &Path) -> Result<Self> {
        let (up, sent) = mpsc::channel(64);
        let message = TrainerMessage { run: String::new(), generation: 0, body: Some(Up::Hello(hello)) };
        up.send(message).await?;
        let mut down = client(address).await?.session(ReceiverStream::new(sent)).await?.into_inner();
        let first = tokio::time::timeout(PATIENCE, down.message()).await??.ok_or("closed at once")?;
        let welcome = match first.body {
            Some(Down::Welcome(welcome)) => welcome,
            Some(Down::Refused(refused)) => return Err(refused.reason.into()),
            other => return Err(format!("{other:?}").into()),
        };
        let config = RunConfig::default().overlay(&welcome.config, "welcome")?;
        Ok(Self {
            run: first.run,
            welcome,
            generation: 0,
            opened: None,
            given: None,
            leases: 0,
            up,
            down,
            dir: dir.into(),
            config,
        })
    }

    pub async fn say(&self, body: Up) -> Result {
        let message = TrainerMessage { run: self.run.clone(), generation: self.generation, body: Some(body) };
        Ok(self.up.send(message).await?)
    }

    pub async fn next(&mut self) -> Result<Option<Down>> {
        let message = tokio::time::timeout(PATIENCE, self.down.message()).await.map_err(|_| "nothing came")??;
        let Some(message) = message else {
            return Ok(None);
        };
        if let Some(Down::Opened(opened)) = &message.body {
            self.generation = message.generation;
            self.given = opened.equilibrium;
            self.opened = Some(opened.clone());
        }
        if let Some(Down::Equilibrium(given)) = &message.body {
            self.given = Some(*given);
        }
        if let Some(Down::Lease(_)) = &message.body {
            self.leases += 1;
        }
        Ok(message.body)
    }

    pub async fn beat(&self) -> Result {
        self.say(Up::Heartbeat(Heartbeat { phase: Phase::Compute.into(), phase_seconds: 0.0, step: 0 })).await
    }

    pub fn rank(&self) -> u32 {
        self.opened.as_ref().map_or(0, |opened| opened.rank)
    }

    pub fn lanes(&self) -> std::ops::Range<u32> {
        let world = self.opened.as_ref().map_or(1, |opened| opened.world_size);
        began::lanes::lanes_of(began::Rank(self.rank()), world, self.config.run.lanes)
    }

    pub async fn send_losses(&self, step: u64) -> Result {
        let lanes = self.lanes().map(|lane| losses(step, lane)).collect();
        self.say(Up::Losses(StepLosses { step, lanes, step_seconds: 0.0, waited_seconds: 0.0 })).await
    }

    pub fn write_checkpoint(&self, given: &Equilibrium) -> Result<String> {
        let equilibrium = equilibrium(given);
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

    /// Trains until it is told to stop, or has committed `until` steps.
    pub async fn train(&mut self, until: u64) -> Result<Option<End>> {
        while self.opened.is_none() {
            if let Some(end) = self.step_aside().await? {
                return Ok(Some(end));
            }
        }
        loop {
            let given = self.given.ok_or("no equilibrium")?;
            if given.step >= until {
                return Ok(None);
            }
            self.send_losses(given.step).await?;
            let orders = given.orders.unwrap_or_default();
            while self.given.is_none_or(|now| now.step == given.step) {
                if let Some(end) = self.step_aside().await? {
                    return Ok(Some(end));
                }
            }
            let after = self.given.ok_or("no equilibrium")?;
            if orders.digest {
                let digest = format!("{:016x}", after.k.to_bits() ^ after.step);
                let tensors = match self.rank() {
                    0 => vec![TensorDigest { name: "all".into(), digest: digest.clone() }],
                    _ => vec![],
                };
                self.say(Up::Digest(StateDigest { step: after.step, digest, tensors })).await?;
            }
            if orders.checkpoint && self.rank() == 0 {
                let path = self.write_checkpoint(&after)?;
                let written = CheckpointWritten { step: after.step, path, ..Default::default() };
                self.say(Up::Checkpoint(written)).await?;
            }
            if orders.sample && self.rank() == 0 {
                let path = format!("samples/step-{:08}.png", after.step);
                self.say(Up::Sample(SampleWritten { step: after.step, path, ..Default::default() })).await?;
            }
            if orders.stop {
                loop {
                    if let Some(end) = self.step_aside().await? {
                        return Ok(Some(end));
                    }
                }
            }
        }
    }

    /// Takes one message in that may end everything; answers a halt.
    pub async fn step_aside(&mut self) -> Result<Option<End>> {
        match self.next().await? {
            None => Ok(Some(End::Lost("closed".into()))),
            Some(Down::Stop(stop)) => Ok(Some(End::Stop(stop))),
            Some(Down::Halt(_)) => {
                let step = self.given.map_or(0, |given| given.step);
                self.say(Up::Held(Held { step, losses: vec![] })).await?;
                Ok(None)
            }
            Some(Down::WriteCheckpoint(write)) => {
                let given = write.equilibrium.ok_or("no equilibrium")?;
                let path = self.write_checkpoint(&given)?;
                self.say(Up::Checkpoint(CheckpointWritten { step: given.step, path, ..Default::default() })).await?;
                Ok(None)
            }
            Some(_) => Ok(None),
        }
    }
}
