//! The agent with made-up trainers: what it reports, and that it never leaves one behind.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::programs::{Program, all_gone, children_of, launcher, wait_until};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn agent(run: &Path, trainers: u32, grace: &str) -> Result<Command> {
    std::fs::create_dir_all(run.join("logs"))?;
    let mut command = launcher();
    command.args([
        "agent",
        "--coordinator",
        "127.0.0.1:1",
        "--node",
        "1",
        "--first-rank",
        "4",
        "--device",
        "cpu",
        "--run",
    ]);
    command.arg(run).args(["--trainers", &trainers.to_string(), "--grace", grace]);
    Ok(command)
}

/// The process of each trainer that the agent says it started.
fn started(agent: &mut Program, trainers: u32) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for _ in 0..trainers {
        let report: Value = serde_json::from_str(&agent.line_with("\"started\"")?)?;
        pids.push(u32::try_from(report["pid"].as_u64().context("pid")?)?);
    }
    Ok(pids)
}

/// Waits until the fakes have become what they act; before, they would not withstand TERM.
fn acting(pids: &[u32]) -> Result<()> {
    wait_until("the fake trainers sleep", || {
        let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        pids.iter().all(|pid| name(pid) == "sleep\n")
    })
}

#[test]
fn a_failed_trainer_is_reported_with_its_last_lines_and_the_others_live_on() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 2, "5")?;
    command.args(["--restarts", "0"]).env("FAKE_RANK_0", "exit:7").env("FAKE_RANK_1", "obedient");
    let mut agent = Program::start(command)?;
    let pids = started(&mut agent, 2)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"set_aside\"")?)?;
    assert_eq!((&report["rank"], &report["code"]), (&4.into(), &7.into()));
    assert!(report["reason"].as_str().is_some_and(|reason| reason.contains("--restarts is 0")), "{report}");
    let last: Vec<&str> = report["last_lines"].as_array().context("lines")?.iter().filter_map(Value::as_str).collect();
    assert_eq!(last.len(), 15);
    assert!(last.contains(&"error: the device of trainer 0 is on fire"), "{last:?}");
    let log = std::fs::read_to_string(run.path().join("logs/node-1-rank-4.log"))?;
    assert!(log.contains("line 1 of trainer 0") && log.contains("on fire"), "{log}");
    assert!(crate::programs::is_alive(pids[1]));

    agent.signal(Signal::SIGTERM)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"exited\"")?)?;
    assert_eq!((&report["rank"], &report["asked"]), (&5.into(), &true.into()));
    assert_eq!(agent.wait()?.code(), Some(7));
    all_gone(&pids)
}

#[test]
fn a_killed_trainer_is_started_again_at_once_and_ends_with_the_agent() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 2, "5")?;
    command.env("FAKE_TRAINER", "obedient");
    let mut agent = Program::start(command)?;
    let mut pids = started(&mut agent, 2)?;
    acting(&pids)?;
    let start = Instant::now();
    kill(Pid::from_raw(pids[1].try_into()?), Signal::SIGKILL)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"restarting\"")?)?;
    assert_eq!((&report["rank"], &report["signal"], &report["attempt"]), (&5.into(), &9.into(), &1.into()));
    pids.extend(started(&mut agent, 1)?);
    assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
    assert!(crate::programs::is_alive(pids[2]) && !crate::programs::is_alive(pids[1]));
    agent.signal(Signal::SIGTERM)?;
    agent.line_with("\"over\"")?;
    agent.wait()?;
    all_gone(&pids)
}

#[test]
fn a_place_that_never_commits_a_step_is_set_aside_and_one_that_does_is_not() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 2, "5")?;
    command.args(["--restarts", "1"]).env("FAKE_RANK_0", "exit:7").env("FAKE_RANK_1", "step:7");
    let mut agent = Program::start(command)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"set_aside\"")?)?;
    assert_eq!((&report["rank"], &report["code"]), (&4.into(), &7.into()));
    let mut furthest = 0;
    for _ in 0..3 {
        let report: Value = serde_json::from_str(&agent.line_with("\"committed\"")?)?;
        let step = report["step"].as_u64().context("a step")?;
        assert!(report["rank"] == 5 && step > furthest, "{report} after {furthest}");
        furthest = step;
        let report: Value = serde_json::from_str(&agent.line_with("\"restarting\"")?)?;
        assert_eq!((&report["rank"], &report["attempt"]), (&5.into(), &1.into()));
    }
    // What it says of its progress is for the agent, not for people.
    let log = std::fs::read_to_string(run.path().join("logs/node-1-rank-5.log"))?;
    assert!(log.contains("on fire") && !log.contains("committed"), "{log}");
    Ok(())
}

#[test]
fn a_place_that_only_computes_the_same_step_again_in_every_life_is_set_aside() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 1, "5")?;
    command.args(["--restarts", "1"]).env("FAKE_TRAINER", "again:7");
    let mut agent = Program::start(command)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"set_aside\"")?)?;
    assert_eq!((&report["rank"], &report["code"]), (&4.into(), &7.into()));
    Ok(())
}

#[test]
fn a_trainer_that_the_run_set_aside_or_that_ended_with_it_is_not_started_again() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 3, "5")?;
    command.env("FAKE_RANK_0", "exit:5").env("FAKE_RANK_1", "exit:0").env("FAKE_RANK_2", "exit:3");
    let (code, out, _) = Program::start(command)?.end()?;
    assert_eq!(code, 5, "{out}");
    assert_eq!((out.matches("\"started\"").count(), out.matches("\"exited\"").count()), (3, 2), "{out}");
    assert!(out.contains("the run set it aside") && out.ends_with("{\"event\":\"over\"}\n"), "{out}");
    Ok(())
}

#[test]
fn an_agent_told_so_starts_no_trainer_any_more() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 1, "5")?;
    command.env("FAKE_TRAINER", "obedient");
    let mut agent = Program::start(command)?;
    let pids = started(&mut agent, 1)?;
    acting(&pids)?;
    writeln!(agent.stdin.as_mut().context("stdin")?, "no more restarts")?;
    // The order goes another way than the end of the trainer.
    std::thread::sleep(std::time::Duration::from_millis(300));
    kill(Pid::from_raw(pids[0].try_into()?), Signal::SIGKILL)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"exited\"")?)?;
    assert_eq!((&report["signal"], &report["asked"]), (&9.into(), &false.into()));
    assert_eq!(agent.wait()?.code(), Some(1));
    Ok(())
}

#[test]
fn a_trainer_that_ignores_term_is_killed_after_the_grace() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 2, "1")?;
    command.env("FAKE_TRAINER", "stubborn");
    let mut agent = Program::start(command)?;
    let pids = started(&mut agent, 2)?;
    acting(&pids)?;
    let start = Instant::now();
    agent.signal(Signal::SIGTERM)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"exited\"")?)?;
    assert_eq!(report["signal"], 9);
    assert!((0.9..6.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    agent.wait()?;
    all_gone(&pids)
}

#[test]
fn a_closed_stdin_ends_even_stopped_and_stubborn_trainers_within_seconds() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 2, "600")?;
    command.env("FAKE_TRAINER", "stubborn");
    let mut agent = Program::start(command)?;
    let pids = started(&mut agent, 2)?;
    acting(&pids)?;
    kill(Pid::from_raw(pids[1].try_into()?), Signal::SIGSTOP)?;
    agent.stdin = None;
    all_gone(&[&pids[..], &[agent.pid()]].concat())
}

#[test]
fn a_killed_agent_leaves_nothing_behind() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 3, "600")?;
    command.env("FAKE_TRAINER", "stubborn");
    let mut agent = Program::start(command)?;
    let pids = started(&mut agent, 3)?;
    acting(&pids)?;
    kill(Pid::from_raw(pids[0].try_into()?), Signal::SIGSTOP)?;
    agent.signal(Signal::SIGKILL)?;
    agent.wait()?;
    all_gone(&pids)
}

#[test]
fn an_agent_whose_parent_is_killed_ends_though_its_stdin_stays_open() -> Result<()> {
    let run = tempfile::tempdir()?;
    let command = agent(run.path(), 1, "600")?;
    // A shell between the test and the agent; the pipe on stdin is the test's, so that killing the shell does not close it.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0; \"$0\" \"$@\" <&3 & wait"]).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("FAKE_TRAINER", "stubborn");
    let mut shell = Program::start(shell)?;
    let mut pids = started(&mut shell, 1)?;
    acting(&pids)?;
    pids.extend(children_of(shell.pid()));
    assert_eq!(pids.len(), 2, "the trainer and the agent");
    shell.signal(Signal::SIGKILL)?;
    shell.wait()?;
    all_gone(&pids)
}

#[test]
fn a_trainer_that_cannot_be_started_is_reported() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 2, "5")?;
    command.env("BEGAN_TRAINER", "/no/such/trainer");
    let mut agent = Program::start(command)?;
    let report = agent.line_with("\"failed\"")?;
    assert!(report.contains("/no/such/trainer"), "{report}");
    assert_eq!(agent.wait()?.code(), Some(1));
    Ok(())
}

#[test]
fn lines_are_forwarded_when_asked_for() -> Result<()> {
    let run = tempfile::tempdir()?;
    let mut command = agent(run.path(), 1, "5")?;
    command.env("FAKE_TRAINER", "exit:0").arg("--forward-logs");
    let mut agent = Program::start(command)?;
    let report: Value = serde_json::from_str(&agent.line_with("line 3 of")?)?;
    assert_eq!((&report["event"], &report["rank"]), (&"output".into(), &4.into()));
    assert_eq!(agent.wait()?.code(), Some(0));
    Ok(())
}
