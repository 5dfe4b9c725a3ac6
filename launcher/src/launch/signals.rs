//! What asks the launcher to stop, or for a checkpoint.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::supervision::Asked;

/// Ctrl-C, TERM, HUP and USR1, listened for from the beginning.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The run is to end.
    End(Asked),
    /// A checkpoint is to be written, and the run to go on.
    Checkpoint,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.interrupt.recv() => Signalled::End(Asked::Interrupt),
            _ = self.terminate.recv() => Signalled::End(Asked::Terminate),
            _ = self.hangup.recv() => Signalled::End(Asked::Terminate),
            _ = self.user.recv() => Signalled::Checkpoint,
        }
    }

    /// The next that asks for the end; before there is a run, nothing can be checkpointed.
    pub async fn asked(&mut self) -> Asked {
        loop {
            if let Signalled::End(asked) = self.next().await {
                return asked;
            }
        }
    }
}
