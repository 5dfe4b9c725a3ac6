//! A run of four trainers over eight lanes that something happens to, and everything that must hold at its end: it ends
//! well, with the digest of a run that nothing happened to, with a sound ledger, with decisions that come out again, and
//! with nothing left running.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Desk, Running, said, succeed};

/// What every disturbed run is: a checkpoint every 25 steps, and digests in between.
const HABITS: [&str; 6] = ["--set", "run.lanes=8", "--set", "run.checkpoint_every=25", "--set", "run.digest_every=20"];

/// The name of the run on its desk.
const RUN: &str = "run";

/// The digest line of a run of eight lanes over `steps` steps that nothing happens to. Computed once a test program for
/// every configuration, by two trainers.
///
/// # Errors
/// If that run fails.
pub fn undisturbed(steps: u64, settings: &[&str]) -> Result<String> {
    static KNOWN: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);
    // Held while it is computed, so that nobody else computes the same.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    let configuration = format!("{steps} {}", settings.join(" "));
    if let Some(digest) = known.get(&configuration) {
        return Ok(digest.clone());
    }
    let digest = Desk::new()?.train("undisturbed", 1, 2, steps, &[&HABITS, settings].concat())?;
    known.insert(configuration, digest.clone());
    Ok(digest)
}

/// What a disturbed run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// Nodes, all on this machine.
    pub nodes: u32,
    /// Trainers on each.
    pub gpus: u32,
    /// Steps.
    pub steps: u64,
    /// Settings that the undisturbed run has too, as `--set` and `key=value`.
    pub settings: &'a [&'a str],
    /// Arguments that only the disturbed run has: they change nothing in what is computed.
    pub habits: &'a [&'a str],
    /// More in the launcher's environment.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Default for Course<'_> {
    /// Four trainers on one node, 150 steps.
    fn default() -> Self {
        Self { nodes: 1, gpus: 4, steps: 150, settings: &[], habits: &[], environment: &[] }
    }
}

/// A run that something is about to happen to.
pub struct Disturbed {
    // Before the desk: what runs is ended before its folder goes.
    running: Option<Running>,
    /// Where it lies, as "run".
    pub desk: Desk,
    golden: String,
}

impl Disturbed {
    /// Starts one.
    ///
    /// # Errors
    /// If it cannot be started, or the undisturbed run fails.
    pub fn start(course: Course<'_>) -> Result<Self> {
        let Course { nodes, gpus, steps, settings, habits, environment } = course;
        let golden = undisturbed(steps, settings)?;
        let desk = Desk::new()?;
        let mut command = desk.launch(RUN, nodes, gpus, steps, &[&HABITS, settings, habits].concat());
        command.envs(environment.iter().copied());
        let running = Some(Running::start(command)?);
        Ok(Self { desk, running, golden })
    }

    /// Waits until the run has `step` steps behind it.
    ///
    /// # Errors
    /// If it does not get there.
    pub fn reach(&self, step: usize) -> Result<()> {
        self.desk.reach(RUN, step)
    }

    /// The process of a trainer.
    ///
    /// # Errors
    /// If it is not there.
    pub fn trainer(&self, node: u32, local_rank: u32) -> Result<Pid> {
        self.desk.trainer(RUN, node, local_rank)
    }

    /// The processes of a kind, by the word of [`Desk::processes`].
    #[must_use]
    pub fn processes(&self, word: &str) -> Vec<Pid> {
        self.desk.processes(RUN, word)
    }

    /// Kills processes, of which there must be at least one, in one go.
    ///
    /// # Errors
    /// If there is none, or one is gone.
    pub fn kill(&self, victims: &[Pid]) -> Result<()> {
        ensure!(!victims.is_empty(), "there is nobody to kill");
        for &victim in victims {
            kill(victim, Signal::SIGKILL).with_context(|| format!("process {victim}"))?;
        }
        Ok(())
    }

    /// Waits for the end, which must be the one of the undisturbed run; what the launcher said.
    ///
    /// # Errors
    /// If anything does not hold.
    pub fn ends_as_if_undisturbed(&mut self) -> Result<String> {
        let output = self.running.take().context("it ended already")?.finish()?;
        let text = said(&output);
        ensure!(output.status.code() == Some(0), "{:?}: {text}", output.status);
        ensure!(!text.contains("panicked at"), "{text}");
        self.desk.nothing_left(RUN)?;
        self.holds_golden(RUN).with_context(|| text.clone())?;
        Ok(text)
    }

    /// Waits for an end that must be a failure; the exit code and what the launcher said.
    ///
    /// # Errors
    /// If it does not fail, or something is left running.
    pub fn fails(&mut self) -> Result<(i32, String)> {
        let output = self.running.take().context("it ended already")?.finish()?;
        let text = said(&output);
        let code = output.status.code().with_context(|| format!("{:?}: {text}", output.status))?;
        ensure!(code != 0 && !text.contains("panicked at"), "{code}: {text}");
        self.desk.nothing_left(RUN)?;
        Ok((code, text))
    }

    /// That a run on the desk has the digest of the undisturbed one, a sound ledger and decisions that come out again.
    ///
    /// # Errors
    /// If not.
    pub fn holds_golden(&self, run: &str) -> Result<()> {
        holds(&self.desk, run, &self.golden)
    }

    /// The texts of the events of a kind.
    ///
    /// # Errors
    /// If there is no journal.
    pub fn told(&self, kind: &str) -> Result<Vec<String>> {
        self.desk.told(RUN, kind)
    }
}

/// That a run on a desk has this digest line, a sound ledger and decisions that come out again.
///
/// # Errors
/// If not.
pub fn holds(desk: &Desk, run: &str, golden: &str) -> Result<()> {
    let digest = desk.digest(run)?;
    ensure!(digest == golden, "the digest {} is not {}", digest.trim(), golden.trim());
    succeed("launcher", ["ledger", &desk.arg(run)])?;
    succeed("coordinator", ["replay", &desk.arg(run), "--quiet"])?;
    Ok(())
}
