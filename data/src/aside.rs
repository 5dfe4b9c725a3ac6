//! Files that are there whole or not at all: written aside in the same folder, synced, renamed.
//!
//! A file that was not finished is removed when its writer is dropped. It must never be seen under its own name
//! before every byte is on the disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// What the name of an unfinished file ends in; a folder with leftovers is recognised by it.
pub(crate) const SUFFIX: &str = ".unfinished";

/// Writes `parts`, one after the other, to `path`.
pub(crate) fn write(path: &Path, parts: &[&[u8]]) -> Result<(), DataError> {
    let aside = Aside { path: with_suffix(path) };
    let named = |action| DataError::io(action, path);
    let mut file = File::create(&aside.path).map_err(named("write"))?;
    for part in parts {
        file.write_all(part).map_err(named("write"))?;
    }
    file.sync_all().map_err(named("sync"))?;
    drop(file);
    fs::rename(&aside.path, path).map_err(named("rename into place"))?;
    // The name is gone: nothing is left to remove.
    std::mem::forget(aside);
    path.parent().map_or(Ok(()), sync_folder)
}

/// Whether `path` could be written: an error now, not after minutes of work.
pub(crate) fn probe(path: &Path) -> Result<(), DataError> {
    let aside = Aside { path: with_suffix(path) };
    File::create(&aside.path).map(drop).map_err(DataError::io("write", path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(dir: &Path) -> Result<(), DataError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(DataError::io("sync", dir))
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    PathBuf::from(name)
}

/// An unfinished file.
struct Aside {
    path: PathBuf,
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Already failing: a leftover that cannot be removed is recognised and removed by the next `prepare`.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_renamed_into_place_leaves_nothing_aside() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("taken");
        fs::create_dir(&path)?;
        let error = write(&path, &[b"text"]).err().ok_or("written over a folder")?;
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }
}
