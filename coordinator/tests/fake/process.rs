//! The coordinator's binary as a process of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENCE, Result, Run};

/// A coordinator process; killed when the test is over.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub fn start(run: &Run, world: u32, more: &[&str]) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_coordinator"))
            .arg("--run")
            .arg(run.path())
            .args(["--world", &world.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    pub fn address(&mut self) -> Result<String> {
        let stdout = self.0.stdout.as_mut().ok_or("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        Ok(line["listening"].as_str().ok_or("no address")?.to_owned())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) -> Result {
        Ok(kill(Pid::from_raw(self.0.id() as i32), signal)?)
    }

    /// No last words, no last rows.
    pub fn kill(&mut self) -> Result {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Its exit status and what it wrote on stderr.
    pub async fn end(&mut self) -> Result<(ExitStatus, String)> {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.0.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > until => return Err("it does not end".into()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut errors = String::new();
        self.0.stderr.as_mut().ok_or("no stderr")?.read_to_string(&mut errors)?;
        Ok((status, errors))
    }
}
