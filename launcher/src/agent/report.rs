//! What an agent tells its launcher: one JSON object a line on stdout.
//!
//! Every end of a trainer is in exactly one report: the one that says what becomes of its place.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::child::Exit;

/// One report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// A trainer was started.
    Started {
        /// Its rank at the start of the launch.
        rank: u32,
        /// Its index on the node.
        local_rank: u32,
        /// Its process.
        pid: u32,
    },
    /// A trainer committed a step: its place has made progress.
    Committed {
        /// Its rank.
        rank: u32,
        /// How many steps are committed.
        step: u64,
    },
    /// A trainer ended, and its place is empty: it ended as it should, or it was asked to.
    Exited {
        /// How it ended.
        #[serde(flatten)]
        end: End,
        /// Whether the agent had asked it to.
        asked: bool,
    },
    /// A trainer ended, and another is started in its place.
    Restarting {
        /// How it ended.
        #[serde(flatten)]
        end: End,
        /// In how many seconds.
        in_seconds: f64,
        /// The how-manieth restart without a committed step this is.
        attempt: u32,
        /// How many there may be.
        allowed: u32,
    },
    /// A trainer ended, and nobody is started in its place any more.
    SetAside {
        /// How it ended.
        #[serde(flatten)]
        end: End,
        /// Why its place stays empty.
        reason: String,
    },
    /// A trainer wrote a line.
    Output {
        /// Its rank.
        rank: u32,
        /// The line.
        line: String,
    },
    /// A trainer could not be started.
    Failed {
        /// Why.
        reason: String,
    },
    /// The agent is there: its answer to the launcher's word that that is.
    Here,
    /// The agent has no place left to look after and ends: the last report.
    Over,
}

/// How a trainer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its rank.
    pub rank: u32,
    /// Its index on the node.
    pub local_rank: u32,
    /// Its process.
    pub pid: u32,
    /// How it ended.
    #[serde(flatten)]
    pub exit: Exit,
    /// The last lines it wrote.
    pub last_lines: Vec<String>,
}

/// What a trainer says on its stdout: it has committed steps, in a generation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progressed {
    /// How many steps are committed.
    pub committed: u64,
}

/// Reports that were not written yet. Where nobody reads (a network that was cut), an agent must not stand still over them.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Lines of trainers are left out where this many reports wait; they are in the trainer's log all the same.
const MOST_WAITING: usize = 4096;

/// Sends a report. A launcher that is gone reads nothing more; that it is gone is seen on stdin.
pub fn send(report: &Report) {
    static WRITER: OnceLock<Option<mpsc::Sender<String>>> = OnceLock::new();
    if matches!(report, Report::Output { .. }) && WAITING.load(Ordering::SeqCst) > MOST_WAITING {
        return;
    }
    let Ok(line) = serde_json::to_string(report) else { return };
    let writer = WRITER.get_or_init(|| {
        let (writer, lines) = mpsc::channel::<String>();
        let write = move || {
            for line in lines {
                write_line(&line);
                WAITING.fetch_sub(1, Ordering::SeqCst);
            }
        };
        std::thread::Builder::new().name("reports".into()).spawn(write).ok().map(|_| writer)
    });
    match writer {
        Some(writer) => {
            WAITING.fetch_add(1, Ordering::SeqCst);
            let _ = writer.send(line);
        }
        None => write_line(&line),
    }
}

/// Waits until every report is written, but not for long.
pub async fn all_sent() {
    let deadline = Instant::now() + Duration::from_secs(1);
    while WAITING.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn write_line(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_flat_object() -> serde_json::Result<()> {
        let exit = Exit { code: None, signal: Some(9) };
        let end = End { rank: 5, local_rank: 1, pid: 77, exit, last_lines: vec!["a".into()] };
        let report = Report::Restarting { end, in_seconds: 0.5, attempt: 2, allowed: 8 };
        let text = serde_json::to_string(&report)?;
        assert!(
            text.starts_with(r#"{"event":"restarting","rank":5,"local_rank":1,"pid":77,"code":null,"signal":9"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Report>(&text)?, report);
        assert_eq!(serde_json::to_string(&Report::Over)?, r#"{"event":"over"}"#);
        Ok(())
    }

    #[test]
    fn only_a_line_about_progress_is_one() {
        assert_eq!(serde_json::from_str(r#"{"committed":57}"#).ok(), Some(Progressed { committed: 57 }));
        for other in ["committed 57", r#"{"committed":-1}"#, "{}", r#"{"committed":5,"more":1}"#] {
            assert!(serde_json::from_str::<Progressed>(other).is_err(), "{other}");
        }
    }
}
