//! Things going wrong on purpose: only in the run that was named, said before they are done, and the run comes to its end.

use std::time::Duration;

use crate::desk::{Desk, digest_or_steps, grown};
use crate::programs::{Program, all_gone, launcher, wait_until};
use anyhow::Result;
use nix::sys::signal::Signal;

fn chaos(desk: &Desk, flags: &[&str]) -> std::process::Command {
    let mut command = launcher();
    command.arg("chaos").arg(desk.run()).args(flags);
    command
}

#[test]
fn faults_are_noted_done_and_counted_and_another_run_is_left_alone() -> Result<()> {
    let (desk, other) = (Desk::new()?, Desk::new()?);
    let flags = ["--gpus", "2", "--restarts", "50"];
    let launched = Program::start(desk.train("run", "with-the-run", &flags))?;
    let beside = Program::start(other.train("run", "with-the-run", &flags))?;
    wait_until("both take steps", || digest_or_steps(&desk.run()) && digest_or_steps(&other.run()))?;
    let beside_family = grown(&beside, 4)?;

    let faults = ["--every", "300ms", "--faults", "kill,two,coordinator,agent,stop", "--stop-for", "200ms"];
    let (code, out, err) =
        Program::start(chaos(&desk, &[&faults[..], &["--count", "8", "--seed", "3"]].concat()))?.end()?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("done: "), "{out}");
    assert!(
        ["killed a trainer of node 0 (process ", "killed the coordinator (process "].iter().any(|w| out.contains(w)),
        "{out}"
    );
    let log = std::fs::read_to_string(desk.run().join("logs/coordinator.log"))?;
    assert!(log.contains("note: chaos: "), "{log}");

    launched.signal(Signal::SIGTERM)?;
    let (code, out, err) = launched.end()?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("starting "), "{err}");
    for pid in &beside_family[..3] {
        assert!(crate::programs::is_alive(*pid), "{pid} of another run is gone");
    }
    beside.signal(Signal::SIGTERM)?;
    assert_eq!(beside.end()?.0, 0);
    all_gone(&beside_family)
}

#[test]
fn chaos_ends_with_the_run_and_a_stopped_trainer_goes_on_whatever_happens() -> Result<()> {
    let desk = Desk::new()?;
    let launched = Program::start(desk.train("run", "with-the-run", &[]))?;
    wait_until("a step is taken", || digest_or_steps(&desk.run()))?;
    let mut stopping = Program::start(chaos(&desk, &["--every", "50ms", "--faults", "stop", "--stop-for", "1h"]))?;
    stopping.line_with("stopped a trainer")?;
    std::thread::sleep(Duration::from_millis(200));
    stopping.signal(Signal::SIGINT)?;
    assert_eq!(stopping.end()?.0, 130);

    let waiting = Program::start(chaos(&desk, &["--every", "1h", "--faults", "kill"]))?;
    std::thread::sleep(Duration::from_millis(300));
    launched.signal(Signal::SIGTERM)?;
    // The trainer was let go on: it ends with the run.
    assert_eq!(launched.end()?.0, 0);
    let (code, out, _) = waiting.end()?;
    assert!(code == 0 && out.contains("the run ended: nothing went wrong"), "{out}");
    Ok(())
}

#[test]
fn a_run_that_does_not_run_is_refused() -> Result<()> {
    let desk = Desk::new()?;
    let launched = Program::start(desk.train("finish:2", "with-the-run", &[]))?;
    assert_eq!(launched.end()?.0, 0);
    let (code, _, err) = Program::start(chaos(&desk, &["--faults", "kill"]))?.end()?;
    assert!(code == 2 && err.contains("is not running"), "{err}");
    Ok(())
}
