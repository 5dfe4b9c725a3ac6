//! Nodes of a SLURM allocation: one step a program, started with srun.
//!
//! The step takes no resources of its own but shares the whole allocation on its node, so that it never waits for another step.
//! srun hands stdin on and ends with the program; a srun that was killed leaves the step, whose stdin closes, to end itself.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::{Backend, Start};
use crate::child::Exit;

/// How long scontrol may take to name the nodes.
const SCONTROL: Duration = Duration::from_secs(30);

/// The allocation that this process is in.
#[derive(Clone, Debug)]
pub struct Slurm {
    /// Its number.
    pub job: String,
    /// The names of its nodes.
    pub hosts: Vec<String>,
    /// The launcher's program on the nodes.
    pub launcher: PathBuf,
}

impl Backend for Slurm {
    fn name(&self) -> &'static str {
        "under SLURM"
    }

    fn host(&self, node: u32) -> &str {
        self.hosts.get(node as usize).map_or("nowhere", String::as_str)
    }

    fn command(&self, node: u32, start: &Start) -> Result<Command> {
        let host = self.hosts.get(node as usize).with_context(|| format!("the allocation has no node {node}"))?;
        let mut command = Command::new("srun");
        command
            .args(["--jobid", &self.job, "--nodes", "1", "--ntasks", "1", "--nodelist", host])
            // Beside other steps, with the memory and the CPUs that the job has there.
            .args(["--overlap", "--mem", "0", "--cpu-bind", "none", "--input", "all", "--unbuffered", "--quiet"])
            .args(["--kill-on-bad-exit=0", "--job-name", &format!("began-{node}")])
            .arg(&self.launcher)
            .args(&start.arguments)
            .envs(start.environment.iter().cloned());
        // Of the batch script: the step is of one task on one node.
        for name in ["SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NNODES"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn signals_everyone(&self) -> bool {
        // scancel sends TERM to all processes of a job, trainers too, which could not write a checkpoint then.
        true
    }

    fn keep(&mut self, nodes: &[u32]) {
        self.hosts = nodes.iter().filter_map(|&node| self.hosts.get(node as usize).cloned()).collect();
    }

    fn meaning(&self, node: u32, exit: Exit) -> Option<String> {
        match exit.code {
            Some(code @ (1 | 137 | 143 | 255)) => Some(format!(
                "srun on {} ended with {code}: SLURM may have ended the step, or its node may be gone",
                self.host(node)
            )),
            _ => None,
        }
    }
}

/// The names of the nodes in SLURM's short form, as in `node[1-4,7]`; SLURM itself reads it.
///
/// # Errors
/// If scontrol is not there or does not answer.
pub fn host_names(list: &str) -> Result<Vec<String>> {
    let mut child = std::process::Command::new("scontrol")
        .args(["show", "hostnames", list])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start scontrol, which names the allocation's nodes")?;
    let deadline = std::time::Instant::now() + SCONTROL;
    while child.try_wait()?.is_none() {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("scontrol did not name the nodes of {list} within {} s", SCONTROL.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("scontrol show hostnames {list}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}
