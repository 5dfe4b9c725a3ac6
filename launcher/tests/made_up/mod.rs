//! Made-up data sets and runs for the tests: only what the launcher looks at.

use std::path::Path;

use anyhow::Result;
use began::{RunConfig, Step, StepRecord};
use began_data::manifest::{SkippedCounts, SourceDescription};
use began_data::prepare::{Crop, Split};
use began_data::{DataError, Manifest, ShardEntry};
use began_record::{DigestRow, Entry, Journal, RunDir, RunManifest, StepRow, TensorDigest};

/// A run's directory with the given keys set and the entries in its journal.
pub fn run(path: &Path, set: &[&str], entries: &[Entry]) -> Result<RunDir> {
    let mut config = RunConfig::default();
    config.run.lanes = 1;
    for assignment in set {
        config = config.set(assignment)?;
    }
    let run = RunDir::create(path, &config, &RunManifest::new(&config, "data".into()))?;
    Journal::create_or_open(&run)?.write(entries)?;
    Ok(run)
}

/// A step of the journal with this loss.
pub fn step(step: u64, real: f64) -> Entry {
    let record = StepRecord { step: Step(step), real, fake: 0.25, k: 0.0, rate: 1e-4, m_global: 0.5 };
    Entry::Step(StepRow { record, generation: 1, seconds: 0.1, time: 0.0 })
}

/// A digest of the journal.
pub fn digest(step: u64, launch: u32, digest: &str, tensors: &[(&str, &str)]) -> Entry {
    let tensors = tensors.iter().map(|(name, digest)| TensorDigest { name: (*name).into(), digest: (*digest).into() });
    Entry::Digest(DigestRow { step, launch, digest: digest.into(), tensors: tensors.collect() })
}

/// The manifest of a data set of this size. Its digest is what the loader itself says it should be.
pub fn data_set(folder: &Path, size: u32) -> Result<()> {
    let mut manifest = Manifest {
        format: 1,
        size,
        channels: 3,
        samples: 4,
        shards: vec![ShardEntry { file: "shard-00000.safetensors".into(), samples: 4, blake3: "aa".into() }],
        digest: String::new(),
        source: SourceDescription { kind: "folder".into(), crop: Crop::Center, split: Split::All, seed: 0, count: 0 },
        skipped: SkippedCounts::default(),
    };
    let path = folder.join("manifest.json");
    std::fs::write(&path, serde_json::to_vec(&manifest)?)?;
    if let Err(DataError::Digest { found, .. }) = Manifest::load(folder) {
        manifest.digest = found;
    }
    std::fs::write(&path, serde_json::to_vec(&manifest)?)?;
    Ok(())
}
