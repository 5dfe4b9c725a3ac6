//! What the commands that use a model share: finding its checkpoint, and writing where asked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use began::score::Weights;
use began_record::CheckpointState;
use tch::Device;

use crate::checkpoint::read_weights;
use crate::device::{DeviceChoice, choose};
use crate::network::Generator;
use crate::state::State;

/// How a command is told which model to use.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// A checkpoint (runs/NAME/checkpoints/step-00001000), or a run, whose last one is taken.
    checkpoint: PathBuf,
    /// Use weights that were changed after they were written.
    #[arg(long)]
    accept_changed_checkpoint: bool,
    /// G's weights as training left them (live), or their average over the steps (average), where the run kept one.
    #[arg(long, default_value_t = Weights::Live, value_name = "live|average")]
    weights: Weights,
    /// What to compute on.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// A model that was read.
#[derive(Debug)]
pub struct Model {
    /// Its weights.
    pub state: State,
    /// G with averaged weights, if that is what was asked for.
    averaged: Option<Generator>,
    /// What its checkpoint says.
    pub about: CheckpointState,
    /// Where it is.
    pub device: Device,
}

impl ModelArgs {
    /// Reads the model.
    ///
    /// # Errors
    /// If there is no such checkpoint, or it is damaged.
    pub fn open(&self) -> Result<Model> {
        let folder = resolve(&self.checkpoint)?;
        let (device, _) = choose(self.device, 0)?;
        let (state, about) = read_weights(&folder, device, self.accept_changed_checkpoint)?;
        let averaged = match self.weights {
            Weights::Live => None,
            Weights::Average => Some(averaged_generator(&folder, &state, &about)?),
        };
        Ok(Model { state, averaged, about, device })
    }
}

impl Model {
    /// Its generator, with the weights that were asked for.
    #[must_use]
    pub fn generator(&self) -> &Generator {
        self.averaged.as_ref().unwrap_or(&self.state.generator)
    }

    /// Which weights of the generator these are.
    #[must_use]
    pub fn weights(&self) -> Weights {
        if self.averaged.is_some() { Weights::Average } else { Weights::Live }
    }

    /// Numbers in a noise vector.
    #[must_use]
    pub fn latent(&self) -> i64 {
        self.about.model.latent.into()
    }

    /// Which weights these are, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self.weights() {
            Weights::Live => format!("step {}", self.state.step),
            Weights::Average => format!("step {} (averaged weights)", self.state.step),
        }
    }
}

/// G with the averaged weights of a checkpoint.
///
/// # Errors
/// If it has none.
pub fn averaged_generator(folder: &Path, state: &State, about: &CheckpointState) -> Result<Generator> {
    state.averaged_generator(&about.model)?.with_context(|| {
        format!("checkpoint {} has no averaged weights: the run's optimizer.average was 0", folder.display())
    })
}

/// A checkpoint's folder, given itself or its run.
///
/// # Errors
/// If it is neither.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join("state.json").is_file() {
        return Ok(path.into());
    }
    if path.join("run.toml").is_file() {
        let run = began_record::RunDir::open(path)?;
        let last = run.latest_checkpoint()?.with_context(|| format!("run {} has no checkpoint yet", path.display()))?;
        return Ok(path.join(last.path));
    }
    bail!("{} is neither a checkpoint (it has no state.json) nor a run (it has no run.toml)", path.display())
}

/// Refuses a file that could not be written in the end, before minutes are spent on what it is to hold.
///
/// # Errors
/// If its folder is not there or cannot be written into, or it is a folder itself.
pub fn check_writable(file: &Path) -> Result<()> {
    ensure!(!file.is_dir(), "cannot write {}: it is a folder", file.display());
    ensure!(file.file_name().is_some(), "cannot write {}: it has no name", file.display());
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(folder.is_dir(), "cannot write {}: there is no folder {}", file.display(), folder.display());
    tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write {}: its folder takes no file", file.display()))?;
    Ok(())
}

/// Makes a folder to write into.
///
/// # Errors
/// If it cannot be made.
pub fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_can_be_written_is_said_before_any_work() -> Result<()> {
        let folder = tempfile::tempdir()?;
        check_writable(&folder.path().join("scores.json"))?;
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
        let text = check_writable(&folder.path().join("none/scores.json")).unwrap_err().to_string();
        assert!(text.contains("there is no folder"), "{text}");
        assert!(check_writable(folder.path()).unwrap_err().to_string().contains("is a folder"));
        let text = resolve(folder.path()).unwrap_err().to_string();
        assert!(text.contains("state.json") && text.contains("run.toml"), "{text}");
        Ok(())
    }
}
