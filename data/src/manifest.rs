//! What a prepared set says of itself: `manifest.json`.
//!
//! Its `digest` is BLAKE3 over (format, size, each shard's name, samples and hash), so it names the pixels and their
//! order, wherever the set lies and whatever it was made from. A manifest must never hold a path of the machine it
//! was made on, nor a time: the same source and options give the same bytes.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::aside;
use crate::error::DataError;
use crate::prepare::{Crop, Split};
use crate::shard;

/// The format this program writes and reads.
pub const FORMAT: u32 = 1;

/// The manifest's file name.
pub const FILE: &str = "manifest.json";

/// Longer than any manifest: a million shards make one of 150 MB.
const LONGEST: u64 = 1 << 28;

/// The manifest of a prepared set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format; see [`FORMAT`].
    pub format: u32,
    /// Width and height of every image, in pixels: a power of two from 16 to 512.
    pub size: u32,
    /// Channels of every image: 3.
    pub channels: u32,
    /// Images in all shards.
    pub samples: u64,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
    /// What identifies the data: 64 hexadecimal digits.
    pub digest: String,
    /// What it was made from, and how.
    pub source: SourceDescription,
    /// Images of the source that could not be used.
    pub skipped: SkippedCounts,
}

/// One shard of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name within the folder.
    pub file: String,
    /// Images in it.
    pub samples: u64,
    /// BLAKE3 of the whole file: 64 hexadecimal digits.
    pub blake3: String,
}

/// What a set was made from. Not part of the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDescription {
    /// `folder`, `celeba`, `zip`, `celeba zip`, `idx` or `synthetic:faces`.
    pub kind: String,
    /// The crop that was applied.
    pub crop: Crop,
    /// The part of the source that was taken.
    pub split: Split,
    /// The seed of the order, or of the faces.
    pub seed: u64,
    /// The number of images asked for; 0 for all.
    pub count: u64,
}

/// How many images of the source were skipped, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedCounts {
    /// Could not be read or decoded.
    pub broken: u64,
    /// Smaller than can be enlarged decently.
    pub too_small: u64,
    /// Not of the size or shape that the crop needs.
    pub wrong_shape: u64,
}

impl SkippedCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.broken + self.too_small + self.wrong_shape
    }
}

impl Manifest {
    /// Reads and checks the manifest of the set in `dir`: its format, its sums and its digest. The shards are not
    /// touched.
    ///
    /// # Errors
    /// If there is none, it is of another format, or it was changed.
    pub fn load(dir: &Path) -> Result<Manifest, DataError> {
        let path = dir.join(FILE);
        let bad = |reason: String| DataError::Manifest { path: path.clone(), reason };
        match fs::metadata(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(DataError::NotPrepared { dir: dir.to_owned() });
            }
            Ok(found) if found.len() > LONGEST => {
                return Err(bad(format!("it has {} bytes", found.len())));
            }
            _ => {}
        }
        let text = fs::read(&path).map_err(DataError::io("read", &path))?;
        // The format first: what another format holds is not for this program to judge.
        let any: serde_json::Value = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        match any.get("format") {
            Some(format) if *format == FORMAT => {}
            Some(format) => {
                return Err(DataError::Format { path, expected: FORMAT, found: format.to_string() });
            }
            None => return Err(bad("it names no format".into())),
        }
        let manifest: Manifest = serde_json::from_value(any).map_err(|error| bad(error.to_string()))?;
        manifest.check().map_err(bad)?;
        let found = manifest.compute_digest();
        if found != manifest.digest {
            return Err(DataError::Digest { path, expected: manifest.digest, found });
        }
        Ok(manifest)
    }

    /// Writes the manifest into `dir`, whole or not at all.
    pub(crate) fn store(&self, dir: &Path) -> Result<(), DataError> {
        let path = dir.join(FILE);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| DataError::Manifest { path: path.clone(), reason: error.to_string() })?;
        text.push('\n');
        aside::write(&path, &[text.as_bytes()])
    }

    /// How many images each shard holds, in order: what `began::order` needs.
    #[must_use]
    pub fn shard_samples(&self) -> Vec<u64> {
        self.shards.iter().map(|shard| shard.samples).collect()
    }

    /// What holds of every manifest of this format, or why it does not hold.
    fn check(&self) -> Result<(), String> {
        if !is_size(self.size) {
            return Err(format!("size should be a power of two from 16 to 512 and is {}", self.size));
        }
        if self.channels != shard::CHANNELS {
            return Err(format!("channels should be {} and is {}", shard::CHANNELS, self.channels));
        }
        let mut sum = 0u64;
        for (index, shard) in self.shards.iter().enumerate() {
            // Also what keeps a manifest from naming files outside its folder.
            if shard.file != shard::file_name(index) {
                return Err(format!("shard {index} should be {} and is {:?}", shard::file_name(index), shard.file));
            }
            // Far more than fits in a file, and small enough that no product overflows.
            if shard.samples == 0 || shard.samples > 1 << 40 {
                return Err(format!("{} says it has {} images", shard.file, shard.samples));
            }
            sum = sum.saturating_add(shard.samples);
        }
        if sum != self.samples || sum == 0 {
            return Err(format!("samples should be the sum over the shards, {sum}, and is {}", self.samples));
        }
        Ok(())
    }

    /// The digest of what the manifest says.
    pub(crate) fn compute_digest(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(format!("began data {}\nsize {}\n", self.format, self.size).as_bytes());
        for shard in &self.shards {
            hash.update(format!("{} {} {}\n", shard.file, shard.samples, shard.blake3).as_bytes());
        }
        hash.finalize().to_hex().to_string()
    }
}

/// Whether images can have this width and height.
#[must_use]
pub fn is_size(size: u32) -> bool {
    size.is_power_of_two() && (16..=512).contains(&size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    fn manifest() -> Manifest {
        let mut manifest = Manifest {
            format: FORMAT,
            size: 32,
            channels: 3,
            samples: 5,
            shards: vec![
                ShardEntry { file: shard::file_name(0), samples: 3, blake3: "aa".into() },
                ShardEntry { file: shard::file_name(1), samples: 2, blake3: "bb".into() },
            ],
            digest: String::new(),
            source: SourceDescription {
                kind: "folder".into(),
                crop: Crop::Center,
                split: Split::All,
                seed: 0,
                count: 0,
            },
            skipped: SkippedCounts::default(),
        };
        manifest.digest = manifest.compute_digest();
        manifest
    }

    fn refused(change: impl FnOnce(&mut serde_json::Value)) -> Result<String, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let mut json = serde_json::to_value(manifest())?;
        change(&mut json);
        fs::write(dir.path().join(FILE), json.to_string())?;
        Ok(Manifest::load(dir.path()).err().ok_or("it was accepted")?.to_string())
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_stored() -> Result<(), Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        manifest().store(dir.path())?;
        assert_eq!(Manifest::load(dir.path())?, manifest());
        assert_eq!(manifest().shard_samples(), [3, 2]);
        Ok(())
    }

    #[test]
    fn a_folder_without_a_manifest_is_told_how_to_make_one() -> Result<(), Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let text = Manifest::load(dir.path()).err().ok_or("accepted")?.to_string();
        assert!(text.contains("trainer prepare") && text.contains(&dir.path().display().to_string()), "{text}");
        Ok(())
    }

    #[test]
    fn a_manifest_of_another_format_says_which() -> Result<(), Box<dyn Error>> {
        let text = refused(|json| json["format"] = 2.into())?;
        assert!(text.contains("format 2") && text.contains("reads format 1"), "{text}");
        Ok(())
    }

    #[test]
    fn a_changed_manifest_does_not_match_its_digest() -> Result<(), Box<dyn Error>> {
        let text = refused(|json| json["shards"][1]["blake3"] = "cc".into())?;
        assert!(text.contains("does not match its own digest"), "{text}");
        Ok(())
    }

    #[test]
    fn a_manifest_cannot_name_files_outside_its_folder() -> Result<(), Box<dyn Error>> {
        let text = refused(|json| json["shards"][0]["file"] = "../../secret".into())?;
        assert!(text.contains("should be shard-00000.safetensors"), "{text}");
        Ok(())
    }

    #[test]
    fn sums_and_sizes_must_hold() -> Result<(), Box<dyn Error>> {
        assert!(refused(|json| json["samples"] = 6.into())?.contains("should be the sum over the shards, 5, and is 6"));
        assert!(refused(|json| json["size"] = 48.into())?.contains("power of two"));
        assert!(refused(|json| json["channels"] = 1.into())?.contains("channels should be 3"));
        assert!(refused(|json| json["shards"][0]["samples"] = u64::MAX.into())?.contains("says it has"));
        assert!(refused(|json| *json = serde_json::json!([]))?.contains("names no format"));
        Ok(())
    }
}
