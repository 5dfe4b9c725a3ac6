//! A prepared set opened for reading: its shards mapped into memory, checked, and shared by reference.
//!
//! Opening checks names, headers, shapes and lengths; hashes are computed when a shard is first used, once a process.
//! It must never copy pixels, and never hand out an image of a shard whose length is not what the manifest says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::Mmap;

use crate::error::DataError;
use crate::manifest::Manifest;
use crate::{mapping, shard};

/// A prepared set.
#[derive(Debug)]
pub struct DataSet {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<MappedShard>,
}

#[derive(Debug)]
struct MappedShard {
    path: PathBuf,
    map: Mmap,
    /// Where the pixels start.
    start: usize,
    /// The hash of the file, once computed.
    hash: OnceLock<String>,
}

impl DataSet {
    /// Opens the set in `dir`, with all its shards.
    ///
    /// # Errors
    /// If the manifest is missing or wrong, or a shard is missing, cut short or of another shape; the shard is named.
    pub fn open(dir: &Path) -> Result<DataSet, DataError> {
        let manifest = Manifest::load(dir)?;
        let shards = manifest
            .shards
            .iter()
            .map(|entry| {
                let path = dir.join(&entry.file);
                let file = File::open(&path).map_err(DataError::io("open", &path))?;
                let map = mapping::map(&file).map_err(DataError::io("map", &path))?;
                let start = shard::check(&path, &map, entry.samples, manifest.size)?;
                Ok(MappedShard { path, map, start, hash: OnceLock::new() })
            })
            .collect::<Result<_, DataError>>()?;
        Ok(DataSet { dir: dir.to_owned(), manifest, shards })
    }

    /// What the set says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Width and height of every image.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.manifest.size
    }

    /// Images in all shards.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.manifest.samples
    }

    /// Whether there are none; no prepared set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, shard: u32) -> Result<&MappedShard, DataError> {
        self.shards.get(shard as usize).ok_or_else(|| DataError::NoSuchShard {
            dir: self.dir.clone(),
            shard,
            shards: self.shards.len(),
        })
    }

    /// The file of a shard, for messages.
    #[must_use]
    pub fn shard_name(&self, shard: u32) -> String {
        shard::file_name(shard as usize)
    }

    /// Compares a shard's bytes with the hash in the manifest. The hash is computed once a process; whoever comes
    /// second waits for the first.
    ///
    /// # Errors
    /// If the shard is damaged: names the file, the hash it should have and the one it has.
    pub fn verify_shard(&self, shard: u32) -> Result<(), DataError> {
        let mapped = self.shard(shard)?;
        let expected = &self.manifest.shards[shard as usize].blake3;
        let found = mapped.hash.get_or_init(|| blake3::hash(&mapped.map).to_hex().to_string());
        if found == expected {
            return Ok(());
        }
        Err(DataError::ShardHash { path: mapped.path.clone(), expected: expected.clone(), found: found.clone() })
    }

    /// One image: `[3,size,size]`, red plane first, rows from the top.
    ///
    /// # Errors
    /// If there is no such shard or image.
    pub fn image(&self, shard: u32, index: u64) -> Result<&[u8], DataError> {
        let mapped = self.shard(shard)?;
        let samples = self.manifest.shards[shard as usize].samples;
        if index >= samples {
            return Err(DataError::NoSuchImage { path: mapped.path.clone(), index, samples });
        }
        let bytes = shard::image_bytes(self.size());
        // Inside the map: `open` checked that it holds `samples` images from `start`.
        let start = mapped.start + index as usize * bytes;
        Ok(&mapped.map[start..start + bytes])
    }
}
