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

/// So fast that L(x) jumps in step 12, by a third; five times slower, it does not. There is a checkpoint of step 6 to go back
/// to, which is on the disk long before.
const TOO_FAST: [&str; 12] = [
    "--set",
    "optimizer.rate=0.03",
    "--set",
    "guard.jump=rollback",
    "--set",
    "guard.jump_factor=1.3",
    "--set",
    "guard.window=10",
    "--set",
    "guard.rate_factor=0.2",
    "--set",
    "run.checkpoint_every=6",
];

#[test]
fn a_run_that_goes_back_is_as_exact_as_any_other() -> Result<()> {
    let mut run = Disturbed::start(Course { steps: 120, settings: &TOO_FAST, ..Course::default() })?;
    run.ends_as_if_undisturbed()?;
    let told = run.told("guard")?;
    let back = told.first().with_context(|| "it never went back")?;
    for words in ["L(x) jumped", "guard.jump_factor", "rollback 1 to step 6", "with the learning rate 6.000e-3"] {
        ensure!(back.contains(words), "it does not say {words:?}: {told:?}");
    }
    Ok(())
}

#[test]
fn a_run_that_goes_back_is_the_same_run_with_deaths_before_and_after() -> Result<()> {
    let mut run = Disturbed::start(Course { steps: 120, settings: &TOO_FAST, ..Course::default() })?;
    run.reach(15)?;
    run.kill(&[run.trainer(0, 1)?])?;
    run.reach(50)?;
    run.kill(&run.processes("coordinator"))?;
    run.reach(80)?;
    run.kill(&[run.trainer(0, 0)?])?;
    run.ends_as_if_undisturbed()?;
    ensure!(run.told("guard")?.len() == 1, "{:?}", run.told("guard")?);
    Ok(())
}

#[test]
fn where_a_run_goes_back_to_does_not_hang_on_when_a_checkpoint_came_to_the_disk() -> Result<()> {
    // The checkpoint of step 11 is being written when step 12 fires.
    let settings = [&TOO_FAST[..], &["--set", "run.checkpoint_every=11"]].concat();
    for gpus in [1, 4] {
        let mut run = Disturbed::start(Course { gpus, steps: 30, settings: &settings, ..Course::default() })?;
        run.ends_as_if_undisturbed()?;
        let told = run.told("guard")?;
        ensure!(told.first().is_some_and(|text| text.contains("rollback 1 to step 11")), "{gpus}: {told:?}");
    }
    Ok(())
}
