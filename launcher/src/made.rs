//! A run's folder that a launch made: it is removed again if no step was taken in it.
//!
//! It must never remove a folder in which a step was taken, nor one whose journal cannot be read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use began_record::{Journal, RunDir};

/// A run's folder that this launch made.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    was_there: bool,
}

impl Made {
    /// To be called before the folder is made.
    #[must_use]
    pub fn remember(path: &Path) -> Self {
        Self { path: path.into(), was_there: path.is_dir() }
    }

    /// Removes the folder again if no step was taken in it; returns whether it did.
    ///
    /// # Errors
    /// If it cannot be looked into, or removed.
    pub fn remove_if_unused(&self) -> Result<bool> {
        let Ok(run) = RunDir::open(&self.path) else {
            return Ok(false);
        };
        let stepped = match Journal::read(&run) {
            Ok(journal) => !journal.steps()?.is_empty(),
            Err(_) => run.journal().exists(),
        };
        if stepped || !run.checkpoints()?.is_empty() {
            return Ok(false);
        }
        let cannot = || format!("cannot remove {}, in which no step was taken", self.path.display());
        std::fs::remove_dir_all(&self.path).with_context(cannot)?;
        if self.was_there {
            std::fs::create_dir(&self.path).with_context(cannot)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn a_folder_in_which_no_step_was_taken_is_removed_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for (name, entries, removed) in [("unused", vec![], true), ("used", vec![made_up::step(0, 0.5)], false)] {
            let path = folder.path().join(name);
            let made = Made::remember(&path);
            made_up::run(&path, &[], &entries)?;
            assert_eq!(made.remove_if_unused()?, removed);
            assert_eq!(path.exists(), !removed);
        }
        Ok(())
    }
}
