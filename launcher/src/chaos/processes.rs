//! The processes of a run on this machine, found by their command lines; nothing else is ever signalled.
//!
//! A process is one of the run's if it says `--run` with the run's folder and its program is a trainer, a coordinator or an
//! agent. Before each signal it is looked at again: its number may be another's by now.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a process does for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It trains.
    Trainer,
    /// It keeps the run.
    Coordinator,
    /// It starts the trainers of a node.
    Agent,
}

/// A process of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// What it does.
    pub kind: Kind,
    /// Its node, where it says one.
    pub node: Option<u32>,
    /// When it was started, in the kernel's ticks: with the id, it names the process for good.
    started: u64,
    run: PathBuf,
}

/// The processes of this kind that work on the run in `run`, an absolute path; by their numbers.
#[must_use]
pub fn find(run: &Path, kind: Kind) -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Found> = pids.filter_map(|pid| look(pid, run)).filter(|found| found.kind == kind).collect();
    found.sort_by_key(|found| found.pid);
    found
}

fn look(pid: u32, run: &Path) -> Option<Found> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        line.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let (kind, node) = role(&words, run)?;
    Some(Found { pid, kind, node, started: started(pid)?, run: run.into() })
}

/// What a command line does for the run, and on which node.
fn role(words: &[String], run: &Path) -> Option<(Kind, Option<u32>)> {
    let behind = |flag: &str| words.iter().skip_while(|word| *word != flag).nth(1);
    if !is_same(Path::new(behind("--run")?), run) {
        return None;
    }
    // A script stands behind its interpreter.
    let stem = |word: &String| Path::new(word).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let ends_with = |name: &str| words.iter().take(2).filter_map(stem).any(|stem| stem.ends_with(name));
    let kind = match words.get(1).map(String::as_str) {
        Some("agent") => Kind::Agent,
        // What is about to become a trainer is not one yet.
        Some("tied") => return None,
        _ if ends_with("trainer") && words.iter().any(|word| word == "run") => Kind::Trainer,
        _ if ends_with("coordinator") => Kind::Coordinator,
        _ => return None,
    };
    Some((kind, behind("--node").and_then(|node| node.parse().ok())))
}

/// Whether two names are of one folder.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Field 22 of `/proc/PID/stat`, for a process that is not only waiting to be reaped.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    (fields.next() != Some("Z")).then(|| fields.nth(18)?.parse().ok()).flatten()
}

impl Found {
    /// Signals it, if it is still the same process; whether it was.
    pub fn signal(&self, signal: Signal) -> bool {
        let same = look(self.pid, &self.run).is_some_and(|now| now == *self);
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        same && kill(Pid::from_raw(pid), signal).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<(Kind, Option<u32>)> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        role(&words, Path::new("/runs/a"))
    }

    #[test]
    fn only_the_processes_of_this_run_are_found() {
        for (line, kind, node) in [
            ("/bin/trainer run --coordinator x --run /runs/a --node 2 --local-rank 0", Kind::Trainer, Some(2)),
            ("/bin/sh /t/fake-trainer.sh run --coordinator x --run /runs/a --node 0", Kind::Trainer, Some(0)),
            ("/bin/coordinator --run /runs/a --listen 127.0.0.1:0", Kind::Coordinator, None),
            ("/bin/launcher agent --coordinator x --run /runs/a --node 1", Kind::Agent, Some(1)),
        ] {
            assert_eq!(of(line), Some((kind, node)), "{line}");
        }
        for line in [
            "/bin/trainer run --coordinator x --run /runs/b --node 2",
            "/bin/trainer run --coordinator x --run /runs/a2 --node 2",
            "/bin/launcher tied 77 /bin/trainer run --run /runs/a --node 2",
            "/bin/launcher --run /runs/a --data d",
            "/bin/launcher chaos /runs/a",
            "/bin/trainer sample /runs/a",
            "vim /runs/a/trainer",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn a_process_that_is_no_part_of_the_run_is_not_signalled() {
        let pid = std::process::id();
        let started = started(pid).expect("this process runs");
        let stranger = Found { pid, kind: Kind::Trainer, node: None, started, run: "/runs/a".into() };
        assert!(!stranger.signal(Signal::SIGKILL));
    }
}
