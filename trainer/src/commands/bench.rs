//! `trainer bench`: how fast the training loop is, alone and with a coordinator, in rounds that take turns; what that is of what
//! the device can do; and what it would be over many GPUs.
//!
//! It is the loop of training itself, data and all, on one trainer; nothing is left out that a step of a run does.

mod ceilings;
mod coordinator;
mod scaling;
mod stages;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use began::config::{Model, Precision};
use began::cost::{StepCost, step_cost};
use began::{Equilibrium, RunConfig};
use began_data::{Manifest, prepare};
use began_proto::v1 as wire;
use began_session::News;
use tch::Device;
use torch_ext::profiler::Trace;
use torch_ext::stream::Stream;

use self::ceilings::Ceilings;
use self::coordinator::Coordinator;
use self::scaling::Links;
use self::stages::Stages;
use crate::arithmetic::{Arithmetic, Skip, Upsampling};
use crate::commands::conform::parse_precision;
use crate::coordination::{Alone, Coordination};
use crate::device::{self, DeviceChoice};
use crate::feed::Feed;
use crate::reduce::{Place, Reducer};
use crate::reduction_thread::ReductionThread;
use crate::session::{Incoming, from_wire};
use crate::state::State;
use crate::training::{Generation, Trainer};

/// Steps that a trace takes.
const TRACED: u64 = 2;

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
    /// f32, tf32, bf16 or f64.
    #[arg(long, value_parser = parse_precision, default_value = "f32")]
    precision: Precision,
    /// How to upsample and convolve, instead of the device's own way.
    #[arg(long, alias = "upsample")]
    upsampling: Option<Upsampling>,
    /// How to take the decoder's skip in, instead of the device's own way.
    #[arg(long)]
    skip: Option<Skip>,
    /// Leave out what the device can do, the time by stage and the scaling model.
    #[arg(long)]
    brief: bool,
    /// Record one more step with libtorch's profiler, into this file: JSON in Chrome's trace format.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    links: Links,
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
    /// Convolutions as the paper writes them.
    gflop_per_s: f64,
    /// The least that the step needs: with upsampling and convolution as one.
    least_gflop_per_s: f64,
    precision: Precision,
    upsampling: String,
    skip: String,
    device: &'a str,
    threads: u32,
    software: String,
    #[serde(flatten)]
    detail: Option<Detail>,
}

/// What the time is held against.
#[derive(Debug, serde::Serialize)]
struct Detail {
    cost: Counted,
    ceilings: Ceilings,
    /// Of the least operations, in the measured rate of a matrix product.
    matrix_share: f64,
    /// Of the least bytes, in the measured rate of a copy.
    copy_share: f64,
    stages_ms: Vec<(&'static str, f64)>,
    memory: Memory,
    scaling: serde_json::Value,
}

/// Counts of a whole step on this trainer.
#[derive(Debug, serde::Serialize)]
struct Counted {
    gflop: f64,
    least_gflop: f64,
    least_gb: f64,
    kept_gb: f64,
}

/// The most memory used, in MB.
#[derive(Debug, serde::Serialize)]
struct Memory {
    /// By this process, on the host.
    process_mb: f64,
    gpu_tensors_mb: Option<f64>,
    gpu_held_mb: Option<f64>,
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
        // Everything that makes a state here takes the ways that were asked for.
        let arithmetic = self.arithmetic(device)?;

        let mut state = State::initial_with(&config, arithmetic, device)?;
        let mut without = self.trainer(&alone, &config, folder.path(), &manifest, device)?;
        let start = (Equilibrium::start(&config.optimizer), wire::Orders::default());
        let reduction = ReductionThread::start(Reducer::new(place, config.run.reduce, None)?, device, alone.inbox())?;
        let mut generation = without.enter(&mut state, place, start, reduction)?;
        step(&mut without, &mut generation, self.warmup)?;

        if self.no_coordinator {
            let times: Vec<_> =
                (0..self.rounds).map(|_| self.round(&mut without, &mut generation)).collect::<Result<_>>()?;
            self.record(&mut without, &mut generation)?;
            drop(generation);
            self.print("alone", &times, &name, arithmetic, self.detail(&mut state, arithmetic, median(&times))?);
            return Ok(());
        }

        let coordinator = Coordinator::start(&folder.path().join("run"), &config, &manifest)?;
        let session = coordinator.session(&name)?;
        let mut with_state = State::initial_with(&config, arithmetic, device)?;
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
        self.record(&mut without, &mut generation)?;
        drop((generation, with_generation));
        let detail = self.detail(&mut state, arithmetic, median(&alone_times))?;
        self.print("alone", &alone_times, &name, arithmetic, detail);
        self.print("with-coordinator", &with_times, &name, arithmetic, None);
        let ratios: Vec<f64> = with_times.iter().zip(&alone_times).map(|(with, alone)| with / alone).collect();
        let line = serde_json::json!({
            "with_coordinator_over_alone": round3(median(&ratios)),
            "min": round3(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
            "max": round3(ratios.iter().copied().fold(0.0, f64::max)),
        });
        println!("{line}");
        Ok(())
    }

    fn model(&self) -> Model {
        Model { size: self.size, filters: self.filters, latent: self.latent }
    }

    fn arithmetic(&self, device: Device) -> Result<Arithmetic> {
        let mut arithmetic = Arithmetic::new(self.precision, device)?.switch()?;
        arithmetic.upsampling = self.upsampling.unwrap_or(arithmetic.upsampling);
        arithmetic.skip = self.skip.unwrap_or(arithmetic.skip);
        Ok(arithmetic)
    }

    /// Measures what the step's time is held against.
    fn detail(&self, state: &mut State, arithmetic: Arithmetic, seconds: f64) -> Result<Option<Detail>> {
        if self.brief {
            return Ok(None);
        }
        let model = self.model();
        let device = state.discriminator.parameters.device();
        let memory = memory(device);
        let ceilings = Ceilings::measure(arithmetic.compute, device)?;
        let stages = Stages::measure(state, &model, self.batch, self.iters.clamp(3, 20))?;
        let images = u64::from(self.batch * self.lanes);
        let lanes = u64::from(self.lanes);
        let StepCost { flops, least_flops, activation_bytes, gradient_bytes, update_bytes, kept_bytes } =
            step_cost(&model, arithmetic.compute.elt_size_in_bytes() as u64);
        let giga = |count: u64| round3(count as f64 / 1e9);
        let least = images * least_flops;
        let bytes = images * activation_bytes + lanes * gradient_bytes + update_bytes;
        let scaling = self.links.model(&model, &stages, seconds / lanes as f64, ceilings.copy_gb_per_s);
        Ok(Some(Detail {
            cost: Counted {
                gflop: giga(images * flops),
                least_gflop: giga(least),
                least_gb: giga(bytes),
                kept_gb: giga(u64::from(self.batch) * kept_bytes),
            },
            matrix_share: round3(least as f64 / seconds / 1e9 / ceilings.matrix_gflop_per_s),
            copy_share: round3(bytes as f64 / seconds / 1e9 / ceilings.copy_gb_per_s),
            stages_ms: stages.rows(),
            ceilings,
            memory,
            scaling,
        }))
    }

    fn configure(&self, folder: &Path) -> Result<RunConfig> {
        let data = folder.join("data");
        prepare::prepare(&prepare::Options {
            source: "synthetic:faces".into(),
            out: data.clone(),
            size: self.size,
            count: u64::from(self.batch * self.lanes).max(32) * 2,
            quiet: true,
            ..prepare::Options::default()
        })?;
        let mut config = RunConfig { model: self.model(), ..RunConfig::default() };
        config.run.precision = self.precision;
        config.objective.carry_steps = 0;
        config.run.batch = self.batch;
        config.run.lanes = self.lanes;
        config.run.steps = self.warmup + self.iters * self.rounds + 1 + TRACED;
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
        Ok(Trainer {
            session,
            config,
            run: folder.join("run"),
            feed,
            device,
            writer: None,
            evaluator: None,
            flip: None,
        })
    }

    /// Seconds a step.
    fn round(&self, trainer: &mut Trainer<'_>, generation: &mut Generation<'_>) -> Result<f64> {
        let started = Instant::now();
        step(trainer, generation, self.iters)?;
        Stream::current(trainer.device)?.synchronize()?;
        Ok(started.elapsed().as_secs_f64() / self.iters as f64)
    }

    /// A trace of one step, where one was asked for.
    fn record(&self, trainer: &mut Trainer<'_>, generation: &mut Generation<'_>) -> Result<()> {
        let Some(path) = &self.trace else { return Ok(()) };
        // On a GPU the first recording has the profiler's own start in it.
        for last in [false, true] {
            let trace = Trace::start(trainer.device).context("libtorch's profiler")?;
            step(trainer, generation, 1)?;
            Stream::current(trainer.device)?.synchronize()?;
            if last {
                trace.save(path).with_context(|| format!("cannot write the trace {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn print(&self, variant: &str, times: &[f64], device: &str, arithmetic: Arithmetic, detail: Option<Detail>) {
        let (mid, images) = (median(times), f64::from(self.batch * self.lanes));
        let cost = step_cost(&self.model(), 4);
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
            gflop_per_s: round3(cost.flops as f64 * images / mid / 1e9),
            least_gflop_per_s: round3(cost.least_flops as f64 * images / mid / 1e9),
            precision: self.precision,
            upsampling: format!("{:?}", arithmetic.upsampling).to_lowercase(),
            skip: format!("{:?}", arithmetic.skip).to_lowercase(),
            device,
            threads: 1,
            software: device::software(),
            detail,
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

/// What this process has used at most.
fn memory(device: Device) -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let mega = |bytes: f64| (bytes / 1e6).round();
    let gpu = match device {
        Device::Cuda(index) => torch_ext::gpu_memory(index).ok(),
        _ => None,
    };
    Memory {
        process_mb: mega(peak.unwrap_or(0.0) * 1024.0),
        gpu_tensors_mb: gpu.map(|gpu| mega(gpu.allocated as f64)),
        gpu_held_mb: gpu.map(|gpu| mega(gpu.reserved as f64)),
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
