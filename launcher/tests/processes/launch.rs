//! Whole launches with a made-up coordinator and made-up trainers: how they end, what is said, and what is left.

use std::time::{Duration, Instant};

use crate::desk::{Desk, digest_or_steps, grown};
use crate::programs::{Program, all_gone, children_of, launcher, wait_until};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn a_run_that_finishes_ends_with_one_line_that_has_its_digest() -> Result<()> {
    let desk = Desk::new()?;
    let flags = ["--nodes", "2", "--gpus", "2", "--set", "run.steps=4", "--quiet"];
    let (code, out, err) = Program::start(desk.train("finish:4", "with-the-run", &flags))?.end()?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("finished at step 4 of 4; digest d16e57 at step 4"), "{out}");
    assert_eq!((out.lines().count(), err.as_str()), (1, ""));
    for log in ["coordinator.log", "node-1-agent.log", "node-1-rank-3.log"] {
        assert!(desk.run().join("logs").join(log).is_file(), "{log}");
    }
    Ok(())
}

#[test]
fn progress_is_json_for_programs() -> Result<()> {
    let desk = Desk::new()?;
    let flags = ["--set", "run.steps=4", "--log-format", "json"];
    let (code, out, err) = Program::start(desk.train("finish:4", "with-the-run", &flags))?.end()?;
    assert_eq!(code, 0, "{out}{err}");
    let objects = out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    assert!(objects.iter().any(|object| object["kind"] == "progress" && object["steps"] == 4), "{out}");
    let last = objects.last().context("nothing was said")?;
    assert_eq!(
        (&last["kind"], &last["outcome"], &last["digest"]),
        (&"ended".into(), &"finished".into(), &"d16e57".into())
    );
    Ok(())
}

#[test]
fn a_trainer_that_fails_once_is_replaced_and_the_run_ends_well() -> Result<()> {
    let desk = Desk::new()?;
    let mut command = desk.train("finish:30", "with-the-run", &["--gpus", "2", "--set", "run.steps=30"]);
    command.env("FAKE_RANK_1", "once:7");
    let (code, out, err) = Program::start(command)?.end()?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("finished at step 30 of 30"), "{out}");
    assert!(err.contains(") ended with exit code 7; starting another at once (restart 1 of 8)"), "{err}");
    Ok(())
}

#[test]
fn a_run_whose_trainers_are_all_set_aside_fails_and_names_the_first_with_its_last_lines() -> Result<()> {
    let desk = Desk::new()?;
    let mut command = desk.train("wait", "exit:7", &["--gpus", "2", "--restarts", "1"]);
    command.env("FAKE_FAILED", "1").env("FAKE_RANK_0", "exit:9");
    let start = Instant::now();
    let (code, out, err) = Program::start(command)?.end()?;
    assert!(code == 7 || code == 9, "{code}: {out}{err}");
    for words in [
        "its place stays empty: it failed again after one restart without a step",
        "the run failed: trainer ",
        &format!(") ended with exit code {code}"),
        "    error: the device of trainer ",
    ] {
        assert!(err.contains(words), "{words}: {err}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_killed_coordinator_comes_back_at_the_same_address_and_the_run_goes_on() -> Result<()> {
    let desk = Desk::new()?;
    let flags = ["--nodes", "2", "--set", "run.steps=60"];
    let launcher = Program::start(desk.train("finish:60", "with-the-run", &flags))?;
    let family = grown(&launcher, 5)?;
    let coordinators = || children_of(launcher.pid()).into_iter().filter(|pid| name_of(*pid).starts_with("fake_coord"));
    let coordinator = coordinators().next().context("no coordinator")?;
    wait_until("a step is taken", || digest_or_steps(&desk.run()))?;
    let address = || began_record::RunDir::open(&desk.run()).and_then(|run| run.announcement());
    let before = address()?.context("nothing is announced")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(coordinator.try_into()?), Signal::SIGKILL)?;
    wait_until("the new coordinator is announced", || {
        address().is_ok_and(|now| now.is_some_and(|now| now.pid != before.pid && now.address == before.address))
    })?;
    let (code, out, err) = launcher.end()?;
    assert_eq!(code, 0, "{out}{err}");
    let killed =
        format!("the coordinator (process {coordinator}) was killed by signal 9 (KILL); starting it again in 0.1 s");
    assert!(err.contains(&killed), "{err}");
    assert!(out.contains("finished at step 60 of 60"), "{out}");
    assert!(!desk.run().join("coordinator.json").exists(), "a dead coordinator is announced");
    all_gone(&family)
}

#[test]
fn a_coordinator_that_does_not_come_back_is_named_and_takes_everything_with_it() -> Result<()> {
    let desk = Desk::new()?;
    let mut command = desk.train("run", "obedient", &["--nodes", "2", "--restarts", "2"]);
    command.env("FAKE_AGAIN", "refuse");
    let launcher = Program::start(command)?;
    let family = grown(&launcher, 5)?;
    let coordinator =
        family.iter().copied().find(|pid| name_of(*pid).starts_with("fake_coord")).context("no coordinator")?;
    wait_until("a step is taken", || digest_or_steps(&desk.run()))?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(coordinator.try_into()?), Signal::SIGKILL)?;
    let (code, out, err) = launcher.end()?;
    assert_eq!(code, 1, "{out}{err}");
    assert!(
        err.contains(&format!("the run failed: the coordinator (process {coordinator}) was killed by signal 9")),
        "{err}"
    );
    assert!(err.contains("run/logs/coordinator.log"), "{err}");
    assert!(!desk.run().join("coordinator.json").exists(), "a dead coordinator is announced");
    all_gone(&family)
}

#[test]
fn a_killed_agent_takes_its_trainers_with_it_and_both_come_back() -> Result<()> {
    let desk = Desk::new()?;
    let flags = ["--nodes", "2", "--gpus", "2", "--set", "run.steps=60"];
    let launcher = Program::start(desk.train("finish:60", "with-the-run", &flags))?;
    let family = grown(&launcher, 7)?;
    let is_agent = |pid: &u32| name_of(*pid) == "launcher\n";
    let agents = || children_of(launcher.pid()).into_iter().filter(is_agent).collect::<Vec<_>>();
    let agent = *agents().first().context("no agent")?;
    let trainers = children_of(agent);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.try_into()?), Signal::SIGKILL)?;
    wait_until("its trainers are gone", || !trainers.iter().any(|pid| crate::programs::is_alive(*pid)))?;
    wait_until("another agent is there with its trainers", || {
        agents().iter().any(|pid| !family.contains(pid) && children_of(*pid).len() == 2)
    })?;
    let (code, out, err) = launcher.end()?;
    assert_eq!(code, 0, "{out}{err}");
    let killed = format!("(process {agent}) was killed by signal 9 (KILL); starting it again in 0.1 s");
    assert!(err.contains("the agent of node") && err.contains(&killed), "{err}");
    all_gone(&family)
}

#[test]
fn a_killed_launcher_leaves_nothing_behind() -> Result<()> {
    let desk = Desk::new()?;
    let mut launcher = Program::start(desk.train("run", "stubborn", &["--nodes", "2", "--gpus", "2"]))?;
    let family = grown(&launcher, 7)?;
    launcher.signal(Signal::SIGKILL)?;
    launcher.wait()?;
    all_gone(&family)
}

#[test]
fn ctrl_c_stops_in_order_and_sigterm_too() -> Result<()> {
    for (signal, expected) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 0)] {
        let desk = Desk::new()?;
        let launcher = Program::start(desk.train("run", "with-the-run", &["--nodes", "2"]))?;
        let family = grown(&launcher, 5)?;
        wait_until("a step is taken", || digest_or_steps(&desk.run()))?;
        launcher.signal(signal)?;
        let (code, out, err) = launcher.end()?;
        assert_eq!(code, expected, "{out}{err}");
        assert!(err.contains("finishing the step and writing a checkpoint (again to stop at once)"), "{err}");
        assert!(out.contains("stopped by") && out.contains("launcher resume"), "{out}");
        all_gone(&family)?;
    }
    Ok(())
}

#[test]
fn ctrl_c_twice_ends_everything_at_once() -> Result<()> {
    let desk = Desk::new()?;
    let launcher = Program::start(desk.train("run", "stubborn", &["--nodes", "2"]))?;
    let family = grown(&launcher, 5)?;
    launcher.signal(Signal::SIGINT)?;
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    launcher.signal(Signal::SIGINT)?;
    let (code, out, err) = launcher.end()?;
    assert_eq!(code, 130, "{out}{err}");
    assert!(start.elapsed() < Duration::from_secs(5));
    all_gone(&family)
}

#[test]
fn a_coordinator_that_does_not_start_is_quoted_and_nothing_is_left() -> Result<()> {
    let desk = Desk::new()?;
    let (code, _, err) = Program::start(desk.train("refuse", "obedient", &[]))?.end()?;
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("ended before it said where it listens (ended with exit code 1)")
            && err.contains("somebody's cat"),
        "{err}"
    );
    assert!(!desk.run().exists());

    let launcher = Program::start(desk.train("mute", "obedient", &[]))?;
    let family = grown(&launcher, 1)?;
    wait_until("the coordinator is there", || family.iter().any(|pid| name_of(*pid).starts_with("fake_coord")))?;
    launcher.signal(Signal::SIGINT)?;
    assert_eq!(launcher.end()?.0, 130);
    assert!(!desk.run().exists());
    all_gone(&family)
}

#[test]
fn stop_asks_a_live_run_to_end_and_status_and_digest_tell_of_it() -> Result<()> {
    let desk = Desk::new()?;
    let launched = Program::start(desk.train("run", "with-the-run", &[]))?;
    let ask = |word: &str| -> Result<(i32, String, String)> {
        let mut command = launcher();
        command.arg(word).arg(desk.run());
        Program::start(command)?.end()
    };
    wait_until("the coordinator is announced", || desk.run().join("coordinator.json").exists())?;
    wait_until("a step is taken", || digest_or_steps(&desk.run()))?;
    assert!(ask("status")?.1.contains("is running"));
    let (code, out, err) = ask("stop")?;
    assert!(code == 0 && out.contains("has stopped"), "{out}{err}");
    let (code, out, err) = launched.end()?;
    assert!(code == 0 && out.contains("ended: stopped as asked"), "{out}{err}");
    assert!(ask("digest")?.1.ends_with(" d16e57\n"));
    assert!(ask("status")?.1.contains("is not running"));
    assert!(ask("stop")?.2.contains("is not running"));
    Ok(())
}

fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}
