//! What is known of a run at a moment: from its journal, from its coordinator's answers, and from what that tells. No
//! terminal and no clock of its own.

use std::collections::VecDeque;

use began::config::RunConfig;
use began_proto::v1::{Ended, Event, Progress, StatusResponse};
use began_record::{EventRow, StepRow};

use super::series::Series;

/// Events kept.
const EVENTS: usize = 200;

/// What is known.
#[derive(Debug, Default)]
pub struct View {
    /// The run's folder or address, as it was given.
    pub name: String,
    /// gamma, where the run's configuration is here.
    pub gamma: Option<f64>,
    /// The newest answer of the coordinator.
    pub status: Option<StatusResponse>,
    /// Why there is none at the moment.
    pub silent: Option<String>,
    /// How it ended, if that was told.
    pub ended: Option<(bool, String)>,
    /// What became of what was asked for last.
    pub answer: Option<String>,
    /// The newest step that is shown, and how many there are to be.
    pub step: u64,
    pub steps: u64,
    /// The curves.
    pub real: Series,
    pub fake: Series,
    pub k: Series,
    pub m_global: Series,
    pub rate: Series,
    pub speed: Series,
    /// Newest first: seconds since 1970, kind, text.
    pub events: VecDeque<(f64, String, String)>,
    /// The first row of the table of trainers that is shown.
    pub first_row: usize,
    /// Whether the losses are drawn over a logarithm.
    pub logarithmic: bool,
    /// The next step that is not among the curves yet.
    next: u64,
    images_a_step: f64,
}

impl View {
    /// Nothing is known yet.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// What the run's configuration says.
    pub fn configured(&mut self, config: &RunConfig) {
        self.gamma = Some(config.objective.gamma);
        self.steps = config.run.steps;
        self.images_a_step = f64::from(config.run.lanes) * f64::from(config.run.batch);
    }

    /// What is in the journal.
    pub fn recorded(&mut self, steps: &[StepRow], events: &[EventRow]) {
        for row in steps {
            let record = row.record;
            self.values(record.step.0, [record.real, record.fake, record.k, record.m_global, record.rate]);
            if row.seconds > 0.0 && self.images_a_step > 0.0 {
                self.speed.push(self.images_a_step / row.seconds);
            }
        }
        for row in events.iter().filter(|row| row.kind != "lease") {
            self.remember(row.time, row.kind.clone(), row.text.clone());
        }
    }

    /// An answer of the coordinator.
    pub fn status(&mut self, status: StatusResponse) {
        self.silent = None;
        self.steps = status.steps;
        if let Some(progress) = status.progress {
            self.progress(progress);
        }
        if status.phase != "ended" {
            self.ended = None;
        }
        let rows = status.trainers.len();
        self.first_row = self.first_row.min(rows.saturating_sub(1));
        self.status = Some(status);
    }

    /// No answer.
    pub fn silent(&mut self, why: String) {
        self.silent = Some(why);
    }

    /// A step.
    pub fn progress(&mut self, told: Progress) {
        self.steps = told.steps;
        let Some(step) = told.step.checked_sub(1) else { return };
        if step < self.next && step + 1 == self.step {
            return;
        }
        self.values(step, [told.real, told.fake, told.k, told.m_global, told.rate]);
        if told.images_per_second > 0.0 {
            self.speed.push(told.images_per_second);
        }
    }

    fn values(&mut self, step: u64, [real, fake, k, m_global, rate]: [f64; 5]) {
        self.step = step + 1;
        // Steps that are computed again have the same losses, but where the run went back for a reason.
        if step < self.next {
            return;
        }
        self.next = step + 1;
        self.real.push(real);
        self.fake.push(fake);
        self.k.push(k);
        self.m_global.push(m_global);
        self.rate.push(rate);
    }

    /// An event.
    pub fn event(&mut self, event: Event) {
        if event.kind != "lease" {
            self.remember(event.time, event.kind, event.text);
        }
    }

    fn remember(&mut self, time: f64, kind: String, text: String) {
        self.events.push_front((time, kind, text));
        self.events.truncate(EVENTS);
    }

    /// The end.
    pub fn ended(&mut self, ended: &Ended) {
        self.ended = Some((ended.failed, ended.reason.clone()));
    }

    /// Moves the table of trainers.
    pub fn scroll(&mut self, rows: isize) {
        let last = self.status.as_ref().map_or(0, |status| status.trainers.len().saturating_sub(1));
        self.first_row = self.first_row.saturating_add_signed(rows).min(last);
    }
}
