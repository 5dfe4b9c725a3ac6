//! What is counted for `/metrics` since the coordinator started, and what is so from before.

use std::collections::BTreeMap;
use std::time::Duration;

use began_record::{EventRow, StepRow};

use crate::meters::Timing;

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    /// Steps finished, those that were computed again included.
    pub steps: u64,
    /// How long they took.
    pub seconds: Timing,
    /// Of the latest.
    pub images_per_second: f64,
    /// Events by kind, of the whole run.
    pub events: BTreeMap<String, u64>,
    /// When the newest checkpoint was written, in seconds since 1970.
    pub checkpoint_time: Option<f64>,
}

impl Tally {
    /// Of a run's events so far.
    #[must_use]
    pub fn of(events: &[EventRow]) -> Self {
        let mut tally = Self::default();
        for event in events {
            tally.event(event);
        }
        tally
    }

    /// A step is finished.
    pub fn step(&mut self, row: &StepRow, images_per_second: f64) {
        self.steps += 1;
        self.images_per_second = images_per_second;
        self.seconds.note(Duration::try_from_secs_f64(row.seconds).unwrap_or_default(), 1);
    }

    /// Something happened.
    pub fn event(&mut self, event: &EventRow) {
        if event.kind == "checkpoint" {
            self.checkpoint_time = Some(event.time);
        }
        *self.events.entry(event.kind.clone()).or_default() += 1;
    }
}
