//! `trainer conform FIXTURE`: runs the trainer's own step over a fixture made by a reference implementation, and compares
//! every tensor on the way.
//!
//! The modules, the flat buffers, the combination of gradients, Adam and the equilibrium are those of training, in the
//! fixture's precision or in the one that is asked for, on any device, by any of the ways to compute them. Several steps in a row
//! start from step 0's weights; nothing is reset in between.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use began::Step;
use began::config::{Model, Precision, RunConfig};
use began::equilibrium::{Equilibrium, Stall};
use began::tree::Fold;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use crate::arithmetic::{Arithmetic, Skip, Upsampling};
use crate::device::{self, DeviceChoice};
use crate::flat::Layout;
use crate::images::Measure;
use crate::reduce::{Gradient, Place, Reducer, add};
use crate::state::State;
use crate::step::{GradientBuffer, LanePass, Settings, combine};

/// Compare the trainer's step with a reference's, tensor by tensor.
#[derive(Debug, clap::Args)]
pub struct Conform {
    /// A fixture: a safetensors file with one or more steps of a reference implementation.
    fixture: PathBuf,
    /// The largest relative difference `||a-b|| / ||b||` that passes; 1e-9 by default, where --precision asks for fewer bits than
    /// the fixture has 1e-4 (f32), 1e-2 (tf32) or 2e-1 (bf16).
    #[arg(long)]
    tolerance: Option<f64>,
    /// Compute in f32, tf32, bf16 or f64 instead of the fixture's own precision.
    #[arg(long, value_parser = parse_precision)]
    precision: Option<Precision>,
    /// How to upsample and convolve, instead of the device's own way.
    #[arg(long, alias = "upsample")]
    upsampling: Option<Upsampling>,
    /// How to take the decoder's skip in, instead of the device's own way.
    #[arg(long)]
    skip: Option<Skip>,
    /// Bias and ELU in one, as on GPUs, also on a CPU.
    #[arg(long)]
    fused: bool,
    /// What to compute on.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Print only tensors over the tolerance, and the summary.
    #[arg(long, short)]
    quiet: bool,
}

/// A fixture, open.
struct Fixture<'a> {
    tensors: SafeTensors<'a>,
    metadata: std::collections::HashMap<String, String>,
}

impl Fixture<'_> {
    fn setting(&self, name: &str) -> Result<f64> {
        let text = self.metadata.get(name).with_context(|| format!("the fixture's metadata has no {name:?}"))?;
        text.parse().with_context(|| format!("the fixture's metadata says {name} = {text:?}, which is no number"))
    }

    fn whole(&self, name: &str) -> Result<u32> {
        let value = self.setting(name)?;
        ensure!((1.0..=1e6).contains(&value) && value.fract() == 0.0, "the fixture's metadata says {name} = {value}");
        Ok(value as u32)
    }

    fn get(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor> {
        let view = self.tensors.tensor(name).map_err(|_| anyhow::anyhow!("the fixture has no tensor {name:?}"))?;
        let found: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        ensure!(found == shape, "{name}: the fixture has shape {found:?}, this network {shape:?}");
        let stored = match view.dtype() {
            Dtype::F64 => Kind::Double,
            Dtype::F32 => Kind::Float,
            other => bail!("{name} is of type {other:?}; a fixture holds F64 or F32"),
        };
        Ok(Tensor::f_from_data_size(view.data(), &found, stored)?.f_to_kind(kind)?)
    }
}

/// How long the device may take for a step.
const DEVICE: Duration = Duration::from_secs(600);

/// Compares and prints.
struct Report {
    tolerance: f64,
    quiet: bool,
    compared: usize,
    failed: usize,
    worst: (f64, String),
    /// The worst of each kind of tensor.
    kinds: BTreeMap<&'static str, f64>,
}

/// What a tensor of a fixture is.
fn kind_of(name: &str) -> &'static str {
    match name.split('/').nth(1) {
        Some("scalars") => "losses and equilibrium",
        Some("grad") => "gradients",
        Some("weights") => "weights after Adam",
        _ => "images",
    }
}

/// A precision by its name in the configuration.
pub fn parse_precision(name: &str) -> Result<Precision, String> {
    let set = format!("run.precision={name}");
    RunConfig::default().set(&set).map(|config| config.run.precision).map_err(|error| error.to_string())
}

impl Report {
    fn compare(&mut self, name: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
        let on_host = |tensor: &Tensor| tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
        let (a, b) = (on_host(found)?, on_host(expected)?);
        let difference = f64::try_from((&a - &b).f_norm()?)?;
        let size = f64::try_from(b.f_norm()?)?;
        let relative = if size > 0.0 { difference / size } else { difference };
        self.compared += 1;
        let worst = self.kinds.entry(kind_of(name)).or_insert(0.0);
        *worst = if relative.is_nan() { relative } else { worst.max(relative) };
        // Written so that NaN fails.
        let passes = relative <= self.tolerance;
        self.failed += usize::from(!passes);
        if self.compared == 1 || relative > self.worst.0 || relative.is_nan() {
            self.worst = (relative, name.to_owned());
        }
        if !passes || !self.quiet {
            println!("{relative:9.2e}  {name}{}", if passes { "" } else { "  OVER" });
        }
        Ok(())
    }
}

impl Conform {
    /// Whether everything is within the tolerance.
    ///
    /// # Errors
    /// If the fixture cannot be read, or lacks or misshapes a tensor.
    pub fn run(&self) -> Result<bool> {
        ensure!(
            self.tolerance.is_none_or(|tolerance| tolerance >= 0.0),
            "--tolerance must be at least 0, got {}",
            self.tolerance.unwrap_or_default()
        );
        let (device, _) = device::choose(self.device, 0)?;
        let path = self.fixture.display();
        let bytes = fs::read(&self.fixture).with_context(|| format!("cannot read the fixture {path}"))?;
        let report = self.compare(&bytes, device).with_context(|| format!("fixture {path}"))?;
        println!(
            "{} of {} tensors within {:e}; the worst is {:.2e} at {}",
            report.compared - report.failed,
            report.compared,
            report.tolerance,
            report.worst.0,
            report.worst.1
        );
        for (kind, worst) in &report.kinds {
            println!("{worst:9.2e}  the worst of {kind}");
        }
        Ok(report.failed == 0)
    }

    fn tolerance(&self, stored: Precision, used: Precision) -> f64 {
        let default = match used {
            Precision::Bf16 => 2e-1,
            Precision::Tf32 => 1e-2,
            Precision::F32 if stored == Precision::F64 && self.precision.is_some() => 1e-4,
            Precision::F32 | Precision::F64 => 1e-9,
        };
        self.tolerance.unwrap_or(default)
    }

    fn compare(&self, bytes: &[u8], device: Device) -> Result<Report> {
        let tensors = SafeTensors::deserialize(bytes).context("not a safetensors file")?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let fixture = Fixture { tensors, metadata };
        let mut config = configuration(&fixture)?;
        let stored = config.run.precision;
        config.run.precision = self.precision.unwrap_or(stored);
        let mut arithmetic = Arithmetic::new(config.run.precision, device)?.switch()?;
        arithmetic.upsampling = self.upsampling.unwrap_or(arithmetic.upsampling);
        arithmetic.skip = self.skip.unwrap_or(arithmetic.skip);
        arithmetic.fused |= self.fused;
        let (batch, steps) = (i64::from(config.run.batch), config.run.steps);
        let (size, latent) = (i64::from(config.model.size), i64::from(config.model.latent));
        let kind = arithmetic.master;
        let mut report = Report {
            tolerance: self.tolerance(stored, config.run.precision),
            quiet: self.quiet,
            compared: 0,
            failed: 0,
            worst: (0.0, String::new()),
            kinds: BTreeMap::new(),
        };

        let mut state = initial_state(&fixture, &config, arithmetic, device)?;
        let place = Place { rank: 0, world: 1, lanes: 1 };
        let mut reducer = Reducer::new(place, config.run.reduce, None)?;
        let (d, g) = (&state.discriminator.parameters, &state.generator.parameters);
        let d_names: Vec<_> = d.layout.slots().iter().map(|slot| slot.parameter.clone()).collect();
        let g_names: Vec<_> = g.layout.slots().iter().map(|slot| slot.parameter.clone()).collect();
        let (d_layout, g_layout) = (d.layout.clone(), g.layout.clone());
        let g_real = GradientBuffer::new(d, 0)?;
        let g_fake = GradientBuffer::new(d, 0)?;
        let g_generator = GradientBuffer::new(g, 0)?;

        let mut equilibrium: Option<Equilibrium> = None;
        for step in 0..steps {
            let at = |name: &str| format!("step{step}/{name}");
            let scalars = fixture.get(&at("scalars"), &[6], Kind::Double)?;
            let scalars = Vec::<f64>::try_from(&scalars)?;
            let (k, carry) = (scalars[2], scalars[5]);
            let now = *equilibrium.get_or_insert(Equilibrium {
                step: Step(0),
                k,
                rate: config.optimizer.rate,
                stall: Stall::default(),
            });
            let image = [batch, 3, size, size];
            let x = torch_ext::channels_last(&fixture.get(&at("x"), &image, kind)?.f_to_device(device)?)?;
            let z = fixture.get(&at("z"), &[batch, latent], kind)?.f_to_device(device)?;

            let settings = Settings { norm: config.objective.norm, carry, measure: Measure::NOTHING };
            let recon = tch::no_grad(|| state.discriminator.forward(&x, carry))?;
            report.compare(&at("recon_real"), &recon, &fixture.get(&at("recon_real"), &image, Kind::Double)?)?;
            let pass = LanePass::run(&state, &x, &z, settings, &g_real, &g_fake)?;
            report.compare(&at("fake"), &pass.image(), &fixture.get(&at("fake"), &image, Kind::Double)?)?;
            let (losses, _) = pass.losses(0)?.wait(DEVICE)?;
            combine(&g_real, &g_fake, now.k)?;
            pass.generator_gradient(&state, &g_generator)?;

            let mut sum = |buffer: &GradientBuffer| -> Result<Gradient> {
                let mut fold = Fold::new(1);
                fold.push(0..1, buffer.flat.f_detach_copy()?, add)?;
                reducer.average(fold.finish())
            };
            let (d_gradient, g_gradient) = (sum(&g_real)?, sum(&g_generator)?);
            for (layout, names, flat) in [(&d_layout, &d_names, &d_gradient.0), (&g_layout, &g_names, &g_gradient.0)] {
                for (parameter, view) in names.iter().zip(layout.views(flat)?) {
                    let name = at(&format!("grad/{}", parameter.name));
                    report.compare(&name, &view, &fixture.get(&name, &view.size(), Kind::Double)?)?;
                }
            }
            state.commit(&d_gradient, &g_gradient, now.rate, &config)?;

            let (next, record) = now.advance(&config.objective, &config.optimizer, &[losses])?;
            let found = [record.real, record.fake, record.k, next.k, record.m_global];
            for ((name, found), expected) in
                ["L_real", "L_fake", "k", "k_next", "M_global"].iter().zip(found).zip(&scalars)
            {
                let (found, expected) = (Tensor::f_from_slice(&[found])?, Tensor::f_from_slice(&[*expected])?);
                report.compare(&at(&format!("scalars/{name}")), &found, &expected)?;
            }
            equilibrium = Some(next);
            for (name, view) in state.named()? {
                if name.ends_with(".m") || name.ends_with(".v") {
                    continue;
                }
                let name = format!("step{}/weights/{name}", step + 1);
                report.compare(&name, &view, &fixture.get(&name, &view.size(), Kind::Double)?)?;
            }
        }
        Ok(report)
    }
}

fn configuration(fixture: &Fixture<'_>) -> Result<RunConfig> {
    let model =
        Model { size: fixture.whole("size")?, filters: fixture.whole("filters")?, latent: fixture.whole("latent")? };
    let mut config = RunConfig { model, ..RunConfig::default() };
    config.run.batch = fixture.whole("batch")?;
    config.run.steps = fixture.whole("steps")?.into();
    config.run.lanes = 1;
    config.objective.gamma = fixture.setting("gamma")?;
    config.objective.lambda_k = fixture.setting("lambda_k")?;
    if fixture.metadata.contains_key("norm") {
        config.objective.norm = fixture.whole("norm")?;
    }
    config.optimizer.rate = fixture.setting("lr")?;
    config.optimizer.beta1 = fixture.setting("beta1")?;
    config.optimizer.beta2 = fixture.setting("beta2")?;
    config.optimizer.epsilon = fixture.setting("eps")?;
    config.optimizer.rate_floor = 0.0;
    config.optimizer.stall_window = 0;
    config.run.precision = match fixture.tensors.tensor("step0/x").map(|view| view.dtype()) {
        Ok(Dtype::F32) => Precision::F32,
        _ => Precision::F64,
    };
    config.validate().context("the fixture's settings")?;
    Ok(config)
}

fn initial_state(fixture: &Fixture<'_>, config: &RunConfig, arithmetic: Arithmetic, device: Device) -> Result<State> {
    let kind = arithmetic.master;
    let load = |layers: &[began::network::Layer]| -> Result<Tensor> {
        let layout = Layout::new(layers);
        let flat = Tensor::f_zeros([layout.len()], (kind, device))?;
        for (slot, view) in layout.slots().iter().zip(layout.views(&flat)?) {
            let name = format!("step0/weights/{}", slot.parameter.name);
            view.shallow_clone().f_copy_(&fixture.get(&name, &view.size(), kind)?.f_to_device(device)?)?;
        }
        Ok(flat)
    };
    let d = load(&began::network::discriminator(&config.model))?;
    let g = load(&began::network::generator(&config.model))?;
    State::from_flat(&config.model, d, g, arithmetic)
}
