//! The agent with made-up trainers: what it reports, and that it never leaves one behind.

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
    command.env("FAKE_RANK_0", "exit:7").env("FAKE_RANK_1", "obedient");
    let mut agent = Program::start(command)?;
    let pids = started(&mut agent, 2)?;
    let report: Value = serde_json::from_str(&agent.line_with("\"exited\"")?)?;
    assert_eq!((&report["rank"], &report["code"], &report["asked"]), (&4.into(), &7.into(), &false.into()));
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
