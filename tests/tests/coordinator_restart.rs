//! The coordinator dies: it comes back from its journal, the trainers find it again, and the run ends as if nothing had
//! happened.

use anyhow::{Result, ensure};
use began_tests::{Course, Disturbed};

#[test]
fn the_run_outlives_its_coordinator() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    run.reach(40)?;
    let trainers = run.processes("trainer");
    run.kill(&run.processes("coordinator"))?;
    run.reach(80)?;
    // Their states were in memory: nobody had to start again.
    ensure!(run.processes("trainer") == trainers, "{trainers:?} were replaced by {:?}", run.processes("trainer"));
    run.ends_as_if_undisturbed().map(drop)
}

#[test]
fn the_run_outlives_its_coordinator_twice() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    for step in [40, 110] {
        run.reach(step)?;
        run.kill(&run.processes("coordinator"))?;
    }
    run.ends_as_if_undisturbed().map(drop)
}

#[test]
fn the_run_outlives_its_coordinator_and_a_trainer_at_once() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    run.reach(40)?;
    let victims = [run.processes("coordinator"), vec![run.trainer(0, 1)?]].concat();
    run.kill(&victims)?;
    run.ends_as_if_undisturbed().map(drop)
}

#[test]
fn the_run_outlives_everything_but_its_launcher() -> Result<()> {
    let mut run = Disturbed::start(Course { nodes: 2, gpus: 2, ..Course::default() })?;
    run.reach(40)?;
    let victims = ["coordinator", "agent", "trainer"].map(|word| run.processes(word)).concat();
    // A killed agent takes its trainers with it, perhaps before their turn comes.
    for victim in victims {
        let _ = run.kill(&[victim]);
    }
    run.ends_as_if_undisturbed().map(drop)
}
