//! The disk is full for a while: the run goes on, says so, and has everything on the disk at its end. Needs root and a tmpfs;
//! says so and does nothing where they are not to be had.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use began_record::RunDir;
use began_tests::{Desk, Mounted, holds, is_root, said, undisturbed};

/// The desk's folder that a small disk is mounted on, with the run in it.
const RUN: &str = "disk/run";

/// Nothing where it cannot be mounted; the reason is printed.
fn small_disk(desk: &Desk) -> Option<Mounted> {
    if !is_root() {
        println!("skipped: only root can mount a disk");
        return None;
    }
    match Mounted::new(&desk.path("disk"), 24) {
        Ok(mounted) => Some(mounted),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

/// Fills the disk after `step` steps, frees it `seconds` later, and expects the end of an undisturbed run; what was said,
/// with what is in the logs.
fn full_for(seconds: u64, step: usize, steps: u64) -> Result<Option<String>> {
    let golden = undisturbed(steps, &[])?;
    let desk = Desk::new()?;
    let Some(disk) = small_disk(&desk) else { return Ok(None) };
    let often = ["--set", "run.lanes=8", "--set", "run.checkpoint_every=10", "--set", "run.digest_every=20"];
    let running = desk.start(RUN, 1, 4, steps, &often)?;
    desk.reach(RUN, step)?;
    let filler = disk.fill()?;
    sleep(Duration::from_secs(seconds));
    fs::remove_file(filler)?;
    let output = running.finish()?;
    let mut text = said(&output);
    for log in fs::read_dir(desk.path(RUN).join("logs"))?.flatten() {
        text += &fs::read_to_string(log.path())?;
    }
    ensure!(output.status.success(), "{text}");
    desk.nothing_left(RUN)?;
    let last = RunDir::open(&desk.path(RUN))?.latest_checkpoint()?.map_or(0, |checkpoint| checkpoint.step.0);
    ensure!(last == steps, "the last checkpoint is of step {last}: {text}");
    holds(&desk, RUN, &golden)?;
    Ok(Some(text))
}

#[test]
fn a_run_goes_on_over_a_full_disk_and_says_so() -> Result<()> {
    let Some(text) = full_for(4, 60, 400)? else { return Ok(()) };
    let said = text.lines().filter(|line| line.contains("the disk is full") || line.contains("No space left")).count();
    ensure!(said >= 2, "it was said {said} times: {text}");
    Ok(())
}

#[test]
fn the_last_checkpoint_waits_for_a_disk_that_is_full_at_the_end() -> Result<()> {
    let Some(text) = full_for(10, 60, 120)? else { return Ok(()) };
    ensure!(text.contains("trying the last checkpoint again"), "the disk was not full when it mattered: {text}");
    Ok(())
}
