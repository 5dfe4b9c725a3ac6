//! A bit flips, in a trainer's memory or on the disk: it is found, named down to the tensor or file, and nothing computed from
//! it is in the result.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use began_record::{EventRow, RunDir};
use began_tests::{Course, Desk, Disturbed, fail, finish, program, said, succeed, undisturbed};

/// After 53 steps, between two digests, one bit of one tensor of the trainer of local rank 2.
const FLIP: [(&str, &str); 1] = [("BEGAN_TEST_FLIP", "generator.cube.weight@53@0@2")];

/// Digests and checkpoints every ten steps, and what is to become of a trainer that differs.
fn watched(on_corruption: &str) -> [String; 6] {
    let on_corruption = format!("run.on_corruption={on_corruption}");
    ["--set", "run.digest_every=10", "--set", "run.checkpoint_every=10", "--set", &on_corruption].map(String::from)
}

fn flipped(on_corruption: &str) -> Result<Disturbed> {
    let habits = watched(on_corruption);
    let habits: Vec<&str> = habits.iter().map(String::as_str).collect();
    Disturbed::start(Course { steps: 150, habits: &habits, environment: &FLIP, ..Course::default() })
}

/// The journal's accusations, which must name the trainer, the tensor and the step.
fn accusations(run: &Disturbed) -> Result<Vec<EventRow>> {
    let events = run.desk.events("run")?.into_iter().filter(|event| event.kind == "corruption").collect::<Vec<_>>();
    let texts: Vec<&str> = events.iter().map(|event| &*event.text).collect();
    ensure!(events.iter().all(|event| event.step == 60), "of another step: {events:?}");
    for words in [&["rank 2", "the digest of step 60"][..], &["rank 2", "generator.cube.weight"]] {
        let named = texts.iter().any(|text| words.iter().all(|word| text.contains(word)));
        ensure!(named, "no event says {words:?}: {texts:#?}");
    }
    ensure!(!texts.iter().any(|text| text.contains("rank 0") || text.contains("rank 1 ")), "{texts:#?}");
    Ok(events)
}

#[test]
fn a_flipped_bit_is_named_and_leaves_no_trace() -> Result<()> {
    let mut run = flipped("heal")?;
    run.ends_as_if_undisturbed()?;
    accusations(&run)?;
    Ok(())
}

#[test]
fn a_trainer_whose_memory_is_unsound_is_set_aside_for_good() -> Result<()> {
    let mut run = flipped("set_aside")?;
    // Whoever is started in its place must not come in either.
    let text = run.ends_as_if_undisturbed()?;
    accusations(&run)?;
    let generations = run.told("generation")?;
    let last = generations.last().context("no generation")?;
    ensure!(last.contains("3 trainers"), "{generations:?}");
    ensure!(text.contains("set aside"), "{text}");
    Ok(())
}

#[test]
fn a_run_that_is_to_stop_at_a_flipped_bit_does_and_names_the_trainer() -> Result<()> {
    let mut run = flipped("stop")?;
    let (code, text) = run.fails()?;
    ensure!(code == 1 && text.contains("local rank 2") && text.contains("step 60"), "{code}: {text}");
    ensure!(run.told("corruption")?.iter().any(|text| text.contains("rank 2")), "{:?}", run.told("corruption")?);
    Ok(())
}

/// A run that came half of the way, over three trainers.
fn half() -> Result<(Desk, String)> {
    let golden = undisturbed(60, &[])?;
    let desk = Desk::new()?;
    let habits = ["--set", "run.lanes=8", "--set", "run.checkpoint_every=10", "--set", "run.digest_every=5"];
    desk.train("run", 1, 3, 30, &habits)?;
    Ok((desk, golden))
}

/// Resumes to the full length; what the launcher said.
fn resumed(desk: &Desk) -> Result<String> {
    let mut command = program("launcher");
    command.args(["resume", &desk.arg("run"), "--gpus", "2", "--device", "cpu", "--set", "run.steps=60"]);
    let output = finish(command)?;
    let text = said(&output);
    ensure!(output.status.success(), "{text}");
    desk.nothing_left("run")?;
    Ok(text)
}

/// A file of the last checkpoint.
fn last_checkpoint(desk: &Desk, file: &str) -> Result<PathBuf> {
    let run = RunDir::open(&desk.path("run"))?;
    let last = run.latest_checkpoint()?.context("no checkpoint")?;
    Ok(desk.path("run").join(last.path).join(file))
}

#[test]
fn a_checkpoint_with_one_flipped_bit_is_passed_over() -> Result<()> {
    for file in ["weights.safetensors", "optimizer.safetensors"] {
        let (desk, golden) = half()?;
        let path = last_checkpoint(&desk, file)?;
        let mut bytes = fs::read(&path)?;
        let last = bytes.len() - 5;
        bytes[last] ^= 0x10;
        fs::write(&path, bytes)?;
        let text = resumed(&desk)?;
        ensure!(text.contains(&format!("step-00000030/{file}")), "it is not named: {text}");
        ensure!(text.contains("step 20"), "nobody says from where it goes on: {text}");
        ensure!(desk.path("run/checkpoints/damaged-step-00000030").is_dir(), "it is not kept: {text}");
        ensure!(desk.digest("run")? == golden, "{} is not {golden}: {text}", desk.digest("run")?);
        succeed("launcher", ["ledger", &desk.arg("run")])?;
        succeed("coordinator", ["replay", &desk.arg("run"), "--quiet"])?;
    }
    Ok(())
}

#[test]
fn a_journal_cut_in_the_middle_is_salvaged_and_the_run_comes_to_the_same_end() -> Result<()> {
    let (desk, golden) = half()?;
    for beside in ["run/run.db-wal", "run/run.db-shm"] {
        let left = fs::metadata(desk.path(beside)).map_or(0, |file| file.len());
        ensure!(left == 0 || beside.ends_with("shm"), "{left} bytes of {beside} are left after a run that ended well");
        let _ = fs::remove_file(desk.path(beside));
    }
    let bytes = fs::read(desk.path("run/run.db"))?;
    fs::write(desk.path("run/run.db"), &bytes[..bytes.len() / 2])?;
    let text = resumed(&desk)?;
    ensure!(text.contains("run.db") && text.contains("damaged"), "nobody says so: {text}");
    ensure!(desk.digest("run")? == golden, "{} is not {golden}: {text}", desk.digest("run")?);
    // What the old half was told is gone; the replay of what is there comes out, or it says what is missing.
    let mut replay = program("coordinator");
    replay.args(["replay", &desk.arg("run"), "--quiet"]);
    let output = finish(replay)?;
    let said = said(&output);
    ensure!(output.status.success() || said.contains("missing"), "{said}");
    Ok(())
}

#[test]
fn a_run_with_no_sound_checkpoint_is_not_begun_again_without_a_word() -> Result<()> {
    let (desk, _) = half()?;
    for step in RunDir::open(&desk.path("run"))?.checkpoint_folders()? {
        let path = step.1.join("weights.safetensors");
        let mut bytes = fs::read(&path)?;
        let last = bytes.len() - 5;
        bytes[last] ^= 0x10;
        fs::write(&path, bytes)?;
    }
    let args = ["resume", &desk.arg("run"), "--gpus", "2", "--device", "cpu", "--set", "run.steps=60"];
    let (_, text) = fail("launcher", args)?;
    ensure!(text.contains("weights.safetensors") && text.contains("--accept-changed-checkpoint"), "{text}");
    Ok(())
}
