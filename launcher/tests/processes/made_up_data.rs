//! A made-up prepared data set: only the manifest, which is all that the launcher looks at.

use std::path::Path;

use anyhow::Result;
use began_data::manifest::{SkippedCounts, SourceDescription};
use began_data::prepare::{Crop, Split};
use began_data::{DataError, Manifest, ShardEntry};

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
