//! A full disk: a file in the run's folder that takes all there is, for a while.
//!
//! Only where the run lies on a small file system of its own: filling anything else would hurt more than the run. The file goes
//! when this does, and one that was left behind goes at the next start.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

/// A file system of this size or more is not filled.
const SMALL: u64 = 4 << 30;

/// The smallest piece that is tried.
const PIECE: u64 = 4 << 10;

/// The file that fills the disk.
pub struct Filler {
    path: PathBuf,
}

/// Checks that the file system of a run may be filled, and removes what an earlier filling left behind.
///
/// # Errors
/// If it is too large.
pub fn may_be_filled(run: &Path) -> Result<()> {
    let _ = fs::remove_file(place(run));
    let stat =
        statvfs(run).with_context(|| format!("cannot ask for the size of the file system of {}", run.display()))?;
    let size = stat.blocks() * stat.fragment_size();
    if size >= SMALL {
        bail!(
            "--faults disk: {} lies on a file system of {:.1} GiB, which is not filled for this; put the run on one of its \
             own of less than {} GiB, as `mount -t tmpfs -o size=512M tmpfs DIR` makes",
            run.display(),
            size as f64 / f64::from(1 << 30),
            SMALL >> 30
        );
    }
    Ok(())
}

/// Fills the file system until nothing more fits.
///
/// # Errors
/// If not even a file can be made.
pub fn fill(run: &Path) -> Result<Filler> {
    let path = place(run);
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let filler = Filler { path };
    let (mut end, mut piece) = (0u64, SMALL);
    while piece >= PIECE {
        let (from, length) = (i64::try_from(end).unwrap_or(i64::MAX), i64::try_from(piece).unwrap_or(i64::MAX));
        match posix_fallocate(&file, from, length) {
            Ok(()) => end += piece,
            Err(nix::errno::Errno::ENOSPC | nix::errno::Errno::EFBIG) => piece /= 2,
            Err(error) => {
                return Err(io::Error::from(error)).with_context(|| format!("cannot fill {}", filler.path.display()));
            }
        }
    }
    Ok(filler)
}

fn place(run: &Path) -> PathBuf {
    run.join(".filler")
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_system_is_refused_with_what_to_do() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::write(place(folder.path()), "left behind")?;
        match may_be_filled(folder.path()) {
            Ok(()) => println!("skipped: the folder for temporary files is small"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("GiB") && error.contains("tmpfs") && error.contains("--faults disk"), "{error}");
            }
        }
        assert!(!place(folder.path()).exists());
        Ok(())
    }

    #[test]
    fn the_filler_goes_when_it_is_dropped() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = place(folder.path());
        fs::write(&path, "as if it filled the disk")?;
        drop(Filler { path: path.clone() });
        assert!(!path.exists());
        Ok(())
    }
}
