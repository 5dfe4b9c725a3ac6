//! Runs in a real SLURM of four nodes on this machine, with devices that are none: the digest is the one of a run on one
//! machine, scancel leaves a checkpoint, and a node that dies is done without. Skipped, with the reason, where SLURM is not
//! installed.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use began_record::RunDir;
use began_tests::{Desk, PATIENCE, Slurm, program, programs, said, undisturbed};

const HABITS: [&str; 6] = ["--set", "run.lanes=8", "--set", "run.checkpoint_every=25", "--set", "run.digest_every=20"];
/// Long enough that no test sees its end.
const FOREVER: u64 = 1_000_000;

/// A run of four nodes with two trainers each, submitted; the job's number.
fn submit(cluster: &Slurm, desk: &Desk, steps: u64, more: &[&str]) -> Result<String> {
    let mut command = cluster.command(programs().join("launcher"));
    command.args(desk.training("run", 4, 2, steps, &[&HABITS, more].concat()));
    // Trainers on CPUs; the devices are asked for all the same.
    command.args(["--submit", "--sbatch-args=--gpus-per-node=2"]);
    let output = began_tests::finish(command)?;
    let text = said(&output);
    ensure!(output.status.success(), "{text}");
    let job = text.split(" as job ").nth(1).and_then(|rest| rest.split(';').next()).context(text.clone())?;
    Ok(job.to_owned())
}

/// Waits for a job's end; its exit code and what its script wrote.
fn end(cluster: &Slurm, desk: &Desk, job: &str) -> Result<(String, String)> {
    let log = || std::fs::read_to_string(desk.path(&format!("run-{job}.log"))).unwrap_or_default();
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let (state, code) = cluster.job(job)?;
        if ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"].contains(&state.as_str()) {
            return Ok((format!("{state} {code}"), log()));
        }
        sleep(Duration::from_millis(100));
    }
    bail!("the job did not end within {} s: {}", PATIENCE.as_secs(), log())
}

#[test]
fn four_nodes_of_slurm_give_the_digest_of_one_machine_and_a_node_that_dies_is_done_without() -> Result<()> {
    let Some(mut cluster) = Slurm::start(4)? else { return Ok(()) };
    let golden = undisturbed(60, &[])?;
    let desk = Desk::new()?;
    let job = submit(&cluster, &desk, 60, &[])?;
    let (state, text) = end(&cluster, &desk, &job)?;
    ensure!(state == "COMPLETED 0:0", "{state}: {text}");
    ensure!(desk.digest("run")? == golden, "another digest: {text}");
    for words in ["node 3 is n3", "8 trainers on 4 nodes of 2 under SLURM", "where the nodes see this machine"] {
        ensure!(text.contains(words), "{words:?} is not in {text}");
    }
    desk.nothing_left("run")?;

    let golden = undisturbed(250, &[])?;
    let desk = Desk::new()?;
    let job = submit(&cluster, &desk, 250, &["--no-check", "--address", "127.0.0.1"])?;
    desk.reach("run", 20)?;
    cluster.kill_node(3)?;
    let (state, text) = end(&cluster, &desk, &job)?;
    ensure!(desk.digest("run")? == golden, "{state}: another digest: {text}");
    ensure!(state == "COMPLETED 0:0", "{state}: {text}");
    let lost = desk.told("run", "lost")?;
    ensure!(lost.iter().any(|text| text.contains("node 3")), "nobody noticed: {lost:?}");
    desk.nothing_left("run")
}

#[test]
fn scancel_leaves_a_checkpoint_from_which_the_next_job_goes_on() -> Result<()> {
    let Some(cluster) = Slurm::start(4)? else { return Ok(()) };
    let desk = Desk::new()?;
    let habits = ["--no-check", "--address", "127.0.0.1", "--set", "run.checkpoint_every=100000"];
    let job = submit(&cluster, &desk, FOREVER, &habits)?;
    desk.reach("run", 10)?;
    cluster.ask("scancel", &[&job])?;
    let (state, text) = end(&cluster, &desk, &job)?;
    ensure!(state.starts_with("CANCELLED"), "{state}: {text}");
    desk.nothing_left("run")?;
    let run = RunDir::open(&desk.path("run"))?;
    let checkpoint = run.latest_checkpoint()?.with_context(|| format!("no checkpoint: {text}"))?.step.0;
    ensure!(checkpoint >= 10, "step {checkpoint}: {text}");

    // The same script again goes on with the run.
    let mut resume = program("launcher");
    let steps = format!("run.steps={}", checkpoint + 20);
    resume.args(["resume", &desk.arg("run"), "--nodes", "1", "--gpus", "2", "--device", "cpu", "--set", &steps]);
    let output = began_tests::finish(resume)?;
    ensure!(output.status.success(), "{}", said(&output));
    let golden = desk.train("golden", 1, 2, checkpoint + 20, &HABITS)?;
    ensure!(desk.digest("run")? == golden, "another digest");
    Ok(())
}

#[test]
fn a_job_that_is_told_of_its_time_limit_is_requeued_and_goes_on_with_the_run() -> Result<()> {
    let Some(cluster) = Slurm::start(4)? else { return Ok(()) };
    let golden = undisturbed(400, &[])?;
    let desk = Desk::new()?;
    let job = submit(&cluster, &desk, 400, &["--no-check", "--address", "127.0.0.1"])?;
    desk.reach("run", 20)?;
    // What SLURM sends the script 120 s before the limit.
    cluster.ask("scancel", &["--batch", "--signal=USR1", &job])?;
    let (state, text) = end(&cluster, &desk, &job)?;
    ensure!(state == "COMPLETED 0:0", "{state}: {text}");
    ensure!(cluster.ask("scontrol", &["show", "job", "-o", &job])?.contains("Restarts=1"), "not requeued: {text}");
    let starts = desk.told("run", "start")?;
    ensure!(starts.len() == 2, "{starts:?}: {text}");
    ensure!(desk.digest("run")? == golden, "another digest: {text}");
    desk.nothing_left("run")
}
