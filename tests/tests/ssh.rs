//! Runs over ssh on four hosts of loopback addresses, each with an sshd of its own: the digest is the one of a run on one
//! machine, and whatever becomes of a connection, nothing is left behind. Skipped, with the reason, where there is no sshd.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use began_tests::{Desk, SshHosts, program, said, undisturbed, wait_for};
use nix::sys::signal::{Signal, kill};

const HABITS: [&str; 6] = ["--set", "run.lanes=8", "--set", "run.checkpoint_every=25", "--set", "run.digest_every=20"];
/// Long enough that no test sees its end.
const FOREVER: u64 = 1_000_000;

/// Arguments of a run on the hosts, and more.
fn with(hosts: &SshHosts, more: &[&str]) -> Vec<String> {
    let own = HABITS.iter().chain(more).map(|&word| word.to_owned());
    hosts.arguments().into_iter().chain(own).collect()
}

fn start(desk: &Desk, hosts: &SshHosts, nodes: u32, steps: u64, more: &[&str]) -> Result<began_tests::Running> {
    let words = with(hosts, more);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    desk.start("run", nodes, 1, steps, &words)
}

/// The run's last digest must be the one of a run of as many steps on one machine.
fn ends_as_if_undisturbed(desk: &Desk) -> Result<()> {
    let step: u64 = desk.digest("run")?.split(' ').next().unwrap_or_default().parse()?;
    let golden = desk.train("golden", 1, 2, step, &HABITS)?;
    ensure!(desk.digest("run")? == golden, "another digest");
    Ok(())
}

#[test]
fn four_hosts_over_ssh_give_the_digest_of_one_machine() -> Result<()> {
    let Some(hosts) = SshHosts::start(4)? else { return Ok(()) };
    let golden = undisturbed(150, &[])?;
    let desk = Desk::new()?;
    let output = start(&desk, &hosts, 4, 150, &["--forward-logs"])?.finish()?;
    let text = said(&output);
    ensure!(output.status.success(), "{text}");
    ensure!(desk.digest("run")? == golden, "{} is not {golden}: {text}", desk.digest("run")?);
    for words in [
        "over ssh: --hosts says on which hosts",
        "node 3 is 127.0.0.5",
        "the coordinator will listen at 127.0.0.1: that is where the nodes see this machine",
        "6 ways measured",
        "4 trainers on 4 nodes of 1 over ssh",
        "[node 2 rank 2]",
    ] {
        ensure!(text.contains(words), "{words:?} is not in {text}");
    }
    for node in 0..4 {
        for log in [format!("node-{node}-agent.log"), format!("node-{node}-rank-{node}.log")] {
            ensure!(desk.path("run").join("logs").join(&log).is_file(), "{log} is missing");
        }
    }
    desk.nothing_left("run")
}

#[test]
fn a_killed_client_and_a_killed_session_are_healed_and_ctrl_c_leaves_a_checkpoint() -> Result<()> {
    let Some(hosts) = SshHosts::start(2)? else { return Ok(()) };
    let desk = Desk::new()?;
    let running = start(&desk, &hosts, 2, FOREVER, &["--no-check", "--address", "127.0.0.1"])?;
    desk.reach("run", 5)?;

    let before = desk.trainer("run", 0, 0)?;
    let client = hosts.clients(running.pid(), 0).pop().context("no client")?;
    kill(client, Signal::SIGKILL)?;
    wait_for("another trainer on node 0", || desk.trainer("run", 0, 0).ok().filter(|now| *now != before))?;

    let before = desk.trainer("run", 1, 0)?;
    let sessions = hosts.sessions(1)?;
    ensure!(!sessions.is_empty(), "no session");
    for session in sessions {
        kill(session, Signal::SIGKILL)?;
    }
    wait_for("another trainer on node 1", || desk.trainer("run", 1, 0).ok().filter(|now| *now != before))?;
    let steps = desk.steps("run")?;
    desk.reach("run", steps + 10)?;

    let checkpoints = desk.told("run", "checkpoint")?.len();
    running.signal(Signal::SIGUSR1)?;
    wait_for("the checkpoint that was asked for", || {
        let asked = desk.told("run", "control").ok()?.iter().any(|text| text.contains("SIGUSR1"));
        let written = desk.told("run", "checkpoint").ok()?;
        (asked && written.len() > checkpoints).then_some(())
    })?;
    running.signal(Signal::SIGINT)?;
    let output = running.finish()?;
    let text = said(&output);
    ensure!(output.status.code() == Some(130), "{:?}: {text}", output.status);
    ensure!(text.contains("ssh to 127.0.0.3 ended with 255"), "{text}");
    desk.nothing_left("run")?;
    ends_as_if_undisturbed(&desk)
}

#[test]
fn a_killed_sshd_is_gone_back_to_once_it_is_there_again_and_done_without_if_not() -> Result<()> {
    let Some(mut hosts) = SshHosts::start(2)? else { return Ok(()) };
    let desk = Desk::new()?;
    let habits = ["--no-check", "--address", "127.0.0.1", "--restarts", "6", "--set", "run.rejoin_wait=0"];
    let running = start(&desk, &hosts, 2, FOREVER, &habits)?;
    desk.reach("run", 5)?;

    let before = desk.trainer("run", 1, 0)?;
    hosts.kill(1)?;
    wait_for("the run to go on without node 1", || {
        desk.told("run", "generation").ok()?.last()?.contains("1 trainer").then_some(())
    })?;
    hosts.revive(1)?;
    wait_for("another trainer on node 1", || desk.trainer("run", 1, 0).ok().filter(|now| *now != before))?;
    wait_for("the run to take node 1 back", || {
        desk.told("run", "generation").ok()?.last()?.contains("2 trainers").then_some(())
    })?;

    hosts.kill(1)?;
    // Longer than all pauses between six attempts together.
    std::thread::sleep(Duration::from_secs(9));
    let steps = desk.steps("run")?;
    desk.reach("run", steps + 10)?;
    running.signal(Signal::SIGINT)?;
    let output = running.finish()?;
    let text = said(&output);
    ensure!(output.status.code() == Some(130), "{:?}: {text}", output.status);
    for words in ["ssh to 127.0.0.3 ended with 255", "it is not started again (--restarts 6 "] {
        ensure!(text.contains(words), "{words:?} is not in {text}");
    }
    desk.nothing_left("run")?;
    ends_as_if_undisturbed(&desk)
}

#[test]
fn a_killed_launcher_leaves_nothing_on_the_hosts() -> Result<()> {
    let Some(hosts) = SshHosts::start(2)? else { return Ok(()) };
    let desk = Desk::new()?;
    let running = start(&desk, &hosts, 2, FOREVER, &["--no-check", "--address", "127.0.0.1"])?;
    desk.reach("run", 3)?;
    running.signal(Signal::SIGKILL)?;
    desk.nothing_left("run")?;
    drop(running);
    Ok(())
}

#[test]
fn a_launcher_that_falls_silent_is_given_up_by_its_nodes() -> Result<()> {
    let Some(hosts) = SshHosts::start(1)? else { return Ok(()) };
    let desk = Desk::new()?;
    let habits = ["--no-check", "--address", "127.0.0.1", "--lost-after", "2"];
    let running = start(&desk, &hosts, 1, FOREVER, &habits)?;
    desk.reach("run", 3)?;
    // As if the network were gone: nothing comes, and no connection is closed.
    running.signal(Signal::SIGSTOP)?;
    wait_for("the node's processes to end", || {
        ["trainer", "agent"].iter().all(|word| desk.processes("run", word).is_empty()).then_some(())
    })?;
    running.signal(Signal::SIGKILL)?;
    running.signal(Signal::SIGCONT)?;
    desk.nothing_left("run")
}

#[test]
fn two_interrupts_end_everything_on_the_hosts_at_once() -> Result<()> {
    let Some(hosts) = SshHosts::start(2)? else { return Ok(()) };
    let desk = Desk::new()?;
    let habits = ["--no-check", "--address", "127.0.0.1", "--set", "run.heartbeat_timeout=60"];
    let running = start(&desk, &hosts, 2, FOREVER, &habits)?;
    desk.reach("run", 3)?;
    // A stopped trainer cannot finish its step, so that the first interrupt alone would wait.
    kill(desk.trainer("run", 1, 0)?, Signal::SIGSTOP)?;
    running.signal(Signal::SIGINT)?;
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::SIGINT)?;
    let output = running.finish()?;
    ensure!(output.status.code() == Some(130), "{:?}: {}", output.status, said(&output));
    desk.nothing_left("run")
}

#[test]
fn a_trainer_that_fails_ends_the_run_with_its_code() -> Result<()> {
    let Some(hosts) = SshHosts::start(2)? else { return Ok(()) };
    let desk = Desk::new()?;
    let script = desk.path("trainer");
    std::fs::write(&script, "#!/bin/sh\necho 'the disk is on fire' >&2\nexit 42\n")?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let words = with(&hosts, &["--no-check", "--address", "127.0.0.1", "--restarts", "0"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = desk.launch("run", 2, 1, 50, &words);
    command.env("BEGAN_TRAINER", &script);
    let output = began_tests::finish(command)?;
    let text = said(&output);
    ensure!(output.status.code() == Some(42), "{:?}: {text}", output.status);
    ensure!(text.contains("the disk is on fire") && text.contains("ended with exit code 42"), "{text}");
    desk.nothing_left("run")
}

#[test]
fn a_wrong_key_and_a_host_that_is_down_are_said_before_anything_is_started() -> Result<()> {
    let Some(mut hosts) = SshHosts::start(2)? else { return Ok(()) };
    let desk = Desk::new()?;
    hosts.shut(1)?;
    let output = start(&desk, &hosts, 2, 50, &[])?.finish()?;
    let text = said(&output);
    ensure!(output.status.code() == Some(2) && !desk.path("run").exists(), "{:?}: {text}", output.status);
    ensure!(text.contains("node 1 (127.0.0.3)") && text.contains("Connection refused"), "{text}");

    // With a range of nodes it goes on without.
    let mut command = program("launcher");
    command.args(["check", "--nodes", "1:2", "--device", "cpu", "--data", &desk.arg("data")]).args(hosts.arguments());
    let output = began_tests::finish(command)?;
    let text = said(&output);
    ensure!(output.status.success() && text.contains("left out: node 1 (127.0.0.3)"), "{text}");
    ensure!(text.contains("ready: 1 trainer on 1 node over ssh"), "{text}");

    hosts.forget_the_key()?;
    let output = start(&desk, &hosts, 2, 50, &[])?.finish()?;
    let text = said(&output);
    ensure!(output.status.code() == Some(2) && text.contains("Permission denied"), "{:?}: {text}", output.status);
    ensure!(!desk.path("run").exists(), "something was made: {text}");
    std::thread::sleep(Duration::from_millis(100));
    desk.nothing_left("run")
}
