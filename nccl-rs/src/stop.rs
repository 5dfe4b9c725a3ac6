//! How another thread calls a wait off without ever touching NCCL.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A flag that ends every wait of the communicators it was given to ([`Config::stop`](crate::Config::stop)).
///
/// NCCL must not be aborted by one thread while another is inside it for the same communicator. So a thread that wants
/// one ended holds no handle to it: it raises this flag, and the thread that owns the communicator sees that within a
/// millisecond wherever it waits, aborts, and returns [`Error::Stopped`](crate::Error::Stopped) with the reason.
///
/// Clones share the flag. It cannot be lowered: like a communicator it is fresh for every generation.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    raised: AtomicBool,
    reason: OnceLock<String>,
}

impl StopFlag {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag. The first reason stays.
    pub fn stop(&self, reason: impl Into<String>) {
        let _ = self.0.reason.set(reason.into());
        self.0.raised.store(true, Ordering::Release);
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
    }

    /// Why it was raised; `None` while it is not.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        // The flag is read first: a reason without it is about to be raised and not there yet.
        self.is_stopped().then(|| self.0.reason.get().map_or("", String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_flag_and_the_first_reason_stays() {
        let flag = StopFlag::new();
        let other = flag.clone();
        assert_eq!(other.reason(), None);
        flag.stop("generation 3 is over");
        flag.stop("and again");
        assert!(other.is_stopped());
        assert_eq!(other.reason(), Some("generation 3 is over"));
    }
}
