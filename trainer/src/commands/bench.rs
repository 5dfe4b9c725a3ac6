//! `trainer bench`: how fast the training loop is, alone and with a coordinator, in rounds that take turns.
//!
//! It is the loop of training itself, data and all, on one trainer; nothing is left out that a step of a run does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use began::config::Model;
use began::{Equilibrium, RunConfig, network};
use began_data::{Manifest, prepare};
use began_proto::v1 as wire;
use began_record::{RunDir, RunManifest};
use began_session::News;
use tch::Device;

use crate::coordination::{Alone, Coordination};
use crate::device::{self, DeviceChoice};
use crate::feed::Feed;
use crate::reduce::{Place, Reducer};
use crate::reduction_thread::ReductionThread;
use crate::session::{Incoming, Session, from_wire};
use crate::state::State;
use crate::training::{Generation, Trainer};

/// Time the step of training.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Height and width of the images.
    #[arg(long, default_value_t = 64)]
    size: u32,
    /// n, channels.
    #[arg(long, default_value_t = 32)]
    filters: u32,
    /// h, length of the noise.
    #[arg(long, default_value_t = 64)]
    latent: u32,
    /// Images a step.
    #[arg(long, default_value_t = 16)]
    batch: u32,
    /// Lanes on this trainer, one after the other.
    #[arg(long, default_value_t = 1)]
    lanes: u32,
    /// Steps before the first round.
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// Steps a round.
    #[arg(long, default_value_t = 10)]
    iters: u64,
    /// Rounds of each kind.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Leave out the rounds with a coordinator.
    #[arg(long)]
    no_coordinator: bool,
    /// What to compute on.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// One line of the result.
#[derive(Debug, serde::Serialize)]
struct Line<'a> {
    variant: &'a str,
    size: u32,
    filters: u32,
    batch: u32,
    lanes: u32,
    ms_per_step: f64,
    min: f64,
    max: f64,
    images_per_s: f64,
    gflop_per_s: f64,
    device: &'a str,
    threads: u32,
    software: String,
}

impl Bench {
    /// Runs the rounds and prints a JSON line for each kind, and the ratio.
    ///
    /// # Errors
    /// If something cannot be set up.
    pub fn run(&self) -> Result<()> {
        ensure!(self.iters >= 1 && self.rounds >= 1, "--iters and --rounds must be at least 1");
        let (device, name) = device::choose(self.device, 0)?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let config = self.configure(folder.path())?;
        let manifest = Manifest::load(Path::new(&config.data.path))?;
        let epochs = config.run.steps * u64::from(self.batch * self.lanes) / manifest.samples + 2;
        let alone = Alone::new(config.clone(), manifest.shards.len() as u32, epochs);
        let place = Place { rank: 0, world: 1, lanes: self.lanes };

        let mut state = State::initial(&config, device)?;
        let mut without = self.trainer(&alone, &config, folder.path(), &manifest, device)?;
        let start = (Equilibrium::start(&config.optimizer), wire::Orders::default());
        let reduction = ReductionThread::start(Reducer::new(place, config.run.reduce, None)?, device, alone.inbox())?;
        let mut generation = without.enter(&mut state, place, start, reduction)?;
        step(&mut without, &mut generation, self.warmup)?;

        if self.no_coordinator {
            let times: Vec<_> =
                (0..self.rounds).map(|_| self.round(&mut without, &mut generation)).collect::<Result<_>>()?;
            self.print("alone", &times, &name);
            return Ok(());
        }

        let coordinator = Coordinator::start(&folder.path().join("run"), &config, &manifest)?;
        let session = coordinator.session(&name)?;
        let mut with_state = State::initial(&config, device)?;
        let mut with = self.trainer(&session, &config, folder.path(), &manifest, device)?;
        let opened = session.next(Duration::from_secs(30));
        let Some(Incoming::News(News::Opened(_, opened))) = opened else {
            bail!("no generation was opened: {opened:?}")
        };
        let first = opened.equilibrium.context("a generation without an equilibrium")?;
        let reduction = ReductionThread::start(Reducer::new(place, config.run.reduce, None)?, device, session.inbox())?;
        let first = (from_wire(&first), first.orders.unwrap_or_default());
        let mut with_generation = with.enter(&mut with_state, place, first, reduction)?;
        step(&mut with, &mut with_generation, self.warmup)?;

        let (mut alone_times, mut with_times) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            // Who goes first changes, so that neither has the quieter half of a noisy machine.
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    alone_times.push(self.round(&mut without, &mut generation)?);
                } else {
                    with_times.push(self.round(&mut with, &mut with_generation)?);
                }
            }
        }
        self.print("alone", &alone_times, &name);
        self.print("with-coordinator", &with_times, &name);
        let ratios: Vec<f64> = with_times.iter().zip(&alone_times).map(|(with, alone)| with / alone).collect();
        let line = serde_json::json!({
            "with_coordinator_over_alone": round3(median(&ratios)),
            "min": round3(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
            "max": round3(ratios.iter().copied().fold(0.0, f64::max)),
        });
        println!("{line}");
        Ok(())
    }

    fn configure(&self, folder: &Path) -> Result<RunConfig> {
        let data = folder.join("data");
        prepare::prepare(&prepare::Options {
            source: "synthetic:faces".into(),
            out: data.clone(),
            size: self.size,
            count: 512,
            quiet: true,
            ..prepare::Options::default()
        })?;
        let model = Model { size: self.size, filters: self.filters, latent: self.latent };
        let mut config = RunConfig { model, ..RunConfig::default() };
        config.objective.carry_steps = 0;
        config.run.batch = self.batch;
        config.run.lanes = self.lanes;
        config.run.steps = self.warmup + self.iters * self.rounds + 1;
        (config.run.checkpoint_every, config.run.sample_every, config.run.digest_every) = (0, 0, 0);
        config.data.path = data.display().to_string();
        config.validate()?;
        Ok(config)
    }

    fn trainer<'a>(
        &self,
        session: &'a dyn Coordination,
        config: &'a RunConfig,
        folder: &Path,
        manifest: &Manifest,
        device: Device,
    ) -> Result<Trainer<'a>> {
        let feed = Feed::open(config, &manifest.digest)?;
        Ok(Trainer { session, config, run: folder.join("run"), feed, device, writer: None, flip: None })
    }

    /// Seconds a step.
    fn round(&self, trainer: &mut Trainer<'_>, generation: &mut Generation<'_>) -> Result<f64> {
        let started = Instant::now();
        step(trainer, generation, self.iters)?;
        Ok(started.elapsed().as_secs_f64() / self.iters as f64)
    }

    fn print(&self, variant: &str, times: &[f64], device: &str) {
        let (mid, images) = (median(times), f64::from(self.batch * self.lanes));
        let model = Model { size: self.size, filters: self.filters, latent: self.latent };
        let line = Line {
            variant,
            size: self.size,
            filters: self.filters,
            batch: self.batch,
            lanes: self.lanes,
            ms_per_step: round3(mid * 1e3),
            min: round3(times.iter().copied().fold(f64::INFINITY, f64::min) * 1e3),
            max: round3(times.iter().copied().fold(0.0, f64::max) * 1e3),
            images_per_s: round3(images / mid),
            gflop_per_s: round3(network::step_flops(&model) as f64 * images / mid / 1e9),
            device,
            threads: 1,
            software: device::software(),
        };
        println!("{}", serde_json::to_string(&line).unwrap_or_default());
    }
}

fn step(trainer: &mut Trainer<'_>, generation: &mut Generation<'_>, count: u64) -> Result<()> {
    match trainer.steps(generation, count)? {
        None => Ok(()),
        Some(end) => bail!("the run ended in the middle of a bench: {end:?}"),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mid = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[mid] } else { (sorted[mid - 1] + sorted[mid]) / 2.0 }
}

fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// A coordinator process of the bench's own; it ends with this.
struct Coordinator {
    child: Child,
    address: String,
}

impl Coordinator {
    fn start(run: &Path, config: &RunConfig, data: &Manifest) -> Result<Self> {
        RunDir::create(run, config, &RunManifest::new(config, data.digest.clone()))?;
        let beside = std::env::current_exe()?.with_file_name("coordinator");
        let program = std::env::var_os("BEGAN_COORDINATOR").map_or(beside, Into::into);
        let mut child = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--world", "1", "--supervised", "--run"])
            .arg(run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}; --no-coordinator does without", program.display()))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(address) = said["listening"].as_str() else {
            let _ = child.kill();
            bail!("{} did not say where it listens: {line:?}", program.display());
        };
        Ok(Self { child, address: address.to_owned() })
    }

    fn session(&self, device: &str) -> Result<Session> {
        let hello = wire::Hello {
            version: began_proto::VERSION,
            trainer: format!("bench-{}", std::process::id()),
            host: device::host_name(),
            pid: std::process::id(),
            device: device.into(),
            software: device::software(),
            ..wire::Hello::default()
        };
        Session::open(&self.address, None, hello, Duration::from_secs(30))
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
