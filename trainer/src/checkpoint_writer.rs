//! The thread that writes checkpoints, so that no step waits for a disk.
//!
//! It gets a copy of a committed state and does the rest: digest, files, hashes, syncing, renaming. One is written at a time and
//! one may wait; a third takes the waiting one's place, which is said. The last of a run is never passed over, and is tried
//! again while the disk is full. That one could not be written is a report and never the end of the run.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use began::{Equilibrium, RunConfig, Step};
use began_proto::v1::CheckpointWritten;
use began_record::RecordError;
use safetensors::SafeTensorError;

use crate::checkpoint::{self, Provenance};
use crate::digest::digest;
use crate::session::locked;
use crate::state::State;

/// Between two attempts on a full disk, and for how long the last checkpoint of a run is tried.
const AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A checkpoint to be written.
pub struct Order {
    /// A copy of the state.
    pub state: State,
    /// What belongs to it.
    pub equilibrium: Equilibrium,
    /// The epoch in which the next step begins.
    pub epoch: u64,
    /// The last of the run, or of a generation that is given up: must not be lost.
    pub last: bool,
}

/// Where reports go.
pub type Report = Box<dyn Fn(CheckpointWritten) + Send>;

#[derive(Default)]
struct Desk {
    waiting: Option<Order>,
    writing: Option<Step>,
    closed: bool,
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

/// The writer's end of the training loop.
pub struct CheckpointWriter {
    shared: Arc<Shared>,
    report: Arc<Mutex<Report>>,
    thread: Option<JoinHandle<()>>,
}

impl CheckpointWriter {
    /// Starts the thread, for the run in that directory.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn start(run: PathBuf, identity: String, config: RunConfig, report: Report) -> Result<Self> {
        let shared = Arc::new(Shared { desk: Mutex::default(), changed: Condvar::new() });
        let report = Arc::new(Mutex::new(report));
        let (work, tell) = (shared.clone(), report.clone());
        let thread = Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                tch::set_num_threads(1);
                while let Some(order) = work.next() {
                    let written = write(&run, &identity, &config, &order);
                    // Said before the desk is empty: whoever waits for that may end the process.
                    locked(&tell)(written);
                    locked(&work.desk).writing = None;
                    work.changed.notify_all();
                }
            })
            .context("cannot start the thread that writes checkpoints")?;
        Ok(Self { shared, report, thread: Some(thread) })
    }

    /// Hands an order over; never waits.
    pub fn write(&self, order: Order) {
        let mut desk = locked(&self.shared.desk);
        let passed_over = match &desk.waiting {
            Some(waiting) if waiting.last && !order.last => Some(order.equilibrium.step),
            _ => {
                let before = desk.waiting.replace(order);
                before.map(|before| before.equilibrium.step)
            }
        };
        drop(desk);
        self.shared.changed.notify_all();
        if let Some(step) = passed_over {
            let error = "another came before it was begun: the disk is slower than run.checkpoint_every".into();
            locked(&self.report)(CheckpointWritten { step: step.0, error, ..CheckpointWritten::default() });
        }
    }

    /// Waits until everything is written, at most that long; whether it is.
    pub fn finish(&self, patience: Duration) -> bool {
        let busy = |desk: &mut Desk| desk.waiting.is_some() || desk.writing.is_some();
        let desk = locked(&self.shared.desk);
        let waited = self.shared.changed.wait_timeout_while(desk, patience, busy);
        !waited.unwrap_or_else(std::sync::PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        locked(&self.shared.desk).closed = true;
        self.shared.changed.notify_all();
        // One that is under way is finished, unless the disk does not answer.
        if self.finish(PATIENCE)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The next order; nothing once the writer is closed and all is written.
    fn next(&self) -> Option<Order> {
        let mut desk = locked(&self.desk);
        loop {
            if let Some(order) = desk.waiting.take() {
                desk.writing = Some(order.equilibrium.step);
                return Some(order);
            }
            if desk.closed {
                return None;
            }
            desk = self.changed.wait(desk).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// Whether the system said that there is no room, however the error was wrapped.
fn is_full(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| {
        let stored = cause.downcast_ref::<SafeTensorError>().and_then(|error| match error {
            SafeTensorError::IoError(io) => Some(io),
            _ => None,
        });
        let recorded = cause.downcast_ref::<RecordError>().and_then(|error| match error {
            RecordError::Io { error, .. } => Some(error),
            _ => None,
        });
        stored.or(recorded).or_else(|| cause.downcast_ref::<io::Error>())
    });
    io.is_some_and(|io| matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

fn write(run: &std::path::Path, identity: &str, config: &RunConfig, order: &Order) -> CheckpointWritten {
    let started = Instant::now();
    let step = order.equilibrium.step;
    loop {
        let written = digest(&order.state, &order.equilibrium).and_then(|digest| {
            let about = Provenance { run: identity, config, epoch: order.epoch, digest: &digest.whole };
            checkpoint::write(run, &order.state, &order.equilibrium, &about)
        });
        let (path, error) = match written {
            Ok(path) => (path.display().to_string(), String::new()),
            Err(error) if order.last && is_full(&error) && started.elapsed() < PATIENCE => {
                tracing::warn!(step = step.0, "the disk is full, trying the last checkpoint again: {error:#}");
                sleep(AGAIN);
                continue;
            }
            Err(error) => (String::new(), format!("{error:#}")),
        };
        return CheckpointWritten { step: step.0, path, error, seconds: started.elapsed().as_secs_f64() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn config() -> RunConfig {
        let mut config = RunConfig::default();
        config.model = began::config::Model { size: 16, filters: 2, latent: 3 };
        config.run.lanes = 1;
        config
    }

    fn order(step: u64, last: bool) -> Result<Order> {
        let mut state = State::initial(&config(), Device::Cpu)?;
        state.step = Step(step);
        let equilibrium = Equilibrium { step: Step(step), ..Equilibrium::start(&config().optimizer) };
        Ok(Order { state, equilibrium, epoch: 0, last })
    }

    #[test]
    fn what_is_ordered_is_written_and_reported_and_a_full_desk_says_what_it_passes_over() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (send, reports) = std::sync::mpsc::channel();
        let report = Box::new(move |written| drop(send.send(written)));
        let writer = CheckpointWriter::start(folder.path().into(), "run".into(), config(), report)?;
        for step in 1..=20 {
            writer.write(order(step, step == 20)?);
        }
        assert!(writer.finish(Duration::from_secs(30)));
        drop(writer);
        let reports: Vec<CheckpointWritten> = reports.iter().collect();
        assert_eq!(reports.len(), 20);
        let last = reports.iter().find(|report| report.step == 20).context("no report")?;
        assert!(last.error.is_empty() && folder.path().join(&last.path).join("state.json").is_file());
        for report in &reports {
            let there = folder.path().join(format!("checkpoints/step-{:08}/state.json", report.step)).is_file();
            assert_eq!(there, report.error.is_empty(), "{report:?}");
        }
        Ok(())
    }

    #[test]
    fn a_full_disk_is_told_from_other_troubles() {
        let full = || io::Error::from_raw_os_error(28);
        let path = PathBuf::from("weights.safetensors");
        assert!(is_full(&anyhow::Error::new(full()).context("cannot write")));
        assert!(is_full(&anyhow::Error::new(SafeTensorError::IoError(full())).context("cannot write")));
        assert!(is_full(&anyhow::Error::new(RecordError::Io { what: "write", path, error: full() })));
        assert!(!is_full(&anyhow::Error::new(io::Error::from_raw_os_error(13))));
    }

    #[test]
    fn a_disk_that_refuses_is_a_report() -> Result<()> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("checkpoints"), "in the way")?;
        let (send, reports) = std::sync::mpsc::channel();
        let report = Box::new(move |written| drop(send.send(written)));
        let writer = CheckpointWriter::start(folder.path().into(), "run".into(), config(), report)?;
        writer.write(order(3, false)?);
        let report: CheckpointWritten = reports.recv_timeout(Duration::from_secs(20))?;
        assert!(report.step == 3 && report.error.contains("checkpoints"), "{report:?}");
        Ok(())
    }
}
