//! Averaged weights: a part of the state, so the same bits on any number of trainers and through a kill, and what the tools use.

use anyhow::{Context, Result, ensure};
use began_tests::{Course, Desk, Disturbed, fail, succeed};
use safetensors::SafeTensors;

const AVERAGED: [&str; 2] = ["--set", "optimizer.average=0.9"];

#[test]
fn averaged_weights_are_the_same_on_one_and_three_and_over_a_resume_and_change_nothing_else() -> Result<()> {
    let desk = Desk::new()?;
    let one = desk.train("one", 1, 1, 24, &AVERAGED)?;
    desk.train("three", 1, 3, 10, &AVERAGED)?;
    succeed("launcher", ["resume", &desk.arg("three"), "--gpus", "2", "--set", "run.steps=24"])?;
    ensure!(desk.digest("three")? == one, "{} is not {one}", desk.digest("three")?);
    let without = desk.train("without", 1, 1, 24, &[])?;
    ensure!(without != one, "the average is not in the digest");
    for file in ["weights.safetensors", "optimizer.safetensors"] {
        let read = |run: &str| std::fs::read(desk.path(&format!("{run}/checkpoints/step-00000024/{file}")));
        ensure!(read("one")? == read("without")?, "{file} depends on the average");
    }
    let (code, said) = fail("launcher", ["verify", &desk.arg("one"), &desk.arg("without")])?;
    ensure!(code == 1 && said.contains("optimizer.average") && said.contains(".average"), "{code}: {said}");
    Ok(())
}

#[test]
fn a_kill_leaves_the_average_as_if_nothing_had_happened() -> Result<()> {
    let mut run = Disturbed::start(Course { settings: &AVERAGED, ..Course::default() })?;
    run.reach(40)?;
    run.kill(&[run.trainer(0, 0)?])?;
    run.reach(90)?;
    run.kill(&[run.trainer(0, 2)?])?;
    run.ends_as_if_undisturbed()?;
    Ok(())
}

/// A file of a checkpoint, tensor by tensor, in f64.
fn tensors(desk: &Desk, step: u64, file: &str) -> Result<Vec<(String, Vec<f64>)>> {
    let bytes = std::fs::read(desk.path(&format!("run/checkpoints/step-{step:08}/{file}")))?;
    let stored = SafeTensors::deserialize(&bytes)?;
    let number = |bytes: &[u8]| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mut all: Vec<(String, Vec<f64>)> = stored
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.data().chunks_exact(4).map(number).collect()))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}

/// Steps of the run whose average is computed again.
const LAST: u64 = 6;

#[test]
fn the_average_is_what_a_plain_computation_over_the_checkpoints_says() -> Result<()> {
    let desk = Desk::new()?;
    let most = 0.3;
    // A launch a step: only the last checkpoint of a launch is never passed over. From the third step on the decay is the configured one.
    desk.train("run", 1, 2, 1, &["--set", "optimizer.average=0.3", "--set", "run.keep_checkpoints=99"])?;
    for step in 2..=LAST {
        succeed("launcher", ["resume", &desk.arg("run"), "--set", &format!("run.steps={step}")])?;
    }
    let generator = |step: u64| -> Result<Vec<(String, Vec<f64>)>> {
        let mut all = tensors(&desk, step, "weights.safetensors")?;
        all.retain(|(name, _)| name.starts_with("generator."));
        Ok(all)
    };
    let mut expected = tensors(&desk, 1, "average.safetensors")?;
    for step in 2..=LAST {
        let now = generator(step)?;
        let decay = ((1.0 + step as f64) / (10.0 + step as f64)).min(most);
        for ((name, expected), (other, weights)) in expected.iter_mut().zip(&now) {
            ensure!(name == other, "{name} stands beside {other}");
            for (expected, weight) in expected.iter_mut().zip(weights) {
                *expected = decay * *expected + (1.0 - decay) * weight;
            }
        }
        let found = tensors(&desk, step, "average.safetensors")?;
        ensure!(found.len() == expected.len(), "{} tensors, not {}", found.len(), expected.len());
        for ((name, expected), (_, found)) in expected.iter().zip(&found) {
            let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            ensure!(worst < 1e-6, "{name} is {worst} off at step {step}");
        }
    }
    let live = generator(LAST)?;
    ensure!(live != expected, "the average is the live weights");
    Ok(())
}

#[test]
fn a_torn_average_is_named_and_a_run_that_began_without_one_keeps_none() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 1, 6, &[&AVERAGED[..], &["--set", "run.checkpoint_every=3"]].concat())?;
    let file = desk.path("run/checkpoints/step-00000006/average.safetensors");
    let bytes = std::fs::read(&file)?;
    std::fs::write(&file, &bytes[..bytes.len() / 2])?;
    let more = ["--set", "run.steps=9"];
    let output = began_tests::finish({
        let mut command = began_tests::program("launcher");
        command.args(["resume", &desk.arg("run")]).args(more);
        command
    })?;
    let said = began_tests::said(&output);
    ensure!(output.status.success() && said.contains("average.safetensors"), "{said}");
    ensure!(said.contains("the run goes on from the one of step 3"), "{said}");

    desk.train("without", 1, 1, 3, &[])?;
    let (_, said) =
        fail("launcher", ["resume", &desk.arg("without"), "--set", "run.steps=9", "--set", "optimizer.average=0.9"])?;
    ensure!(said.contains("optimizer.average") && said.contains("start a new run"), "{said}");
    let (_, said) = fail("trainer", ["sample", &desk.arg("without"), "--weights", "average"])?;
    ensure!(said.contains("has no averaged weights"), "{said}");
    Ok(())
}

#[test]
fn the_tools_use_the_weights_they_are_told_to() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 1, 12, &AVERAGED)?;
    let run = desk.arg("run");
    let picture = |weights: &str| -> Result<Vec<u8>> {
        let out = desk.arg(&format!("{weights}.png"));
        let said = succeed("trainer", ["sample", &run, "--weights", weights, "--count", "4", "--out", &out])?;
        ensure!(said.contains("averaged weights") == (weights == "average"), "{said}");
        Ok(std::fs::read(out)?)
    };
    ensure!(picture("live")? != picture("average")?, "live and averaged weights draw the same");
    for (weights, file) in [("live", "weights"), ("average", "average")] {
        let out = desk.arg(&format!("export-{weights}"));
        succeed("trainer", ["export", &run, "--weights", weights, "--out", &out])?;
        let exported = std::fs::read(desk.path(&format!("export-{weights}/weights.safetensors")))?;
        let kept = std::fs::read(desk.path(&format!("run/checkpoints/step-00000012/{file}.safetensors")))?;
        let (exported, kept) = (SafeTensors::deserialize(&exported)?, SafeTensors::deserialize(&kept)?);
        let name = "generator.scale0.conv.weight";
        ensure!(exported.tensor(name)?.data() == kept.tensor(name)?.data(), "{weights}: another {name}");
        ensure!(exported.tensor("discriminator.encoder.input.weight").is_ok(), "D is missing");
        let about: serde_json::Value =
            serde_json::from_slice(&std::fs::read(desk.path(&format!("export-{weights}/model.json")))?)?;
        ensure!(about["weights"] == weights, "{about}");
    }
    let scores = desk.arg("scores.json");
    let said = succeed("trainer", ["evaluate", &run, "--data", &desk.arg("data"), "--count", "32", "--out", &scores])?;
    ensure!(said.contains("averaged weights"), "{said}");
    let scores: serde_json::Value = serde_json::from_slice(&std::fs::read(scores)?)?;
    let mean = |which: &str| scores[which]["sliced_wasserstein"]["mean"].as_f64().context("no score");
    ensure!(mean("scores")? != mean("average_scores")?, "{scores}");
    Ok(())
}
