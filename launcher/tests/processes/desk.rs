//! A folder with made-up data and a place for a run, and looks at how far that is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{Program, family_of, launcher, wait_until};
use anyhow::Result;

pub struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("data"))?;
        crate::made_up_data::data_set(&folder.path().join("data"), 32)?;
        Ok(Self { folder })
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn train(&self, coordinator: &str, trainers: &str, flags: &[&str]) -> Command {
        let mut command = launcher();
        command.arg("--data").arg(self.folder.path().join("data")).arg("--run").arg(self.run());
        command.args(["--device", "cpu"]).args(flags);
        command.env("FAKE_COORDINATOR", coordinator).env("FAKE_TRAINER", trainers);
        command
    }
}

/// Waits until the launcher has this many processes below it.
pub fn grown(launcher: &Program, processes: usize) -> Result<Vec<u32>> {
    // Trainers that wait for the end of the run start short sleeps of their own.
    wait_until("all processes are started", || family_of(launcher.pid()).len() > processes)?;
    Ok(family_of(launcher.pid()))
}

pub fn digest_or_steps(run: &Path) -> bool {
    let journal = began_record::RunDir::open(run).and_then(|run| began_record::Journal::read(&run));
    journal.and_then(|journal| journal.steps()).is_ok_and(|steps| !steps.is_empty())
}
