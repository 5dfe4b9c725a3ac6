//! A run on the disk, and trainers that speak the protocol but compute nothing.

#![allow(dead_code)]

use std::path::PathBuf;
use std::time::Duration;

use began::LaneLosses;
use began::config::RunConfig;
use began_proto::v1::Stop;
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_record::{Journal, RunDir, RunManifest};
use coordinator::{Coordinator, Options, Outcome};
use tonic::transport::Channel;

pub mod process;
pub mod trainer;

pub use trainer::{End, Trainer, hello, losses};

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
            http: None,
            listen: "127.0.0.1:0".into(),
            credentials: Default::default(),
            world,
            nodes: None,
            accept_changed_checkpoint: false,
            forming_timeout: PATIENCE,
            journal: true,
        }
    }

    /// The journal has every step from `from` to the end once, exactly as the pure function gives it.
    pub fn journal_is_exact_from(&self, from: u64) -> Result {
        let steps = Journal::read(&self.dir()?)?.steps()?;
        let mut expected = began::Equilibrium::start(&self.config.optimizer);
        let mut rows = steps.iter().filter(|row| row.record.step.0 >= from);
        for step in 0..self.config.run.steps {
            let lanes = (0..self.config.run.lanes).map(|lane| losses(step, lane));
            let lanes: Vec<LaneLosses> =
                lanes.map(|lane| LaneLosses { real: lane.real, fake: lane.fake, drawn: lane.drawn }).collect();
            let (next, record) = expected.advance(&self.config.objective, &self.config.optimizer, &lanes)?;
            if step >= from && rows.next().map(|row| row.record) != Some(record) {
                return Err(format!("step {step} is not in the journal as it should be").into());
            }
            expected = next;
        }
        if rows.next().is_some() { Err("there are more steps in the journal than in the run".into()) } else { Ok(()) }
    }

    pub fn events(&self, kind: &str) -> Result<Vec<String>> {
        let events = Journal::read(&self.dir()?)?.events()?;
        Ok(events.into_iter().filter(|event| event.kind == kind).map(|event| event.text).collect())
    }

    pub async fn coordinator(&self, world: u32) -> Result<Coordinator> {
        Ok(Coordinator::start(&self.options(world)).await?)
    }
}

pub async fn client(address: impl ToString) -> Result<CoordinatorClient<Channel>> {
    Ok(CoordinatorClient::connect(format!("http://{}", address.to_string())).await?)
}

/// The outcome of a run that is over, or nearly.
pub async fn ended(coordinator: Coordinator) -> Result<Outcome> {
    Ok(tokio::time::timeout(2 * PATIENCE, coordinator.finished()).await?)
}

/// The stop that a trainer was told.
pub fn stopped(end: Option<End>) -> Result<Stop> {
    match end {
        Some(End::Stop(stop)) => Ok(stop),
        other => Err(format!("{other:?}").into()),
    }
}
