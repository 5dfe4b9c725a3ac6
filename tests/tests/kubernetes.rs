//! A run from its manifests: what their pods start trains, survives what happens to pods, and ends with the digest of a run on
//! one machine; and every pod ends with the code that its Job is told to go by.

use anyhow::{Result, ensure};
use began_tests::pods::{NAME, Pods};
use began_tests::{Running, finish, said, succeed, wait_for};
use nix::sys::signal::Signal;

/// The code of a pod that is to be replaced without counting.
const INTERRUPTED: i32 = 75;

fn ends(pod: Running, expected: i32) -> Result<String> {
    let output = pod.finish()?;
    let text = said(&output);
    ensure!(output.status.code() == Some(expected), "{:?} instead of {expected}: {text}", output.status);
    ensure!(!text.contains("panicked at"), "{text}");
    Ok(text)
}

fn run() -> String {
    format!("runs/{NAME}")
}

#[test]
fn pods_from_the_manifests_train_through_a_killed_one_and_end_with_the_digest_of_a_plain_run() -> Result<()> {
    let pods = Pods::new(2, 2, 120, &[])?;
    // The nodes come first, and wait.
    let (zero, one) = (pods.node(0)?, pods.node(1)?);
    let coordinator = pods.coordinator()?;
    pods.desk.reach(&run(), 10)?;
    let probed = finish(pods.probe()?)?;
    ensure!(probed.status.success(), "{}", said(&probed));
    one.signal(Signal::SIGKILL)?;
    drop(one);
    let one = pods.node(1)?;
    ends(coordinator, 0)?;
    ends(zero, 0)?;
    ends(one, 0)?;
    let plain = pods.desk.train("plain", 1, 1, 120, &[])?;
    let digest = pods.desk.digest(&run())?;
    ensure!(digest == plain, "{digest} is not {plain}");
    pods.desk.nothing_left(&run())?;
    // A pod that comes after the end has nothing to do.
    let text = ends(pods.coordinator()?, 0)?;
    ensure!(text.contains("is finished"), "{text}");
    Ok(())
}

#[test]
fn a_drained_coordinator_leaves_a_checkpoint_and_all_pods_of_a_job_set_go_on_from_it() -> Result<()> {
    let pods = Pods::new(2, 1, 4_000, &["--jobset", "--grace", "20"])?;
    let (coordinator, zero, one) = (pods.coordinator()?, pods.node(0)?, pods.node(1)?);
    pods.desk.reach(&run(), 10)?;
    coordinator.signal(Signal::SIGTERM)?;
    for (pod, part) in [(coordinator, "coordinator"), (zero, "nodes"), (one, "nodes")] {
        ends(pod, INTERRUPTED)?;
        ensure!(pods.action(part, INTERRUPTED)? == Some("Ignore"), "{part} counts {INTERRUPTED}");
    }
    let step = step_of(&pods.desk.digest(&run())?)?;
    ensure!(step >= 10, "{step}");

    // The next pods; this time somebody stops the run, and it stays stopped.
    let (coordinator, zero, one) = (pods.coordinator()?, pods.node(0)?, pods.node(1)?);
    pods.desk.reach(&run(), step + 5)?;
    let stopped = finish(pods.launcher(&["stop", &format!("/runs/{NAME}")])?)?;
    ensure!(stopped.status.success(), "{}", said(&stopped));
    for pod in [coordinator, zero, one] {
        ends(pod, 0)?;
    }
    let digest = pods.desk.digest(&run())?;
    let plain = pods.desk.train("plain", 1, 1, step_of(&digest)? as u64, &[])?;
    ensure!(digest == plain, "{digest} is not {plain}");
    Ok(())
}

#[test]
fn what_cannot_be_started_ends_its_job_with_a_sentence() -> Result<()> {
    let pods = Pods::new(1, 1, 10, &["--set", "model.size=32"])?;
    let text = ends(pods.coordinator()?, 2)?;
    ensure!(text.contains("model.size is 32, but the images") && !pods.desk.path(&run()).exists(), "{text}");
    ensure!(pods.action("coordinator", 2)? == Some("FailJob"));
    // Without a coordinator a node waits, with a bound, and says for what.
    let mut waiting = std::process::Command::new(began_tests::programs().join("launcher"));
    waiting.args(["agent", "--pod", "--wait-for-coordinator", "2", "--coordinator", "127.0.0.1:9", "--run"]);
    waiting.arg(pods.desk.path(&run())).args(["--node", "0", "--trainers", "1", "--device", "cpu"]);
    let text = ends(Running::start(waiting)?, 1)?;
    ensure!(text.contains("waited 2 s for the coordinator in vain"), "{text}");
    Ok(())
}

#[test]
fn a_node_that_is_told_to_go_while_it_waits_goes_at_once() -> Result<()> {
    let pods = Pods::new(1, 1, 10, &[])?;
    let node = pods.node(0)?;
    wait_for("the node to listen for signals", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        // The bit of SIGTERM.
        (u64::from_str_radix(caught.trim(), 16).ok()? & (1 << 14) != 0).then_some(())
    })?;
    node.signal(Signal::SIGTERM)?;
    ends(node, INTERRUPTED)?;
    Ok(())
}

#[test]
fn the_printed_cases_are_what_the_command_prints() -> Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    let mut cases = 0;
    for line in std::fs::read_to_string(folder.join("cases"))?.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| !name.starts_with('#')) else { continue };
        let printed = succeed("launcher", std::iter::once("kubernetes").chain(words))?;
        let kept = std::fs::read_to_string(folder.join(name).join("began.yaml"))?;
        ensure!(
            printed == kept,
            "{name} is not what `launcher kubernetes` prints; `make kubernetes-manifests` prints it again"
        );
        cases += 1;
    }
    ensure!(cases >= 5, "there are {cases} cases");
    Ok(())
}

fn step_of(digest: &str) -> Result<usize> {
    Ok(digest.split(' ').next().unwrap_or_default().parse()?)
}

#[test]
fn manifests_hold_for_the_oldest_and_newest_kubernetes() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join(".venv-kubernetes/bin/python");
    if !python.exists() {
        println!("skipped: the schemas are not there; `make test-kubernetes` fetches them from PyPI");
        return Ok(());
    }
    let mut validate = std::process::Command::new(python);
    validate.arg(root.join("deploy/kubernetes/validate.py")).arg("--launcher");
    validate.arg(began_tests::programs().join("launcher")).args(["--count", "12", "--seed", "7"]);
    let output = finish(validate)?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}
