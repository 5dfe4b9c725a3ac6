//! `trainer export CHECKPOINT --out DIR`: the weights for other programs, with a loader for PyTorch.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use began::score::Weights;
use began_record::write_atomically;
use serde_json::json;
use tch::Tensor;

use crate::checkpoint::save;
use crate::commands::model::{Model, ModelArgs, make_folder};
use crate::drawing::all_finite;

/// The loader: read once more by the tests, with PyTorch where it is.
const LOADER: &str = include_str!("began.py");

/// Write a checkpoint's weights for other programs, with a PyTorch loader.
#[derive(Debug, clap::Args)]
pub struct Export {
    #[command(flatten)]
    model: ModelArgs,
    /// The folder to write: weights.safetensors (f32, in the order of their shapes), model.json, began.py.
    #[arg(long)]
    out: PathBuf,
    /// Replace what an export left there before.
    #[arg(long)]
    force: bool,
}

impl Export {
    /// Writes.
    ///
    /// # Errors
    /// If the checkpoint cannot be read, a weight is not finite, or the folder holds an export or cannot be written.
    pub fn run(&self) -> Result<()> {
        let place = |name: &str| self.out.join(name);
        ensure!(
            self.force || !place("weights.safetensors").exists(),
            "{} holds an export already; choose another folder, or replace it with --force",
            self.out.display()
        );
        let model = self.model.open()?;
        let tensors = weights(&model)?;
        make_folder(&self.out)?;
        // Aside first, or an interrupted export would look whole.
        let aside =
            tempfile::tempdir_in(&self.out).with_context(|| format!("cannot write into {}", self.out.display()))?;
        let file = aside.path().join("weights.safetensors");
        save(&file, &tensors, &model.about.model)?;
        std::fs::rename(&file, place("weights.safetensors"))
            .with_context(|| format!("cannot write {}", place("weights.safetensors").display()))?;
        let about = json!({
            "model": model.about.model,
            "carry": model.about.carry,
            "run": model.about.run,
            "step": model.state.step.0,
            "digest": model.about.digest,
            "weights": model.weights().to_string(),
            "input": "z [B,latent], uniform in (-1,1)",
            "output": "images [B,3,size,size], about -1 to 1",
        });
        write_atomically(&place("model.json"), &serde_json::to_vec_pretty(&about)?)?;
        write_atomically(&place("began.py"), LOADER.as_bytes())?;
        println!(
            "{} tensors of {} in {}; began.py loads them into PyTorch",
            tensors.len(),
            model.words(),
            self.out.display()
        );
        Ok(())
    }
}

/// Every weight of D and G by name, finite; G's averaged, if those were asked for.
fn weights(model: &Model) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = model.state.weights()?;
    if model.weights() == Weights::Average {
        let averaged = model.state.averaged()?;
        tensors.retain(|(name, _)| averaged.iter().all(|(other, _)| other != name));
        tensors.extend(averaged);
    }
    for (name, tensor) in &tensors {
        ensure!(
            all_finite(tensor)?,
            "{name} has numbers that are not finite (NaN or infinite); there is nothing to export"
        );
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
