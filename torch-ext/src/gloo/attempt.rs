//! An attempt to connect that can be called off from another thread. It never touches a socket that is not the group's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::sockets::Sockets;
use crate::TorchError;

/// A handle on an attempt to connect; clones are of the same attempt.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    called_off: AtomicBool,
    /// Known from when Gloo begins to connect.
    sockets: Mutex<Option<Arc<Sockets>>>,
}

impl Attempt {
    /// Ends the attempt: waits for members end within a quarter of a second, and what is connected is shut down.
    pub fn call_off(&self) {
        self.shared.called_off.store(true, Ordering::Release);
        self.shut_down();
    }

    /// Whether it was called off.
    #[must_use]
    pub fn is_called_off(&self) -> bool {
        self.shared.called_off.load(Ordering::Acquire)
    }

    /// Gloo begins to connect, and these will be its sockets.
    pub(super) fn connects(&self, sockets: &Arc<Sockets>) -> Result<(), TorchError> {
        *self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner) = Some(sockets.clone());
        if self.is_called_off() { Err(TorchError("connecting was called off".into())) } else { Ok(()) }
    }

    /// Shuts down what is connected so far; whether Gloo has begun to connect.
    pub(super) fn shut_down(&self) -> bool {
        let sockets = self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sockets) = &sockets {
            sockets.links().shut_down();
        }
        sockets.is_some()
    }
}
