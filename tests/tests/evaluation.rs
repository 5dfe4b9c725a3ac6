//! Scores during a run: those that `trainer evaluate` gives for the checkpoint, for live and averaged weights, at no bit's cost.

use anyhow::{Context, Result, ensure};
use began::score::{Metric, Weights};
use began_record::{EvaluationRow, Journal, RunDir};
use began_tests::{Course, Desk, Disturbed, SMALL, succeed};
use serde_json::Value;

/// A training of 32 px on a desk with data for it.
fn train(desk: &Desk, name: &str, gpus: u32, more: &[&str]) -> Result<String> {
    let data = desk.arg("large");
    if !desk.path("large").exists() {
        let what = ["prepare", "synthetic:faces", "--out", &data, "--size", "32", "--count", "120", "--quiet"];
        succeed("trainer", what)?;
    }
    let (gpus, run) = (gpus.to_string(), desk.arg(name));
    let mut args = vec!["--nodes", "1", "--gpus", &gpus, "--data", &data, "--run", &run];
    args.extend(SMALL);
    args.extend(["--set", "run.steps=12", "--set", "run.checkpoint_every=6", "--set", "optimizer.average=0.8"]);
    args.extend(more);
    succeed("launcher", &args)?;
    desk.digest(name)
}

const SCORED: [&str; 4] = ["--set", "run.evaluate_every=6", "--set", "run.evaluate_samples=48"];

fn evaluations(desk: &Desk, name: &str) -> Result<Vec<EvaluationRow>> {
    Ok(Journal::read(&RunDir::open(&desk.path(name))?)?.evaluations()?)
}

fn number(scores: &Value, path: &str) -> Result<f64> {
    scores.pointer(path).and_then(Value::as_f64).with_context(|| format!("no {path} in {scores}"))
}

#[test]
fn a_run_scores_itself_as_trainer_evaluate_scores_its_checkpoints_and_is_the_same_run_as_without() -> Result<()> {
    let desk = Desk::new()?;
    let without = train(&desk, "without", 1, &[])?;
    ensure!(evaluations(&desk, "without")?.is_empty(), "nobody asked for scores");
    ensure!(train(&desk, "one", 1, &SCORED)? == without, "scores change the run");
    ensure!(train(&desk, "three", 3, &SCORED)? == without, "scores change the run of three");
    let rows = evaluations(&desk, "one")?;
    let what: Vec<(u64, Weights)> = rows.iter().map(|row| (row.step.0, row.weights)).collect();
    let (live, average) = (Weights::Live, Weights::Average);
    ensure!(what == [(6, live), (6, average), (12, live), (12, average)], "{what:?}");
    ensure!(evaluations(&desk, "three")? == rows, "other scores on three trainers");

    for step in [6, 12] {
        let (checkpoint, out) = (desk.arg(&format!("one/checkpoints/step-{step:08}")), desk.arg("scores.json"));
        let data = desk.arg("large");
        let args = ["evaluate", &checkpoint, "--data", &data, "--count", "48", "--seed", "1", "--out", &out, "--quiet"];
        succeed("trainer", args)?;
        let report: Value = serde_json::from_slice(&std::fs::read(&out)?)?;
        for (weights, which) in [(live, "scores"), (average, "average_scores")] {
            let row = rows.iter().find(|row| row.step.0 == step && row.weights == weights).context("no row")?;
            for (metric, path) in [
                (Metric::SlicedWasserstein, "sliced_wasserstein/mean"),
                (Metric::SlicedWassersteinAt(32), "sliced_wasserstein/levels/0/distance"),
                (Metric::SlicedWassersteinAt(16), "sliced_wasserstein/levels/1/distance"),
                (Metric::MsSsim, "similarity/judged"),
                (Metric::MsSsimReal, "similarity/real"),
            ] {
                let expected = number(&report, &format!("/{which}/{path}"))?;
                let found = row.scores.get(&metric).with_context(|| format!("no {metric}"))?;
                ensure!(found.to_bits() == expected.to_bits(), "step {step}, {weights}: {metric} {found}, {expected}");
            }
        }
    }

    let told = desk.told("one", "evaluation")?;
    ensure!(told.len() == 4 && told[1].starts_with("step 6 with averaged weights: sliced Wasserstein"), "{told:?}");
    let board = std::fs::read_dir(desk.path("one/tensorboard"))?.next().context("no event file")??.path();
    let board = std::fs::read(board)?;
    for tag in
        ["evaluation/sliced_wasserstein", "evaluation/ms_ssim-average", "evaluation/sliced_wasserstein_16-average"]
    {
        ensure!(board.windows(tag.len()).any(|part| part == tag.as_bytes()), "TensorBoard has no {tag}");
    }
    let said = succeed("launcher", ["diagnose", &desk.arg("one")])?;
    ensure!(said.contains("sliced Wasserstein distance, averaged weights"), "{said}");
    let said = succeed("launcher", ["compare", &desk.arg("one"), &desk.arg("without")])?;
    ensure!(said.contains("MS-SSIM between generated images"), "{said}");
    Ok(())
}

#[test]
fn scores_that_die_with_their_trainer_are_said_to_be_missing_and_cost_no_bit() -> Result<()> {
    let habits = ["--set", "run.evaluate_every=5", "--set", "run.evaluate_samples=100"];
    let mut run = Disturbed::start(Course { habits: &habits, ..Course::default() })?;
    run.reach(40)?;
    run.kill(&[run.trainer(0, 0)?])?;
    run.reach(100)?;
    run.kill(&run.processes("coordinator"))?;
    run.ends_as_if_undisturbed()?;
    let scored = evaluations(&run.desk, "run")?;
    ensure!(scored.iter().any(|row| row.step.0 > 40), "nothing was scored after the kill");
    ensure!(scored.last().is_some_and(|row| row.step.0 == 150), "the last state has no scores");
    let (told, warned) = (run.told("evaluation")?, run.told("warning")?);
    ensure!(told.len() >= scored.len(), "{} rows, {} events", scored.len(), told.len());
    // Every state that was due is scored, or it is said why not; but for what a coordinator knew that was killed.
    let due = (5..=150).step_by(5);
    let silent: Vec<u64> = due
        .filter(|step| {
            !scored.iter().any(|row| row.step.0 == *step)
                && !warned.iter().any(|text| text.starts_with(&format!("step {step} is not scored")))
                && !warned.iter().any(|text| text.starts_with(&format!("step {step} has no scores")))
        })
        .collect();
    ensure!(silent.len() <= 3, "of {silent:?} nothing is said: {warned:?}");
    Ok(())
}

#[test]
fn a_resumed_run_scores_what_it_computes_again() -> Result<()> {
    let desk = Desk::new()?;
    train(&desk, "whole", 1, &[&SCORED[..], &["--set", "run.steps=18"]].concat())?;
    train(&desk, "parts", 2, &SCORED)?;
    // As if it had been cut off right after step 6: the state of step 12 is computed and scored again.
    std::fs::remove_dir_all(desk.path("parts/checkpoints/step-00000012"))?;
    succeed("launcher", ["resume", &desk.arg("parts"), "--gpus", "1", "--set", "run.steps=18"])?;
    ensure!(evaluations(&desk, "parts")? == evaluations(&desk, "whole")?, "other scores");
    let twelve = desk.told("parts", "evaluation")?.iter().filter(|text| text.starts_with("step 12:")).count();
    ensure!(twelve == 2, "step 12 was scored {twelve} times");
    Ok(())
}
