//! Writing and reading checkpoints: `checkpoints/step-00001000/{weights,optimizer}.safetensors, state.json`, and
//! `average.safetensors` where the run keeps averaged weights: G's tensors under G's names.
//!
//! A checkpoint is written aside, synced and renamed: a folder with its final name is whole.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use began::config::Precision;
use began::{Equilibrium, RunConfig};
use began_record::{CHECKPOINT_FORMAT, CheckpointState, RunDir, hash, write_atomically};
use safetensors::tensor::{Dtype, TensorView};
use tch::{Device, Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::average::Average;
use crate::digest::bytes;
use crate::flat::Layout;
use crate::state::State;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const AVERAGE: &str = "average.safetensors";
/// A folder that is being written is this old only if nobody writes it any more.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(1800);

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug)]
pub struct Provenance<'a> {
    /// The run's identity.
    pub run: &'a str,
    /// Its configuration.
    pub config: &'a RunConfig,
    /// The epoch in which the next step begins.
    pub epoch: u64,
    /// Digest of the state.
    pub digest: &'a str,
}

/// Writes the state of `equilibrium.step` into the run's directory; the folder, relative to it.
///
/// # Errors
/// If it cannot be written whole; nothing is left behind then.
pub fn write(run: &Path, state: &State, equilibrium: &Equilibrium, about: &Provenance<'_>) -> Result<PathBuf> {
    ensure!(
        state.step == equilibrium.step,
        "the state is at step {}, its equilibrium at {}",
        state.step,
        equilibrium.step
    );
    let name = RunDir::step_name(state.step);
    let folder = run.join("checkpoints");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Two may write the same step at once, where one was cut off in the middle of it.
    let aside = folder.join(format!(".writing-{name}-{}", std::process::id()));
    remove_abandoned(&folder);
    let place = folder.join(&name);
    let written = write_aside(&aside, state, equilibrium, about).and_then(|()| put_in_place(&aside, &place));
    if written.is_err() {
        let _ = fs::remove_dir_all(&aside);
    }
    written.with_context(|| format!("cannot write checkpoint {}", place.display()))?;
    Ok(Path::new("checkpoints").join(name))
}

/// Removes what trainers left that were killed while they wrote: nobody takes this long.
fn remove_abandoned(folder: &Path) {
    let old = |path: &Path| {
        let age = path.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        age.is_some_and(|age| age > ABANDONED)
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let abandoned = entries.filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(".writing-") && old(path)
    });
    for path in abandoned {
        let _ = fs::remove_dir_all(path);
    }
}

fn write_aside(aside: &Path, state: &State, equilibrium: &Equilibrium, about: &Provenance<'_>) -> Result<()> {
    let _ = fs::remove_dir_all(aside);
    fs::create_dir(aside)?;
    let mut optimizer = state.named()?;
    optimizer.retain(|(name, _)| name.ends_with(".m") || name.ends_with(".v"));
    let averaged = state.averaged()?;
    let average = (!averaged.is_empty()).then_some((AVERAGE, averaged));
    let mut files = BTreeMap::new();
    for (file, tensors) in [(WEIGHTS, state.weights()?), (OPTIMIZER, optimizer)].into_iter().chain(average) {
        let path = aside.join(file);
        save(&path, &tensors, &about.config.model)?;
        files.insert(file.to_owned(), hash(&path)?);
    }
    let state = CheckpointState {
        format: CHECKPOINT_FORMAT,
        run: about.run.into(),
        equilibrium: *equilibrium,
        epoch: about.epoch,
        seed: about.config.run.seed,
        lanes: about.config.run.lanes,
        model: about.config.model,
        carry: began::equilibrium::carry(equilibrium.step, about.config.objective.carry_steps),
        digest: about.digest.into(),
        files,
    };
    write_atomically(&aside.join("state.json"), &serde_json::to_vec_pretty(&state)?)?;
    Ok(())
}

fn put_in_place(aside: &Path, place: &Path) -> Result<()> {
    // The same step was written before, by a run that was stopped there: the old one makes way only now.
    if place.exists() {
        let old = place.with_extension("replaced");
        let _ = fs::remove_dir_all(&old);
        fs::rename(place, &old)?;
        fs::rename(aside, place)?;
        let _ = fs::remove_dir_all(&old);
    } else {
        fs::rename(aside, place)?;
    }
    if let Some(folder) = place.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

pub(crate) fn save(path: &Path, tensors: &[(String, Tensor)], model: &began::config::Model) -> Result<()> {
    let values = tensors.iter().map(|(_, tensor)| bytes(tensor)).collect::<Result<Vec<_>>>()?;
    let views = tensors.iter().zip(&values).map(|((name, tensor), values)| {
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        let dtype = if tensor.kind() == Kind::Double { Dtype::F64 } else { Dtype::F32 };
        Ok((name.as_str(), TensorView::new(dtype, shape, values)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("began".to_owned(), serde_json::to_string(model)?)]);
    safetensors::serialize_to_file(views, Some(metadata), path)?;
    File::open(path)?.sync_all()?;
    Ok(())
}

/// Why a checkpoint was not read.
#[derive(Debug)]
pub enum ReadError {
    /// It cannot be used, here or elsewhere: a file is missing, damaged, changed, or of another run.
    Unusable(anyhow::Error),
    /// This process could not take it in: libtorch refused, as where memory is short.
    Here(anyhow::Error),
}

impl From<anyhow::Error> for ReadError {
    fn from(error: anyhow::Error) -> Self {
        if error.chain().any(|cause| cause.is::<tch::TchError>()) { Self::Here(error) } else { Self::Unusable(error) }
    }
}

/// Reads a checkpoint of this run: the state, and the equilibrium that belongs to it.
///
/// # Errors
/// If a file is missing, does not fit the configuration, or has another hash than was written down (unless
/// `accept_changed`), each named; and if this process cannot take it in.
pub fn read(
    folder: &Path,
    run: &str,
    config: &RunConfig,
    device: Device,
    accept_changed: bool,
) -> Result<(State, Equilibrium), ReadError> {
    Ok(read_whole(folder, run, config, device, accept_changed)?)
}

fn read_whole(
    folder: &Path,
    run: &str,
    config: &RunConfig,
    device: Device,
    accept_changed: bool,
) -> Result<(State, Equilibrium)> {
    let at = || format!("checkpoint {}", folder.display());
    let about = CheckpointState::read(folder).with_context(at)?;
    ensure!(about.run == run, "{} is of run {}, this is run {run}", at(), about.run);
    ensure!(
        about.model == config.model,
        "{} has a network of {} px, n = {}, h = {}; this run one of {} px, n = {}, h = {}",
        at(),
        about.model.size,
        about.model.filters,
        about.model.latent,
        config.model.size,
        config.model.filters,
        config.model.latent
    );
    if !accept_changed {
        about.check_files(folder).context(
            "a checkpoint that was changed is gone on from only with `launcher resume RUN --accept-changed-checkpoint`",
        )?;
    }
    let arithmetic = Arithmetic::new(config.run.precision, device)?;
    let kind = arithmetic.master;
    let weights = Stored::open(&folder.join(WEIGHTS))?;
    let optimizer = Stored::open(&folder.join(OPTIMIZER))?;
    let d = Layout::new(&began::network::discriminator(&config.model));
    let g = Layout::new(&began::network::generator(&config.model));
    let (d_flat, g_flat) = (weights.flat(&d, "", kind, device)?, weights.flat(&g, "", kind, device)?);
    let mut state = State::from_flat(&config.model, d_flat, g_flat, arithmetic)?;
    state.discriminator_adam.m = optimizer.flat(&d, ".m", kind, device)?;
    state.discriminator_adam.v = optimizer.flat(&d, ".v", kind, device)?;
    state.generator_adam.m = optimizer.flat(&g, ".m", kind, device)?;
    state.generator_adam.v = optimizer.flat(&g, ".v", kind, device)?;
    if config.optimizer.average > 0.0 {
        ensure!(
            about.files.contains_key(AVERAGE),
            "{} has no {AVERAGE}, and optimizer.average is {}: it was written without averaged weights",
            at(),
            config.optimizer.average
        );
        state.average = Some(Average { flat: Stored::open(&folder.join(AVERAGE))?.flat(&g, "", kind, device)? });
    }
    state.step = about.equilibrium.step;
    Ok((state, about.equilibrium))
}

/// The weights of a checkpoint alone, averaged ones too where it has them, with what it says about itself: for sampling.
///
/// # Errors
/// If a file is missing or damaged.
pub fn read_weights(folder: &Path, device: Device, accept_changed: bool) -> Result<(State, CheckpointState)> {
    let about = CheckpointState::read(folder).with_context(|| {
        format!("{} is not a checkpoint (a folder like runs/NAME/checkpoints/step-00001000)", folder.display())
    })?;
    if !accept_changed {
        about.check_files(folder).context("--accept-changed-checkpoint draws from it all the same")?;
    }
    let weights = Stored::open(&folder.join(WEIGHTS))?;
    let flat = |layers: &[began::network::Layer]| weights.flat(&Layout::new(layers), "", Kind::Float, device);
    let d = flat(&began::network::discriminator(&about.model))?;
    let g = flat(&began::network::generator(&about.model))?;
    let mut state = State::from_flat(&about.model, d, g, Arithmetic::new(Precision::F32, device)?)?;
    if about.files.contains_key(AVERAGE) {
        let layout = Layout::new(&began::network::generator(&about.model));
        let flat = Stored::open(&folder.join(AVERAGE))?.flat(&layout, "", Kind::Float, device)?;
        state.average = Some(Average { flat });
    }
    state.step = about.equilibrium.step;
    Ok((state, about))
}

/// A file of named tensors, in memory.
struct Stored {
    path: PathBuf,
    content: Vec<u8>,
}

impl Stored {
    fn open(path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.into(), content })
    }

    fn flat(&self, layout: &Layout, suffix: &str, kind: Kind, device: Device) -> Result<Tensor> {
        let at = || self.path.display().to_string();
        let stored = safetensors::SafeTensors::deserialize(&self.content).with_context(at)?;
        let flat = Tensor::f_zeros([layout.len()], (kind, device))?;
        for (slot, view) in layout.slots().iter().zip(layout.views(&flat)?) {
            let name = format!("{}{suffix}", slot.parameter.name);
            let found = stored.tensor(&name).with_context(|| format!("{} has no tensor {name}", at()))?;
            let shape: Vec<i64> = found.shape().iter().map(|&n| n as i64).collect();
            ensure!(shape == view.size(), "{}: {name} has shape {shape:?}, expected {:?}", at(), view.size());
            let stored_kind = match found.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F64 => Kind::Double,
                other => bail!("{}: {name} is of type {other:?}, expected F32 or F64", at()),
            };
            let values = Tensor::f_from_data_size(found.data(), &shape, stored_kind)?;
            view.shallow_clone().f_copy_(&values.f_to_kind(kind)?.f_to_device(device)?)?;
        }
        Ok(flat)
    }
}
