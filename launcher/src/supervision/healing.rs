//! The coordinator and the agents as things that can be started again: which of them runs, which is due, which is gone.

use std::time::Instant;

use super::words::{After, Gone};
use crate::child::Exit;
use crate::restarts::{Restarts, SUPPORT};

/// The place of a process that the launcher itself starts.
#[derive(Debug)]
pub struct Part {
    restarts: Restarts,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Due { when: Instant, last: Exit },
    Gone(Exit),
}

impl Part {
    /// One that runs, and may fail `allowed` times in a row.
    #[must_use]
    pub fn new(allowed: u32) -> Self {
        Self { restarts: Restarts::new(SUPPORT, allowed), state: State::Running }
    }

    /// It is gone and stays gone.
    pub fn gone(&mut self, exit: Exit) {
        self.state = State::Gone(exit);
    }

    /// It died. Whether it is started again, and what to say of it.
    pub fn died(&mut self, gone: &Gone, now: Instant) -> (bool, String) {
        let how = gone.sentence();
        match self.restarts.failed() {
            Some(again) => {
                self.state = State::Due { when: now + again.pause, last: gone.exit };
                let after = After(again.pause);
                (true, format!("{how}; starting it again {after} (restart {} of {})", again.attempt, again.allowed))
            }
            None => {
                self.gone(gone.exit);
                let allowed = self.restarts.allowed();
                (false, format!("{how}; it is not started again (--restarts {allowed} without a step in between)"))
            }
        }
    }

    /// It made progress.
    pub fn progressed(&mut self) {
        self.restarts.progressed();
    }

    /// When it is to be started again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due { when, .. } => Some(when),
            _ => None,
        }
    }

    /// Whether it is to be started now; it counts as running then.
    pub fn start_if_due(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|when| when <= now);
        if due {
            self.state = State::Running;
        }
        due
    }

    /// It is not started again, whether or not that was due.
    pub fn stay_gone(&mut self) {
        if let State::Due { last, .. } = self.state {
            self.gone(last);
        }
    }

    /// How it ended, if it is gone for good.
    #[must_use]
    pub fn is_gone(&self) -> Option<Exit> {
        match self.state {
            State::Gone(exit) => Some(exit),
            _ => None,
        }
    }
}
