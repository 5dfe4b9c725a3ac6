//! Whether there is a stream with the coordinator, and when to try again if there is none.

use std::time::Duration;

/// Between the first attempts; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: a coordinator that is started again is found within it.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// How long a stream may take to open, and a hello to be answered.
const ANSWER: Duration = Duration::from_secs(10);

/// The state of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is none until then.
    Down { again: Duration },
    /// Asked for at that time.
    Opening { since: Duration },
    /// Open, the hello sent at that time.
    Greeting { since: Duration },
    /// Welcomed.
    Up,
    /// Never again.
    Closed,
}

/// The stream, and since when it is missing.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) stage: Stage,
    missing_since: Duration,
    pause: Duration,
}

/// What to do at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Open a stream.
    Connect,
    /// Drop the stream that does not answer.
    Drop,
    /// It has been missing for longer than anyone waits.
    GiveUp,
}

impl Link {
    pub(crate) fn new(now: Duration) -> Self {
        Self { stage: Stage::Down { again: now }, missing_since: now, pause: FIRST_PAUSE }
    }

    pub(crate) fn due(&mut self, now: Duration, patience: Duration) -> Due {
        let missing = !matches!(self.stage, Stage::Up | Stage::Closed);
        if missing && now.saturating_sub(self.missing_since) > patience {
            self.stage = Stage::Closed;
            return Due::GiveUp;
        }
        match self.stage {
            Stage::Down { again } if now >= again => {
                self.stage = Stage::Opening { since: now };
                Due::Connect
            }
            Stage::Opening { since } | Stage::Greeting { since } if now.saturating_sub(since) > ANSWER => {
                self.broken(now);
                Due::Drop
            }
            _ => Due::Nothing,
        }
    }

    pub(crate) fn opened(&mut self, now: Duration) {
        self.stage = Stage::Greeting { since: now };
    }

    pub(crate) fn welcomed(&mut self) {
        self.stage = Stage::Up;
        self.pause = FIRST_PAUSE;
    }

    pub(crate) fn broken(&mut self, now: Duration) {
        match self.stage {
            Stage::Closed => return,
            Stage::Up => self.missing_since = now,
            _ => {}
        }
        self.stage = Stage::Down { again: now + self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    pub(crate) fn close(&mut self) {
        self.stage = Stage::Closed;
    }

    /// How long there has been no stream.
    pub(crate) fn missing(&self, now: Duration) -> Duration {
        now.saturating_sub(self.missing_since)
    }
}
