//! Operations under way, and the thread that waits for their messages.
//!
//! Gloo ends a wait whose peer is gone, but not where the peer goes in the middle of the very message: then the closed
//! connection tells. A wait of Gloo's must never end by a short time limit, which would fail the whole group; so it blocks on
//! a thread of its own, and whoever looks up does so on a channel.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::sockets::Links;
use crate::{TorchError, ffi};

/// How long after a connection was found closed its messages may still come out of Gloo.
const GRACE: Duration = Duration::from_millis(100);

/// One message under way.
#[derive(Debug)]
pub(super) struct Transfer {
    raw: *mut ffi::Transfer,
}

// SAFETY: Gloo's buffer is guarded by a lock of its own: one thread may wait while another aborts.
unsafe impl Send for Transfer {}
// SAFETY: as above.
unsafe impl Sync for Transfer {}

impl Transfer {
    pub(super) fn new(raw: *mut ffi::Transfer) -> Result<Self, TorchError> {
        if raw.is_null() { Err(TorchError::last()) } else { Ok(Self { raw }) }
    }

    fn wait(&self, limit: Duration) -> Result<(), TorchError> {
        let milliseconds = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        // SAFETY: the transfer is alive.
        match unsafe { ffi::began_transfer_wait(self.raw, milliseconds) } {
            1 => Ok(()),
            0 => Err(TorchError("the group was left".into())),
            _ => Err(TorchError::last()),
        }
    }

    fn abort(&self) {
        // SAFETY: the transfer is alive.
        unsafe { ffi::began_transfer_abort(self.raw) }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { ffi::began_transfer_free(self.raw) }
    }
}

type Transfers = Arc<Vec<Transfer>>;

struct Job {
    transfers: Transfers,
    done: Sender<Result<(), TorchError>>,
}

/// The thread that waits for a group's messages, operation after operation.
#[derive(Debug)]
pub(super) struct Waiter {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    links: Arc<Links>,
    /// Of operations that may be under way.
    pending: Vec<Weak<Vec<Transfer>>>,
}

impl Waiter {
    /// Each operation must be done within `limit`.
    pub(super) fn start(links: Arc<Links>, limit: Duration) -> Self {
        let (jobs, queue) = channel::<Job>();
        let work = move || {
            for Job { transfers, done } in queue {
                let end = Instant::now() + limit;
                let left = || end.saturating_duration_since(Instant::now());
                let outcome = transfers.iter().try_for_each(|transfer| transfer.wait(left()));
                drop(transfers);
                let _ = done.send(outcome);
            }
        };
        // Without the thread every operation says so.
        let thread = Builder::new().name("gloo-wait".into()).spawn(work).ok();
        Self { jobs: Some(jobs), thread, links, pending: Vec::new() }
    }

    pub(super) fn wait_for(&mut self, transfers: Vec<Transfer>) -> Result<Operation, TorchError> {
        let transfers = Arc::new(transfers);
        self.pending.retain(|pending| pending.strong_count() > 0);
        self.pending.push(Arc::downgrade(&transfers));
        let (done, outcome) = channel();
        let job = Job { transfers: transfers.clone(), done };
        let asked = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !asked {
            return Err(TorchError("the thread that waits for messages is gone".into()));
        }
        Ok(Operation { transfers, outcome, links: self.links.clone(), closed: None })
    }

    /// Ends the waits under way and the thread.
    pub(super) fn end(&mut self) {
        self.pending.iter().filter_map(Weak::upgrade).for_each(|transfers| abort(&transfers));
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn abort(transfers: &[Transfer]) {
    transfers.iter().for_each(Transfer::abort);
}

/// An operation under way. Dropping it before it is done leaves its group unusable.
#[derive(Debug)]
#[must_use = "an operation's tensors may not be touched before it is waited for"]
pub struct Operation {
    transfers: Transfers,
    outcome: Receiver<Result<(), TorchError>>,
    links: Arc<Links>,
    /// Since when a connection is known to be closed.
    closed: Option<Instant>,
}

impl Operation {
    /// Waits for at most `slice`; whether it is done.
    ///
    /// # Errors
    /// If a peer is gone or the time limit of operations passed.
    pub fn wait(&mut self, slice: Duration) -> Result<bool, TorchError> {
        match self.outcome.recv_timeout(slice) {
            Ok(outcome) => outcome.map(|()| true),
            Err(RecvTimeoutError::Disconnected) => Err(TorchError("the group was left".into())),
            Err(RecvTimeoutError::Timeout) => {
                let Some(peer) = self.links.closed() else { return Ok(false) };
                let since = *self.closed.get_or_insert_with(Instant::now);
                if since.elapsed() < GRACE {
                    return Ok(false);
                }
                Err(TorchError(format!("Connection closed by the peer at {peer}")))
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        abort(&self.transfers);
    }
}
