//! Connecting on a thread of its own, so that the caller can look up meanwhile and call it off.
//!
//! An attempt that was called off is left to itself: its thread ends within the time limit of connecting, mostly at once,
//! and delivers nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, sleep};
use std::time::Duration;

use super::{Attempt, Group, Member, Rendezvous};
use crate::TorchError;

/// How often an abandoned attempt is looked at for new sockets.
const LOOK: Duration = Duration::from_millis(50);

/// An attempt under way. Dropping it calls it off.
#[derive(Debug)]
pub struct Connecting {
    attempt: Attempt,
    ended: Arc<AtomicBool>,
}

impl Connecting {
    /// Begins; the group, or why there is none, goes to `deliver` from another thread, unless it is called off before.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        store: Arc<dyn Rendezvous>,
        member: Member,
        deliver: impl FnOnce(Result<Group, TorchError>) + Send + 'static,
    ) -> io::Result<Self> {
        let this = Self { attempt: Attempt::default(), ended: Arc::default() };
        let (attempt, ended) = (this.attempt.clone(), this.ended.clone());
        Builder::new().name("gloo-connect".into()).spawn(move || {
            let outcome = Group::connect(store, &member, &attempt);
            ended.store(true, Ordering::Release);
            if !attempt.is_called_off() {
                deliver(outcome);
            }
        })?;
        Ok(this)
    }

    /// Calls it off; returns at once.
    pub fn call_off(&self) {
        if self.ended.load(Ordering::Acquire) || self.attempt.is_called_off() {
            return;
        }
        self.attempt.call_off();
        let (attempt, ended) = (self.attempt.clone(), self.ended.clone());
        // Gloo may still be making sockets; each is shut down as soon as it is there. Where this thread cannot be had, Gloo
        // ends at its time limit.
        let _ = Builder::new().name("gloo-end".into()).spawn(move || {
            while !ended.load(Ordering::Acquire) {
                attempt.shut_down();
                sleep(LOOK);
            }
        });
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.call_off();
    }
}
