//! What happens to a run when something happens to its processes. In this version a lost trainer ends the run, with a
//! checkpoint to resume from; nothing is ever left behind.

use std::time::Instant;

use anyhow::{Result, ensure};
use began_tests::{Desk, said, succeed, wait_for};
use nix::sys::signal::{Signal, kill};

/// Long enough that no test sees its end.
const FOREVER: u64 = 1_000_000;

#[test]
fn a_killed_trainer_is_named_and_the_run_resumes_to_the_same_digest() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 1, 3, FOREVER, &[])?;
    desk.reach("run", 5)?;
    let trainers = desk.processes("run", "trainer");
    ensure!(trainers.len() == 3, "{trainers:?}");
    kill(trainers[1], Signal::SIGKILL)?;
    let killed = Instant::now();
    let output = running.finish()?;
    let text = said(&output);
    ensure!(output.status.code() != Some(0), "{text}");
    ensure!(killed.elapsed().as_secs() < 20, "it took {:?} to end\n{text}", killed.elapsed());
    ensure!(text.contains(&trainers[1].to_string()), "process {} is not named: {text}", trainers[1]);
    ensure!(text.contains("launcher resume"), "{text}");
    desk.nothing_left("run")?;

    // A checkpoint of the step that the survivors held is there; from it the run goes on as if nothing had happened.
    let run = began_record::RunDir::open(&desk.path("run"))?;
    let step = run.latest_checkpoint()?.map_or(0, |checkpoint| checkpoint.step.0);
    // Step 4 is in the journal once its losses are in, a moment before it is committed.
    ensure!(step >= 4, "the last checkpoint is of step {step}\n{text}");
    let steps = step + 6;
    succeed("launcher", ["resume", &desk.arg("run"), "--gpus", "2", "--set", &format!("run.steps={steps}")])?;
    let undisturbed = desk.train("undisturbed", 1, 1, steps, &[])?;
    ensure!(desk.digest("run")? == undisturbed, "{} is not {undisturbed}", desk.digest("run")?);
    Ok(())
}

#[test]
fn a_trainer_that_hangs_is_noticed_by_its_silence() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 1, 2, FOREVER, &["--set", "run.heartbeat_timeout=1"])?;
    desk.reach("run", 3)?;
    let trainers = desk.processes("run", "trainer");
    kill(trainers[0], Signal::SIGSTOP)?;
    let output = running.finish()?;
    let text = said(&output);
    ensure!(output.status.code() != Some(0), "{text}");
    ensure!(text.contains("silent") || text.contains("heard") || text.contains("heartbeat"), "{text}");
    desk.nothing_left("run")
}

#[test]
fn a_killed_coordinator_is_named_and_nothing_is_left() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 2, 1, FOREVER, &[])?;
    desk.reach("run", 3)?;
    kill(desk.processes("run", "coordinator")[0], Signal::SIGKILL)?;
    let output = running.finish()?;
    let text = said(&output);
    ensure!(output.status.code() != Some(0) && text.contains("coordinator"), "{text}");
    desk.nothing_left("run")
}

#[test]
fn a_killed_agent_takes_its_trainers_with_it() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 2, 2, FOREVER, &[])?;
    desk.reach("run", 3)?;
    kill(desk.processes("run", "agent")[0], Signal::SIGKILL)?;
    let output = running.finish()?;
    ensure!(output.status.code() != Some(0), "{}", said(&output));
    desk.nothing_left("run")
}

#[test]
fn a_killed_launcher_leaves_nothing_behind_not_even_a_stopped_trainer() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 2, 2, FOREVER, &[])?;
    desk.reach("run", 3)?;
    kill(desk.processes("run", "trainer")[2], Signal::SIGSTOP)?;
    running.signal(Signal::SIGKILL)?;
    desk.nothing_left("run")?;
    drop(running);
    Ok(())
}

#[test]
fn ctrl_c_finishes_the_step_and_the_run_goes_on_from_there() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 1, 2, FOREVER, &[])?;
    desk.reach("run", 4)?;
    running.signal(Signal::SIGINT)?;
    let output = running.finish()?;
    let text = said(&output);
    ensure!(output.status.code() == Some(130), "{:?}: {text}", output.status);
    desk.nothing_left("run")?;
    let digest = desk.digest("run")?;
    let step: u64 = digest.split(' ').next().unwrap_or_default().parse()?;
    ensure!(step >= 4, "{digest}");
    let undisturbed = desk.train("undisturbed", 1, 3, step, &[])?;
    ensure!(digest == undisturbed, "{digest} is not {undisturbed}");
    Ok(())
}

#[test]
fn sigterm_ends_in_order_and_stop_does_the_same() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("term", 1, 1, FOREVER, &[])?;
    desk.reach("term", 3)?;
    running.signal(Signal::SIGTERM)?;
    let output = running.finish()?;
    ensure!(output.status.code() == Some(0), "{:?}: {}", output.status, said(&output));

    let running = desk.start("stop", 1, 2, FOREVER, &[])?;
    desk.reach("stop", 3)?;
    let status = succeed("launcher", ["status", &desk.arg("stop")])?;
    ensure!(status.contains("running"), "{status}");
    succeed("launcher", ["stop", &desk.arg("stop")])?;
    let output = running.finish()?;
    ensure!(output.status.code() == Some(0), "{:?}: {}", output.status, said(&output));
    for name in ["term", "stop"] {
        let run = began_record::RunDir::open(&desk.path(name))?;
        ensure!(run.latest_checkpoint()?.is_some(), "{name} has no checkpoint");
        desk.nothing_left(name)?;
    }
    Ok(())
}

#[test]
fn two_interrupts_end_at_once() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 1, 2, FOREVER, &["--set", "run.heartbeat_timeout=60"])?;
    desk.reach("run", 3)?;
    // A stopped trainer cannot finish its step, so that the first interrupt alone would wait.
    kill(desk.processes("run", "trainer")[0], Signal::SIGSTOP)?;
    running.signal(Signal::SIGINT)?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.signal(Signal::SIGINT)?;
    let began = Instant::now();
    let output = running.finish()?;
    ensure!(output.status.code() == Some(130) && began.elapsed().as_secs() < 10, "{:?}", output.status);
    wait_for("the processes to end", || desk.nothing_left("run").ok())
}
