//! Guards over the equilibrium: what they say, what they stop, and that going back is as exact as everything else.

use anyhow::{Context, Result, ensure};
use began_record::RunDir;
use began_tests::{Course, Desk, Disturbed, fail, holds};

/// k stays at 0.
const PINNED: [&str; 4] = ["--set", "objective.lambda_k=0", "--set", "guard.pinned_steps=5"];

#[test]
fn a_guard_that_warns_says_so_in_the_journal_and_changes_nothing() -> Result<()> {
    let desk = Desk::new()?;
    let quiet = desk.train("quiet", 1, 2, 24, &PINNED)?;
    let warned = desk.train("warned", 1, 2, 24, &[&PINNED[..], &["--set", "guard.pinned=warn"]].concat())?;
    ensure!(quiet == warned, "{quiet} is not {warned}");
    let told = desk.told("warned", "guard")?;
    ensure!(told.len() == 4, "steps 5, 10, 15 and 20 and no other: {told:?}");
    ensure!(told.iter().all(|text| text.contains("k has been at 0") && text.contains("pinned_steps")), "{told:?}");
    ensure!(desk.told("quiet", "guard")?.is_empty());
    holds(&desk, "warned", &quiet)
}

#[test]
fn a_guard_that_stops_ends_the_run_as_failed_with_a_checkpoint() -> Result<()> {
    let desk = Desk::new()?;
    let more = [&PINNED[..], &["--set", "guard.pinned=stop"]].concat();
    let (code, text) = fail("launcher", desk.training("run", 1, 2, 500, &more))?;
    ensure!(code == 1 && text.contains("k has been at 0") && text.contains("pinned_steps"), "{code}: {text}");
    desk.nothing_left("run")?;
    let last = RunDir::open(&desk.path("run"))?.latest_checkpoint()?.context("nothing was saved")?;
    ensure!((5..10).contains(&last.step.0), "the checkpoint is of step {}: {text}", last.step);
    ensure!(desk.told("run", "guard")?.len() == 1, "{:?}", desk.told("run", "guard")?);
    Ok(())
}

/// L(x) goes up and down by nature: a factor just above one fires, and the run goes back twice at most.
const JUMPY: [&str; 10] = [
    "--set",
    "guard.jump=rollback",
    "--set",
    "guard.jump_factor=1.05",
    "--set",
    "guard.window=20",
    "--set",
    "guard.most_rollbacks=100",
    "--set",
    "run.sample_every=0",
];

#[test]
fn a_rollback_is_as_exact_as_everything_else() -> Result<()> {
    let mut run = Disturbed::start(Course { settings: &JUMPY, ..Course::default() })?;
    run.ends_as_if_undisturbed()?;
    let told = run.told("guard")?;
    ensure!(told.iter().any(|text| text.contains("rollback 1 to step")), "it never went back: {told:?}");
    Ok(())
}

#[test]
fn a_rollback_with_a_death_in_it_is_the_same_rollback() -> Result<()> {
    let mut run = Disturbed::start(Course { settings: &JUMPY, ..Course::default() })?;
    run.reach(30)?;
    run.kill(&[run.trainer(0, 1)?])?;
    run.ends_as_if_undisturbed().map(drop)
}
