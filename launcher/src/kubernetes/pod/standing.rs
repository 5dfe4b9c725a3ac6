//! `standing.json` in a run's folder: where the run stands, for its pods, which see neither each other nor its journal
//! (a journal is read on the machine that writes it).

use std::path::{Path, PathBuf};

use anyhow::Result;
use began_record::{RunDir, write_atomically};
use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its coordinator is there, or is to come back.
    Running,
    /// Its coordinator's pod had to go; it goes on once that is there again.
    Interrupted,
    /// It took all its steps.
    Finished,
    /// Somebody stopped it.
    Stopped,
    /// It failed.
    Failed,
}

#[derive(Serialize, Deserialize)]
struct File {
    standing: Standing,
}

fn path(run: &Path) -> PathBuf {
    run.join("standing.json")
}

impl Standing {
    /// Whether nobody is needed any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Stopped | Self::Failed)
    }

    /// Writes it down.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(self, run: &Path) -> Result<()> {
        let text = serde_json::to_vec(&File { standing: self })?;
        Ok(write_atomically(&path(run), &text)?)
    }

    /// What was written last. What cannot be read is nothing: a pod then goes by what it sees itself.
    #[must_use]
    pub fn read(run: &Path) -> Option<Self> {
        let text = std::fs::read(path(run)).ok()?;
        serde_json::from_slice::<File>(&text).ok().map(|file| file.standing)
    }
}

/// Whether a run took all its steps, as far as its newest checkpoint says: every run that ends in order writes one.
#[must_use]
pub fn is_finished(run: &RunDir) -> bool {
    let newest = run.latest_checkpoint().ok().flatten();
    let steps = run.config().ok().map(|config| config.run.steps);
    newest.zip(steps).is_some_and(|(checkpoint, steps)| checkpoint.step.0 >= steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_torn_is_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(Standing::read(folder.path()), None);
        Standing::Interrupted.write(folder.path())?;
        assert_eq!(Standing::read(folder.path()), Some(Standing::Interrupted));
        std::fs::write(folder.path().join("standing.json"), "{\"stand")?;
        assert_eq!(Standing::read(folder.path()), None);
        Ok(())
    }
}
