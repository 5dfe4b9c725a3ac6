//! What this trainer is doing, as heartbeats tell it. Set by the training loop, read by the session's thread.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use began::Step;
use began_proto::v1::{self as wire, Phase};

/// What this trainer is doing.
#[derive(Debug)]
pub struct Activity {
    started: Instant,
    phase: AtomicU8,
    since: AtomicU64,
    step: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Activity {
    /// Starting.
    #[must_use]
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { started: Instant::now(), phase: AtomicU8::new(Phase::Starting as u8), since: zero(), step: zero() }
    }

    /// From now on, this.
    pub fn enter(&self, phase: Phase) {
        self.since.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// From now on, in this step.
    pub fn at_step(&self, step: Step) {
        self.step.store(step.0, Ordering::Relaxed);
    }

    pub(super) fn heartbeat(&self) -> wire::Heartbeat {
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
        wire::Heartbeat {
            phase: self.phase.load(Ordering::Relaxed).into(),
            phase_seconds: self.started.elapsed().saturating_sub(since).as_secs_f64(),
            step: self.step.load(Ordering::Relaxed),
        }
    }
}
