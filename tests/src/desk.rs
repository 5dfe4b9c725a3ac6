//! A folder of a test's own: a small data set, runs beside it, and a look at the processes that work on them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use began_record::{EventRow, Journal, RunDir};
use nix::unistd::Pid;

use crate::{Running, SMALL, program, succeed, wait_for};

/// A folder with a small data set of made-up faces, 16 px.
pub struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// Prepares the data.
    ///
    /// # Errors
    /// If it cannot be prepared.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        began_data::prepare::prepare(&began_data::prepare::Options {
            source: "synthetic:faces".into(),
            out: folder.path().join("data"),
            size: 16,
            count: 120,
            seed: 3,
            samples_per_shard: 25,
            quiet: true,
            ..Default::default()
        })?;
        Ok(Self { folder })
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder, as an argument.
    #[must_use]
    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Arguments of a small training of four lanes into the run `name`.
    #[must_use]
    pub fn training(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> =
            ["--nodes", &nodes.to_string(), "--gpus", &gpus.to_string()].map(String::from).to_vec();
        args.extend(SMALL.map(String::from));
        args.extend(["--data", &self.arg("data"), "--run", &self.arg(name)].map(String::from));
        args.extend(["--set".to_owned(), format!("run.steps={steps}")]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args
    }

    /// Trains to the end, and gives the digest line.
    ///
    /// # Errors
    /// If the run fails.
    pub fn train(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Result<String> {
        succeed("launcher", self.training(name, nodes, gpus, steps, more))?;
        self.digest(name)
    }

    /// What `launcher digest` says of a run.
    ///
    /// # Errors
    /// If it says nothing.
    pub fn digest(&self, name: &str) -> Result<String> {
        succeed("launcher", ["digest", &self.arg(name)])
    }

    /// Starts a training without waiting for its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Result<Running> {
        Running::start(self.launch(name, nodes, gpus, steps, more))
    }

    /// The command that [`Desk::start`] starts, for a test that changes its environment.
    #[must_use]
    pub fn launch(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Command {
        let mut command = program("launcher");
        command.args(self.training(name, nodes, gpus, steps, more));
        command
    }

    /// How many steps are in a run's journal.
    ///
    /// # Errors
    /// If there is no journal.
    pub fn steps(&self, name: &str) -> Result<usize> {
        Ok(Journal::read(&RunDir::open(&self.path(name))?)?.steps()?.len())
    }

    /// Waits until a run has `step` steps behind it.
    ///
    /// # Errors
    /// If it does not get there in time.
    pub fn reach(&self, name: &str, step: usize) -> Result<()> {
        let path = self.path(name);
        wait_for(&format!("step {step} of {name}"), || {
            let journal = RunDir::open(&path).and_then(|run| Journal::read(&run)).ok()?;
            (journal.steps().ok()?.len() >= step).then_some(())
        })
    }

    /// The address of a run's page, once its coordinator has said it.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn page(&self, name: &str) -> Result<String> {
        wait_for(&format!("the page of {name}"), || RunDir::open(&self.path(name)).ok()?.announcement().ok()??.page)
    }

    /// The events in a run's journal.
    ///
    /// # Errors
    /// If there is no journal.
    pub fn events(&self, name: &str) -> Result<Vec<EventRow>> {
        Ok(Journal::read(&RunDir::open(&self.path(name))?)?.events()?)
    }

    /// The texts of the events of a kind, oldest first.
    ///
    /// # Errors
    /// If there is no journal.
    pub fn told(&self, name: &str, kind: &str) -> Result<Vec<String>> {
        let events = self.events(name)?.into_iter();
        Ok(events.filter(|event| event.kind == kind).map(|event| event.text).collect())
    }

    /// The processes that work on a run, by a word of their command lines: "trainer", "coordinator", "agent".
    #[must_use]
    pub fn processes(&self, name: &str, word: &str) -> Vec<Pid> {
        self.processes_with(name, word, |_| true)
    }

    /// The process of one trainer, once it is there.
    ///
    /// # Errors
    /// If it does not come.
    pub fn trainer(&self, name: &str, node: u32, local_rank: u32) -> Result<Pid> {
        let place = ["--node".into(), node.to_string(), "--local-rank".into(), local_rank.to_string()];
        wait_for(&format!("trainer {local_rank} of node {node} of {name}"), || {
            self.processes_with(name, "trainer", |args| args.windows(4).any(|four| four == place)).pop()
        })
    }

    fn processes_with(&self, name: &str, word: &str, holds: impl Fn(&[String]) -> bool) -> Vec<Pid> {
        let run = self.arg(name);
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut found: Vec<i32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let args = line.split(|&byte| byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned());
                let args: Vec<String> = args.collect();
                args.contains(&run) && args.iter().take(2).any(|arg| arg.ends_with(word)) && holds(&args)
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(Pid::from_raw).collect()
    }

    /// Waits until nothing works on a run any more.
    ///
    /// # Errors
    /// If something still does.
    pub fn nothing_left(&self, name: &str) -> Result<()> {
        wait_for("every process of the run to end", || {
            ["trainer", "coordinator", "agent"].iter().all(|word| self.processes(name, word).is_empty()).then_some(())
        })
    }
}
