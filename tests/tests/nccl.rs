//! Trainers that reduce through NCCL's interface: over its double, on CPUs, with the same bits and through the same faults.

use anyhow::{Context, Result, ensure};
use began_tests::{Course, Disturbed};

fn double() -> Result<String> {
    let path = nccl_double::library().map_err(anyhow::Error::msg)?;
    Ok(path.to_str().context("a path that is not UTF-8")?.to_owned())
}

#[test]
fn over_nccl_a_run_ends_with_the_digest_of_one_over_gloo_and_outlives_rank_0_and_two_at_once() -> Result<()> {
    let library = double()?;
    let environment = [("BEGAN_BACKEND", "nccl"), ("BEGAN_NCCL", library.as_str())];
    let mut run = Disturbed::start(Course { environment: &environment, ..Course::default() })?;
    run.reach(30)?;
    run.kill(&[run.trainer(0, 0)?])?;
    run.reach(70)?;
    run.kill(&[run.trainer(0, 1)?, run.trainer(0, 3)?])?;
    run.ends_as_if_undisturbed()?;
    let manifest = std::fs::read_to_string(run.desk.path("run").join("manifest.json"))?;
    ensure!(manifest.contains("NCCL 2.28.9"), "what reduced is not in the manifest: {manifest}");
    Ok(())
}

#[test]
fn a_trainer_whose_operation_hangs_in_nccl_is_not_waited_for_beyond_the_step_timeout() -> Result<()> {
    let library = double()?;
    // Rank 1 of the first generation hangs in an operation, as a kernel would whose peer is gone without a word; those that come after
    // it have another process's script.
    let environment =
        [("BEGAN_BACKEND", "nccl"), ("BEGAN_NCCL", library.as_str()), ("NCCL_DOUBLE", "hang at op 150 on 1")];
    let habits = ["--set", "run.step_timeout=2"];
    let mut run =
        Disturbed::start(Course { environment: &environment, habits: &habits, steps: 40, ..Course::default() })?;
    run.ends_as_if_undisturbed()?;
    ensure!(
        run.told("halt")?.iter().any(|text| text.contains("step_timeout") || text.contains("lost")),
        "nothing was noticed"
    );
    Ok(())
}
