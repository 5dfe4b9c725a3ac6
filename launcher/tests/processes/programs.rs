//! What the process tests share: starting the launcher's programs, looking at processes, waiting with a bound. Each
//! test ends what it started, by its own numbers.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Nothing in these tests takes longer.
pub const LONG: Duration = Duration::from_secs(25);

/// A program under test, killed with its group when the test ends.
pub struct Program {
    child: Child,
    pub stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    seen: String,
}

impl Program {
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("cannot start the program under test")?;
        let stdin = child.stdin.take();
        let stdout = lines_of(child.stdout.take().context("stdout")?);
        let stderr = lines_of(child.stderr.take().context("stderr")?);
        Ok(Self { child, stdin, stdout, stderr, seen: String::new() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    /// The next line on stdout that has this word.
    pub fn line_with(&mut self, word: &str) -> Result<String> {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .stdout
                .recv_timeout(left)
                .with_context(|| format!("no line with {word:?} came:\n{}", self.seen))?;
            self.seen += &format!("{line}\n");
            if line.contains(word) {
                return Ok(line);
            }
        }
    }

    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the program under test did not end within {} s", LONG.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its exit code, and all that it wrote on stdout and on stderr.
    pub fn end(mut self) -> Result<(i32, String, String)> {
        let code = self.wait()?.code().context("killed")?;
        let rest = |lines: &Receiver<String>| {
            std::iter::from_fn(|| lines.recv_timeout(Duration::from_secs(2)).ok())
                .map(|line| line + "\n")
                .collect::<String>()
        };
        Ok((code, std::mem::take(&mut self.seen) + &rest(&self.stdout), rest(&self.stderr)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), self.child.id().try_into()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

pub fn launcher() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_launcher"));
    command.env("BEGAN_TRAINER", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processes/fake-trainer.sh"));
    command.env("BEGAN_COORDINATOR", fake_coordinator());
    command
}

/// Cargo builds the examples of a crate along with its tests, beside its binaries.
fn fake_coordinator() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_launcher")).with_file_name("examples").join("fake_coordinator")
}

pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: "S", "Z" for one that only waits to be reaped, ...
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

pub fn children_of(pid: u32) -> Vec<u32> {
    let Ok(all) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    pids.filter(|child| parent(*child) == Some(pid)).collect()
}

/// A process and all below it.
pub fn family_of(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while next < family.len() {
        family.extend(children_of(family[next]));
        next += 1;
    }
    family
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited {} s for this: {what}", LONG.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// All of them end within a few seconds; kills what does not.
pub fn all_gone(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(8);
    while pids.iter().any(|pid| is_alive(*pid)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<u32> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
    for pid in &left {
        let _ = kill(Pid::from_raw((*pid).try_into()?), Signal::SIGKILL);
    }
    if left.is_empty() { Ok(()) } else { bail!("these of {pids:?} were left behind: {left:?}") }
}
