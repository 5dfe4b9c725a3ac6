//! What failed and was not healed yet, so that a run that fails in the end can name its root cause.
//!
//! A failure is healed once the run takes a step some time after it: what is found to be the cause must never be something
//! that the run had got over. Only as many are kept as can matter.

use std::time::{Duration, Instant};

use super::words::{Cause, Process};

/// News of the last step before a failure may still come in for this long. It is also how long it takes for connections to
/// break before the process that died is reported: a trainer that failed by code within this time before its coordinator
/// or its agent died failed for that.
const ECHO: Duration = Duration::from_secs(1);

/// No more are kept: the first is the cause, the others are its echo.
const KEPT: usize = 32;

/// Failures that are not healed, oldest first.
#[derive(Debug, Default)]
pub struct Blame {
    failures: Vec<(Instant, Cause)>,
}

impl Blame {
    /// Something failed.
    pub fn failed(&mut self, cause: Cause, now: Instant) {
        if self.failures.len() < KEPT {
            self.failures.push((now, cause));
        }
    }

    /// The run took a step: what failed before is healed.
    pub fn stepped(&mut self, now: Instant) {
        self.failures.retain(|(time, _)| now.duration_since(*time) < ECHO);
    }

    /// Whether a trainer failed, or could not be started.
    #[must_use]
    pub fn has_trainer(&self) -> bool {
        let of_trainer = |cause: &Cause| !matches!(cause.process, Some((Process::Coordinator | Process::Agent(_), ..)));
        self.failures.iter().any(|(_, cause)| of_trainer(cause))
    }

    /// The first that failed of itself.
    #[must_use]
    pub fn root(&self) -> Option<Cause> {
        let (first_time, first) = self.failures.first()?;
        let by_code = matches!(first.process, Some((Process::Trainer { .. }, _, exit)) if exit.signal.is_none());
        let behind_it = self.failures.iter().find(|(time, cause)| {
            let killed = matches!(
                cause.process,
                Some((Process::Coordinator | Process::Agent(_), _, exit)) if exit.signal.is_some()
            );
            killed && time.duration_since(*first_time) < ECHO
        });
        let cause = if by_code { behind_it.map_or(first, |(_, cause)| cause) } else { first };
        Some(cause.clone())
    }
}
