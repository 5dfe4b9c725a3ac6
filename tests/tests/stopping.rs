//! A run that is told to stop, in order or at once: what it says, what it keeps to go on from, and that nothing is ever left
//! behind.

use std::time::Instant;

use anyhow::{Result, ensure};
use began_tests::{Desk, said, succeed, wait_for};
use nix::sys::signal::{Signal, kill};

/// Long enough that no test sees its end.
const FOREVER: u64 = 1_000_000;

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
