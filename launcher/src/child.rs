//! A child process: started in a process group of its own, its stdin a pipe that we hold, its output in a log.
//!
//! Start children from the main thread only: the kernel's "parent died" signal goes by the thread that forked. The
//! closing of stdin tells every child to end; nothing here waits without the caller's bound.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::output::Log;

/// After a child's end, its last output is awaited for this long: something it started may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The code of a trainer that was stopped for a failure elsewhere: a victim, never the cause.
pub const STOPPED_FOR_ANOTHER: i32 = 3;
/// The code of a trainer without which the run goes on: another is to be started in its place.
pub const EXPELLED: i32 = 4;
/// The code of a trainer without which the run goes on for good: nobody may be started in its place.
pub const SET_ASIDE: i32 = 5;

/// How a process ended: either number is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl Exit {
    /// Whether it ended as it should, or for a failure elsewhere.
    #[must_use]
    pub fn is_orderly(self) -> bool {
        matches!(self.code, Some(0 | STOPPED_FOR_ANOTHER))
    }

    /// As an exit code of our own: its code, or 1 if a signal killed it.
    #[must_use]
    pub fn as_code(self) -> u8 {
        self.code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (_, Some(signal)) => {
                let name = Signal::try_from(signal).map(Signal::as_str).unwrap_or("unknown");
                write!(f, "killed by signal {signal} ({})", name.strip_prefix("SIG").unwrap_or(name))
            }
            (Some(code), None) => write!(f, "ended with exit code {code}"),
            (None, None) => f.write_str("ended in a way the system did not tell"),
        }
    }
}

/// A running child, or one that has ended.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    stdin: Option<ChildStdin>,
    ended: Arc<AtomicBool>,
}

/// What remains to be done for a child that was started: wait for it.
pub struct Waiter {
    child: tokio::process::Child,
    ended: Arc<AtomicBool>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

/// Who reads what the child writes on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// The log, as stderr.
    Logged,
    /// The caller.
    Ours,
}

/// Starts a child. Its stderr goes to `log`. Returns its stdout if the caller reads it.
///
/// # Errors
/// If the system cannot start it.
pub fn start(mut command: Command, log: &Log, stdout: Stdout) -> io::Result<(Child, Waiter, Option<ChildStdout>)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C in a terminal goes to its whole foreground group; only the launcher is to get it.
    command.process_group(0);
    let mut child = command.spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = Pid::from_raw(id.ok_or_else(|| io::Error::other("the child has no process id"))?);
    let ended = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        readers.push(tokio::spawn(log.clone().follow(stderr)));
    }
    let mut ours = child.stdout.take();
    if stdout == Stdout::Logged
        && let Some(stdout) = ours.take()
    {
        readers.push(tokio::spawn(log.clone().follow(stdout)));
    }
    let stdin = child.stdin.take();
    Ok((Child { pid, stdin, ended: Arc::clone(&ended) }, Waiter { child, ended, readers }, ours))
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Whether it runs still.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.ended.load(Ordering::SeqCst)
    }

    /// Sends a signal to it and all that it started. One that has ended already gets none: its number may be another's.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = killpg(self.pid, signal);
        }
    }

    /// Kills it if it is still there after this long.
    pub fn kill_after(&self, time: Duration) {
        let (pid, ended) = (self.pid, Arc::clone(&self.ended));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if !ended.load(Ordering::SeqCst) {
                let _ = killpg(pid, Signal::SIGKILL);
            }
        });
    }

    /// Sends it a line on its stdin. One that does not read it, or has ended, is none the wiser.
    pub fn tell(&self, line: &str) {
        if let Some(stdin) = &self.stdin {
            // The pipe does not block, and a few bytes always find room in one that is read.
            let _ = nix::unistd::write(stdin, format!("{line}\n").as_bytes());
        }
    }

    /// Tells it to end by closing its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

impl Waiter {
    /// As [`Waiter::wait`], for at most this long; nothing if the child runs still then.
    pub async fn within(&mut self, time: Duration) -> Option<Exit> {
        tokio::time::timeout(time, self.wait()).await.ok()
    }

    /// Waits for the end of the child and for the last of its output; kills what it left behind in its group.
    pub async fn wait(&mut self) -> Exit {
        let pid = self.child.id();
        let status = self.child.wait().await;
        self.ended.store(true, Ordering::SeqCst);
        if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = tokio::time::timeout(LAST_WORDS, async {
            for reader in self.readers.drain(..) {
                let _ = reader.await;
            }
        })
        .await;
        status.map_or(Exit { code: None, signal: None }, Exit::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_said_in_words() {
        assert_eq!(Exit { code: None, signal: Some(9) }.to_string(), "killed by signal 9 (KILL)");
        assert_eq!(Exit { code: Some(7), signal: None }.to_string(), "ended with exit code 7");
        assert!(Exit { code: Some(3), signal: None }.is_orderly());
        assert!(!Exit { code: None, signal: Some(15) }.is_orderly());
        assert_eq!(Exit { code: None, signal: Some(9) }.as_code(), 1);
    }

    #[tokio::test]
    async fn what_a_child_leaves_in_its_group_is_killed_with_it() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let log = Log::append_to(&folder.path().join("log"), None);
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; exit 7"]);
        let (child, mut waiter, _) = start(command, &log, Stdout::Logged)?;
        let exit = waiter.wait().await;
        assert_eq!((exit.code, child.is_alive()), (Some(7), false));
        let left: i32 = log.last_lines()[0].parse().map_err(io::Error::other)?;
        for _ in 0..50 {
            match std::fs::read_to_string(format!("/proc/{left}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => return Ok(()),
            }
        }
        panic!("process {left} runs still");
    }
}
