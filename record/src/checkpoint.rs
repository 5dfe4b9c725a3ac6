//! Checkpoints as they lie on the disk: `checkpoints/step-00001000/{weights,optimizer}.safetensors, state.json`, with
//! `average.safetensors` where averaged weights are kept.
//!
//! The trainer writes the tensors; this says what stands beside them and which folders count as whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use began::{Equilibrium, Step};
use serde::{Deserialize, Serialize};

use crate::{RecordError, RunDir};

/// Version of the form of a checkpoint.
pub const FORMAT: u32 = 1;

/// `state.json`: everything of a checkpoint that is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Version of the form, [`FORMAT`].
    pub format: u32,
    /// The run it belongs to.
    pub run: String,
    /// k, rate and the watch over M_global, for `step`.
    pub equilibrium: Equilibrium,
    /// The epoch in which `step` begins.
    pub epoch: u64,
    /// `run.seed`.
    pub seed: u64,
    /// `run.lanes`.
    pub lanes: u32,
    /// The network: `model.size`, `model.filters`, `model.latent`.
    pub model: began::config::Model,
    /// The vanishing residual's carry at `step`.
    pub carry: f64,
    /// Digest of the whole state.
    pub digest: String,
    /// BLAKE3 of each tensor file, by name.
    pub files: BTreeMap<String, String>,
}

/// One whole checkpoint of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// How many steps it has behind it.
    pub step: Step,
    /// Its folder, relative to the run.
    pub path: PathBuf,
    /// Its `state.json`.
    pub state: CheckpointState,
}

impl CheckpointState {
    /// Reads `state.json` in a checkpoint's folder.
    ///
    /// # Errors
    /// If it cannot be read or is of another form.
    pub fn read(folder: &Path) -> Result<Self, RecordError> {
        let path = folder.join("state.json");
        let text = fs::read(&path).map_err(RecordError::io("read", &path))?;
        let damaged = |reason| RecordError::Damaged { path: path.clone(), reason };
        let state: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if state.format != FORMAT {
            return Err(damaged(format!("its format is {}, this version reads {FORMAT}", state.format)));
        }
        let config = began::RunConfig { model: state.model, ..began::RunConfig::default() };
        config.validate().map_err(|error| damaged(error.to_string()))?;
        Ok(state)
    }

    /// Whether the tensor files in `folder` are as they were written.
    ///
    /// # Errors
    /// The first that is missing, or was changed or damaged since.
    pub fn check_files(&self, folder: &Path) -> Result<(), RecordError> {
        for (name, expected) in &self.files {
            let path = folder.join(name);
            let found = hash(&path)?;
            if found != *expected {
                let short = |hash: &str| hash.get(..16).unwrap_or(hash).to_owned();
                let (found, expected) = (short(&found), short(expected));
                return Err(RecordError::Changed { path, found, expected });
            }
        }
        Ok(())
    }
}

/// BLAKE3 of a file, in hex.
///
/// # Errors
/// If it cannot be read.
pub fn hash(path: &Path) -> Result<String, RecordError> {
    let mut hash = blake3::Hasher::new();
    let mut file = fs::File::open(path).map_err(RecordError::io("read", path))?;
    io::copy(&mut file, &mut hash).map_err(RecordError::io("read", path))?;
    Ok(hash.finalize().to_hex().to_string())
}

impl Checkpoint {
    /// The checkpoint of `step` in `folder`, below the folder `run`; its tensors are not looked at.
    pub(crate) fn read(run: &Path, step: Step, folder: &Path) -> Result<Self, RecordError> {
        let state = CheckpointState::read(folder)?;
        if state.equilibrium.step != step {
            let reason = format!("it says step {}, its folder {step}", state.equilibrium.step);
            return Err(RecordError::Damaged { path: folder.join("state.json"), reason });
        }
        Ok(Self { step, path: folder.strip_prefix(run).unwrap_or(folder).into(), state })
    }
}

/// The folders in `folder` that have the name of a checkpoint, oldest first.
pub(crate) fn folders(folder: &Path) -> Result<Vec<(Step, PathBuf)>, RecordError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RecordError::Io { what: "read", path: folder.into(), error }),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RecordError::io("read", folder))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok()).map(Step);
        found.extend(
            step.filter(|step| name.to_str() == Some(&RunDir::step_name(*step))).map(|step| (step, entry.path())),
        );
    }
    found.sort();
    Ok(found)
}
