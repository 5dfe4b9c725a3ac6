//! A run is a function of its configuration, its data and its lanes: the same bits on any number of trainers.

use anyhow::{Context, Result, ensure};
use began_tests::{Desk, fail, finish, program, succeed};

#[test]
fn the_same_digest_comes_out_of_any_number_of_trainers() -> Result<()> {
    let desk = Desk::new()?;
    let one = desk.train("one", 1, 1, 24, &[])?;
    ensure!(one.starts_with("24 "), "{one}");
    for (name, nodes, gpus) in [("two", 1, 2), ("three", 1, 3), ("four", 1, 4), ("nodes", 2, 2)] {
        let other = desk.train(name, nodes, gpus, 24, &[])?;
        ensure!(one == other, "one trainer gives {one}, {nodes} nodes of {gpus} give {other}");
        let verdict = succeed("launcher", ["verify", &desk.arg("one"), &desk.arg(name)])?;
        ensure!(verdict.starts_with("equal"), "{verdict}");
    }
    Ok(())
}

#[test]
fn a_run_resumed_with_another_number_of_trainers_is_the_same_run() -> Result<()> {
    let desk = Desk::new()?;
    let whole = desk.train("whole", 1, 2, 24, &[])?;
    desk.train("parts", 1, 3, 10, &[])?;
    succeed("launcher", ["resume", &desk.arg("parts"), "--gpus", "1", "--set", "run.steps=24"])?;
    ensure!(desk.digest("parts")? == whole, "{} is not {whole}", desk.digest("parts")?);
    let verdict = succeed("launcher", ["verify", &desk.arg("whole"), &desk.arg("parts")])?;
    ensure!(verdict.starts_with("equal"), "{verdict}");
    Ok(())
}

#[test]
fn a_carried_run_over_many_epochs_is_the_same_on_one_and_three() -> Result<()> {
    // 120 samples, 12 a step: three epochs and a bit, with the carry falling and the rate halving on the way.
    let desk = Desk::new()?;
    let more = ["--set", "objective.carry_steps=20", "--set", "optimizer.stall_window=4", "--set", "objective.norm=2"];
    let one = desk.train("one", 1, 1, 35, &more)?;
    let three = desk.train("three", 1, 3, 35, &more)?;
    ensure!(one == three, "{one} is not {three}");
    Ok(())
}

#[test]
fn a_run_in_bf16_is_the_same_on_one_and_three_and_over_a_resume() -> Result<()> {
    let desk = Desk::new()?;
    let bf16 = ["--set", "run.precision=bf16"];
    let one = desk.train("one", 1, 1, 12, &bf16)?;
    desk.train("three", 1, 3, 5, &bf16)?;
    succeed("launcher", ["resume", &desk.arg("three"), "--gpus", "2", "--set", "run.steps=12"])?;
    ensure!(desk.digest("three")? == one, "{} is not {one}", desk.digest("three")?);
    ensure!(desk.train("single", 1, 1, 12, &[])? != one, "bf16 and f32 give the same bits");
    Ok(())
}

#[test]
fn the_fast_reduction_trains_too() -> Result<()> {
    let desk = Desk::new()?;
    let fast = desk.train("fast", 1, 2, 6, &["--set", "run.reduce=fast"])?;
    ensure!(fast.starts_with("6 "), "{fast}");
    Ok(())
}

#[test]
fn verify_names_the_first_step_that_differs_between_two_seeds() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("a", 1, 1, 4, &[])?;
    desk.train("b", 1, 1, 4, &["--set", "run.seed=2"])?;
    let (code, said) = fail("launcher", ["verify", &desk.arg("a"), &desk.arg("b")])?;
    ensure!(code == 1 && said.contains("step 0") && said.contains("run.seed"), "{code}: {said}");
    ensure!(said.contains("discriminator.decoder.cube.weight"), "no tensor is named: {said}");
    Ok(())
}

#[test]
fn a_weight_changed_before_a_resume_is_refused_and_then_named() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("whole", 1, 2, 16, &["--set", "run.digest_every=5"])?;
    desk.train("changed", 1, 2, 10, &["--set", "run.digest_every=5"])?;
    let file = desk.path("changed/checkpoints/step-00000010/weights.safetensors");
    let mut bytes = std::fs::read(&file)?;
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    let stored = safetensors::SafeTensors::deserialize(&bytes)?;
    let target = stored.tensor("discriminator.encoder.scale0.conv.weight")?.data().as_ptr() as usize;
    let at = target - bytes.as_ptr() as usize;
    ensure!(at >= data, "the tensor lies behind the header");
    bytes[at + 2] ^= 0x40;
    std::fs::write(&file, bytes)?;

    let resume = ["resume", &desk.arg("changed"), "--set", "run.steps=16"].map(String::from);
    let (_, said) = fail("launcher", &resume)?;
    ensure!(said.contains("weights.safetensors") && said.contains("--accept-changed-checkpoint"), "{said}");
    let mut accepting = program("launcher");
    accepting.args(&resume).arg("--accept-changed-checkpoint");
    let output = finish(accepting)?;
    ensure!(output.status.success(), "{}", began_tests::said(&output));
    let (code, said) = fail("launcher", ["verify", &desk.arg("whole"), &desk.arg("changed")])?;
    ensure!(code == 1, "{said}");
    let line = said.lines().find(|line| line.contains("discriminator.encoder.scale0.conv.weight"));
    line.with_context(|| format!("the changed tensor is not named: {said}"))?;
    ensure!(said.contains("step 10"), "{said}");
    Ok(())
}
