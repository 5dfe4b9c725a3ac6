//! Trainers and agents die, hang, come late or never come: the run regroups, and ends as if nothing had happened.

use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use began_record::RunDir;
use began_tests::{Course, Disturbed, Running, program, programs, said, wait_for};
use nix::sys::signal::{Signal, kill};

#[test]
fn the_run_outlives_its_rank_0() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    run.reach(40)?;
    run.kill(&[run.trainer(0, 0)?])?;
    run.ends_as_if_undisturbed()?;
    ensure!(run.told("lost")?.iter().any(|text| text.contains("rank 0")), "{:?}", run.told("lost")?);
    Ok(())
}

#[test]
fn a_run_in_bf16_outlives_a_trainer_whose_replacement_gets_the_state_from_a_peer() -> Result<()> {
    let settings = ["--set", "run.precision=bf16"];
    let mut run = Disturbed::start(Course { gpus: 2, steps: 60, settings: &settings, ..Course::default() })?;
    run.reach(10)?;
    run.kill(&[run.trainer(0, 1)?])?;
    run.ends_as_if_undisturbed().map(drop)
}

#[test]
fn the_run_outlives_a_trainer_in_the_middle() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    run.reach(40)?;
    let victim = run.trainer(0, 2)?;
    run.kill(&[victim])?;
    let text = run.ends_as_if_undisturbed()?;
    ensure!(text.contains(&victim.to_string()), "process {victim} is not named: {text}");
    Ok(())
}

#[test]
fn the_run_outlives_two_trainers_at_once() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    run.reach(40)?;
    run.kill(&[run.trainer(0, 1)?, run.trainer(0, 3)?])?;
    run.ends_as_if_undisturbed().map(drop)
}

#[test]
fn the_run_outlives_all_of_its_trainers() -> Result<()> {
    let mut run = Disturbed::start(Course::default())?;
    run.reach(40)?;
    run.kill(&run.processes("trainer"))?;
    run.ends_as_if_undisturbed().map(drop)
}

#[test]
fn the_run_outlives_an_agent_with_its_trainers() -> Result<()> {
    let mut run = Disturbed::start(Course { nodes: 2, gpus: 2, ..Course::default() })?;
    run.reach(40)?;
    let agents = run.processes("agent");
    ensure!(agents.len() == 2, "{agents:?}");
    run.kill(&agents[1..])?;
    run.ends_as_if_undisturbed().map(drop)
}

/// A trainer stopped for `seconds`, where silence counts as loss after one.
fn stopped_for(seconds: u64, steps: u64) -> Result<()> {
    let habits = ["--set", "run.heartbeat_timeout=1"];
    let mut run = Disturbed::start(Course { steps, habits: &habits, ..Course::default() })?;
    run.reach(40)?;
    let victim = run.trainer(0, 1)?;
    kill(victim, Signal::SIGSTOP)?;
    sleep(Duration::from_secs(seconds));
    // It may have been replaced, and killed, meanwhile.
    let _ = kill(victim, Signal::SIGCONT);
    run.ends_as_if_undisturbed()?;
    let lost = run.told("lost")?;
    ensure!(lost.iter().any(|text| text.contains("rank 1")), "nobody noticed: {lost:?}");
    Ok(())
}

#[test]
fn a_trainer_that_falls_silent_is_done_without_and_comes_back() -> Result<()> {
    stopped_for(4, 300)
}

#[test]
#[ignore = "half a minute of silence, in a run of a minute"]
fn a_trainer_that_is_silent_for_half_a_minute_is_done_without() -> Result<()> {
    stopped_for(30, 1500)
}

/// Starts a trainer by hand, as the first of node 1.
fn late(run: &Disturbed) -> Result<Running> {
    let address = RunDir::open(&run.desk.path("run"))?.announcement()?.context("nothing is announced")?.address;
    let mut command = program("trainer");
    command.args(["run", "--coordinator", &address, "--run", &run.desk.arg("run"), "--device", "cpu"]);
    command.args(["--node", "1", "--local-rank", "0"]);
    // As an agent does.
    command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1");
    Running::start(command)
}

#[test]
fn a_trainer_that_comes_late_makes_the_world_larger() -> Result<()> {
    let mut run = Disturbed::start(Course { gpus: 3, ..Course::default() })?;
    run.reach(40)?;
    let late = late(&run)?;
    run.ends_as_if_undisturbed()?;
    let generations = run.told("generation")?;
    ensure!(generations.iter().any(|text| text.contains("4 trainers")), "it grew never: {generations:?}");
    let output = late.finish()?;
    ensure!(output.status.success(), "{:?}: {}", output.status, said(&output));
    Ok(())
}

#[test]
fn a_trainer_too_many_waits_until_it_is_needed() -> Result<()> {
    // Two lanes, two trainers; a third has nothing to do until one of them is gone for good.
    let settings = ["--set", "run.lanes=2"];
    let course = Course { gpus: 2, steps: 400, settings: &settings, habits: &["--restarts", "0"], ..Course::default() };
    let mut run = Disturbed::start(course)?;
    run.reach(20)?;
    let spare = late(&run)?;
    let joined = || run.told("joined").ok()?.iter().any(|text| text.contains("node 1")).then_some(());
    wait_for("the third trainer to join", joined)?;
    run.kill(&[run.trainer(0, 1)?])?;
    run.ends_as_if_undisturbed()?;
    let generations = run.told("generation")?;
    ensure!(generations.iter().all(|text| text.contains("2 trainers")), "{generations:?}");
    ensure!(generations.len() == 2, "{generations:?}");
    let output = spare.finish()?;
    ensure!(output.status.success(), "{:?}: {}", output.status, said(&output));
    Ok(())
}

#[test]
fn a_trainer_that_fails_from_now_on_is_set_aside_and_the_run_goes_on_without_it() -> Result<()> {
    // Once the marker is there, nothing that is started as local rank 3 lives.
    let folder = tempfile::tempdir()?;
    let (script, marker) = (folder.path().join("trainer"), folder.path().join("broken"));
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *' --local-rank 3 '*)\n  [ -e '{}' ] && echo the board is broken >&2 && exit 1;;\nesac\n\
         exec '{}' \"$@\"\n",
        marker.display(),
        programs().join("trainer").display()
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let mut run = Disturbed::start(Course {
        habits: &["--restarts", "2"],
        environment: &[("BEGAN_TRAINER", &script.display().to_string())],
        ..Course::default()
    })?;
    run.reach(40)?;
    std::fs::write(&marker, "")?;
    run.kill(&[run.trainer(0, 3)?])?;
    let text = run.ends_as_if_undisturbed()?;
    ensure!(text.contains("trainer 3") && text.contains("its place stays empty"), "{text}");
    ensure!(text.contains("--restarts"), "nobody says why: {text}");
    Ok(())
}
