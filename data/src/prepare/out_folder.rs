//! The folder a set is written into: whose it is, what may be replaced, and what is left behind on failure.
//!
//! It must never remove or overwrite a file that `prepare` did not write, and never leave a manifest beside shards that
//! are not its own.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::aside;
use crate::error::DataError;
use crate::manifest::{self, Manifest, ShardEntry};
use crate::shard;

/// A folder claimed for writing. Dropped before [`finish`](Self::finish), it removes what it wrote.
#[derive(Debug)]
pub(super) struct OutFolder {
    dir: PathBuf,
    /// Holds the lock against a second preparation into the same folder.
    _lock: File,
    /// Whether the folder was made for this set.
    created: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was written; an old set, if any, is still whole.
    Claimed,
    /// The old set is gone, and there is no manifest.
    Writing,
    Finished,
}

impl OutFolder {
    /// Takes the folder for a new set, making it where it is missing. An old set stays until the first shard of the new
    /// one is ready.
    ///
    /// # Errors
    /// If it holds a finished set and `force` is not given, or anything else, or cannot be written, or is being
    /// written.
    pub(super) fn claim(dir: &Path, force: bool) -> Result<Self, DataError> {
        let created = match fs::metadata(dir) {
            Ok(found) if !found.is_dir() => {
                return Err(DataError::Flag {
                    flag: "--out",
                    found: dir.display().to_string(),
                    expected: "it is a file, and a folder is needed".into(),
                });
            }
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(DataError::io("look at", dir)(error)),
        };
        fs::create_dir_all(dir).map_err(DataError::io("make the folder", dir))?;
        let lock = File::open(dir).map_err(DataError::io("open", dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataError::Busy { dir: dir.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(DataError::io("lock", dir)(error)),
        }
        // Under the lock: what is found stays true.
        inspect(dir, force)?;
        // Now, not after minutes of decoding.
        aside::probe(&dir.join(manifest::FILE))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock, created, state: State::Claimed })
    }

    /// Writes a shard, `pixels` being `[N,3,size,size]`.
    pub(super) fn write_shard(&mut self, index: usize, size: u32, pixels: &[u8]) -> Result<ShardEntry, DataError> {
        if self.state == State::Claimed {
            self.state = State::Writing;
            clear(&self.dir)?;
        }
        let file = shard::file_name(index);
        let samples = (pixels.len() / shard::image_bytes(size)) as u64;
        let header = shard::header(samples, size);
        let mut hash = blake3::Hasher::new();
        hash.update(&header).update_rayon(pixels);
        aside::write(&self.dir.join(&file), &[&header, pixels])?;
        Ok(ShardEntry { file, samples, blake3: hash.finalize().to_hex().to_string() })
    }

    /// Writes the manifest: from here on there is a set.
    pub(super) fn finish(mut self, manifest: &Manifest) -> Result<(), DataError> {
        manifest.store(&self.dir)?;
        self.state = State::Finished;
        Ok(())
    }
}

impl Drop for OutFolder {
    fn drop(&mut self) {
        // Already failing, and what stays behind is recognised next time: there is nothing to report to.
        if self.state == State::Writing {
            let _ = clear(&self.dir);
        }
        if self.created && self.state != State::Finished {
            // Removes it only if it is empty.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Names in the folder that `prepare` could have written, and the first other one.
fn survey(dir: &Path) -> Result<(Vec<String>, Option<String>), DataError> {
    let (mut ours, mut foreign) = (Vec::new(), None);
    for entry in fs::read_dir(dir).map_err(DataError::io("list", dir))? {
        let name = entry.map_err(DataError::io("list", dir))?.file_name().to_string_lossy().into_owned();
        let whole = name.strip_suffix(aside::SUFFIX).unwrap_or(&name);
        if whole == manifest::FILE || shard::is_file_name(whole) {
            ours.push(name);
        } else if foreign.as_ref().is_none_or(|least| name < *least) {
            foreign = Some(name);
        }
    }
    Ok((ours, foreign))
}

/// Refuses a folder that must not be written into.
fn inspect(dir: &Path, force: bool) -> Result<(), DataError> {
    let (ours, foreign) = survey(dir)?;
    if ours.iter().any(|name| name == manifest::FILE) {
        return match Manifest::load(dir) {
            Ok(_) if force => Ok(()),
            Ok(old) => Err(DataError::Finished { dir: dir.to_owned(), samples: old.samples, digest: old.digest }),
            // Of another format or damaged, but a set's manifest all the same.
            Err(_) if force && resembles_manifest(dir) => Ok(()),
            Err(_) if !resembles_manifest(dir) => {
                Err(DataError::Foreign { dir: dir.to_owned(), found: manifest::FILE.into() })
            }
            Err(error) => Err(error),
        };
    }
    foreign.map_or(Ok(()), |found| Err(DataError::Foreign { dir: dir.to_owned(), found }))
}

fn resembles_manifest(dir: &Path) -> bool {
    fs::read(dir.join(manifest::FILE))
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .is_some_and(|json| json.get("format").is_some() && json.get("shards").is_some())
}

/// Removes an old set or what is left of one: the manifest first, so that it never names shards that are gone.
fn clear(dir: &Path) -> Result<(), DataError> {
    let (mut ours, _) = survey(dir)?;
    ours.sort_by_key(|name| name != manifest::FILE);
    for name in ours {
        let path = dir.join(&name);
        fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
        if name == manifest::FILE {
            aside::sync_folder(dir)?;
        }
    }
    Ok(())
}
