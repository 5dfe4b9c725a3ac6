//! Made-up runs for the tests: only what the launcher looks at.

use std::path::Path;

use anyhow::Result;
use began::{RunConfig, Step, StepRecord};
use began_record::{DigestRow, Entry, Journal, RunDir, RunManifest, StepRow, TensorDigest};

#[path = "../tests/processes/made_up_data.rs"]
mod data;

pub use data::data_set;

/// A run's directory with the given keys set and the entries in its journal.
pub fn run(path: &Path, set: &[&str], entries: &[Entry]) -> Result<RunDir> {
    with_digest(path, "data", set, entries)
}

/// As [`run`], over the prepared data in `data`.
pub fn run_over(path: &Path, data: &Path, set: &[&str], entries: &[Entry]) -> Result<RunDir> {
    with_digest(path, &began_data::Manifest::load(data)?.digest, set, entries)
}

fn with_digest(path: &Path, data_digest: &str, set: &[&str], entries: &[Entry]) -> Result<RunDir> {
    let mut config = RunConfig::default();
    config.run.lanes = 1;
    for assignment in set {
        config = config.set(assignment)?;
    }
    let run = RunDir::create(path, &config, &RunManifest::new(&config, data_digest.into()))?;
    Journal::create_or_open(&run)?.write(entries)?;
    Ok(run)
}

/// A step of the journal with this loss.
pub fn step(step: u64, real: f64) -> Entry {
    let record = StepRecord { step: Step(step), real, fake: 0.25, k: 0.0, rate: 1e-4, m_global: 0.5 };
    Entry::Step(StepRow { record, generation: 1, seconds: 0.1, time: 0.0, drawn: 0 })
}

/// A digest of the journal.
pub fn digest(step: u64, launch: u32, digest: &str, tensors: &[(&str, &str)]) -> Entry {
    let tensors = tensors.iter().map(|(name, digest)| TensorDigest { name: (*name).into(), digest: (*digest).into() });
    Entry::Digest(DigestRow { step, launch, digest: digest.into(), tensors: tensors.collect() })
}
