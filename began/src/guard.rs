//! Guards over the equilibrium: what a run that goes wrong looks like in its losses, and when to say so.
//!
//! A guard is a function of the records of the last steps and of nothing else, so that a run that was interrupted fires at
//! the same step as one that was not. What is done then is the coordinator's.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::{Guard, GuardAction};
use crate::{Step, StepRecord};

/// What fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A loss that is not a number.
    NotFinite,
    /// L(x) far above its mean.
    Jump,
    /// k at a bound.
    Pinned,
    /// M_global rising.
    Rising,
    /// Samples alike.
    Diversity,
}

/// A guard fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    /// Which.
    pub kind: Kind,
    /// What is to be done.
    pub action: GuardAction,
    /// What was seen, in a sentence.
    pub text: String,
    /// The first step that shows the trouble; a state from before it is sound as far as this guard can tell.
    pub trouble_from: Step,
}

/// The records that the guards look at.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    records: VecDeque<StepRecord>,
}

impl Watch {
    /// A watch that has seen these steps, oldest first.
    #[must_use]
    pub fn over(records: impl IntoIterator<Item = StepRecord>) -> Self {
        Self { records: records.into_iter().collect() }
    }

    /// How many records back anything may be looked at, after a step back of `span` steps.
    #[must_use]
    pub fn reach(guard: &Guard, span: u64) -> usize {
        (2 * guard.window + guard.pinned_steps.min(1 << 20) + span).min(1 << 21) as usize
    }

    /// The record of this step, if it is still kept.
    #[must_use]
    pub fn record(&self, step: Step) -> Option<&StepRecord> {
        let first = self.records.front()?.step;
        self.records.get(usize::try_from(step.0.checked_sub(first.0)?).ok()?).filter(|record| record.step == step)
    }

    /// Forgets the steps from `step` on: they are computed again.
    pub fn rewind(&mut self, step: Step) {
        while self.records.back().is_some_and(|record| record.step >= step) {
            self.records.pop_back();
        }
    }

    /// Takes a step in; what fires, the worst first. `reach` bounds what is kept.
    pub fn observe(&mut self, record: StepRecord, guard: &Guard, reach: usize) -> Option<Firing> {
        self.rewind(record.step);
        self.records.push_back(record);
        while self.records.len() > reach.max(1) {
            self.records.pop_front();
        }
        let fired = [self.jump(guard), self.pinned(guard), self.rising(guard)];
        fired.into_iter().flatten().filter(|firing| firing.action != GuardAction::Off).max_by_key(|firing| match firing
            .action
        {
            GuardAction::Off => 0,
            GuardAction::Warn => 1,
            GuardAction::Rollback => 2,
            GuardAction::Stop => 3,
        })
    }

    /// The mean of a value over the `count` records that end `back` records before the newest; nothing if they are not there.
    fn mean(&self, back: usize, count: usize, value: impl Fn(&StepRecord) -> f64) -> Option<f64> {
        let end = self.records.len().checked_sub(back)?;
        let start = end.checked_sub(count)?;
        Some(self.records.range(start..end).map(value).sum::<f64>() / count as f64)
    }

    fn jump(&self, guard: &Guard) -> Option<Firing> {
        let newest = self.records.back()?;
        let mean = self.mean(1, guard.window as usize, |record| record.real)?;
        // It fires where it begins, not at every step after.
        let before = self.records.get(self.records.len().checked_sub(2)?)?;
        let fires = newest.real > guard.jump_factor * mean && before.real <= guard.jump_factor * mean;
        fires.then(|| Firing {
            kind: Kind::Jump,
            action: guard.jump,
            text: format!(
                "L(x) jumped to {:.4} in step {}, {:.2} times its mean {mean:.4} over the {} steps before \
                 (guard.jump_factor is {})",
                newest.real,
                newest.step,
                newest.real / mean,
                guard.window,
                guard.jump_factor
            ),
            trouble_from: newest.step,
        })
    }

    fn pinned(&self, guard: &Guard) -> Option<Firing> {
        let bound = self.records.back()?.k;
        let count = usize::try_from(guard.pinned_steps).ok()?;
        // The first step of a run has k = 0 by definition.
        if !(bound == 0.0 || bound == 1.0) || self.records.len() < count {
            return None;
        }
        let run = self.records.iter().rev().take_while(|record| record.k == bound && record.step.0 > 0).count();
        let newest = self.records.back()?.step;
        (run > 0 && run.is_multiple_of(count)).then(|| Firing {
            kind: Kind::Pinned,
            action: guard.pinned,
            text: format!(
                "k has been at {bound} for {run} steps, up to step {newest} (guard.pinned_steps is {})",
                guard.pinned_steps
            ),
            trouble_from: Step(newest.0.saturating_sub(run as u64 - 1)),
        })
    }

    fn rising(&self, guard: &Guard) -> Option<Firing> {
        let newest = self.records.back()?.step;
        if !newest.next().0.is_multiple_of(guard.window) {
            return None;
        }
        let window = guard.window as usize;
        let now = self.mean(0, window, |record| record.m_global)?;
        let before = self.mean(window, window, |record| record.m_global)?;
        (now > guard.rising_factor * before).then(|| Firing {
            kind: Kind::Rising,
            action: guard.rising,
            text: format!(
                "M_global rose: its mean over the {window} steps up to {newest} is {now:.4}, over the {window} before \
                 {before:.4} (guard.rising_factor is {})",
                guard.rising_factor
            ),
            trouble_from: Step(newest.next().0 - guard.window),
        })
    }
}

/// What the diversity of the samples at `step` says: fires below the floor. 0 means that it was not measured.
#[must_use]
pub fn diversity(step: Step, measured: f64, guard: &Guard) -> Option<Firing> {
    let fires = measured > 0.0 && measured < guard.diversity_floor && guard.diversity != GuardAction::Off;
    fires.then(|| Firing {
        kind: Kind::Diversity,
        action: guard.diversity,
        text: format!(
            "samples of fixed noise at step {step} differ by {measured:.3} of what real images differ by \
             (guard.diversity_floor is {})",
            guard.diversity_floor
        ),
        trouble_from: step,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let on = GuardAction::Warn;
        Guard { jump: on, pinned: on, rising: on, window: 4, pinned_steps: 3, ..Guard::default() }
    }

    fn record(step: u64, real: f64, k: f64, m_global: f64) -> StepRecord {
        StepRecord { step: Step(step), real, fake: 0.1, k, rate: 1e-4, m_global }
    }

    fn fired(records: impl IntoIterator<Item = StepRecord>) -> Vec<(u64, Kind)> {
        let mut watch = Watch::default();
        let guard = guard();
        records
            .into_iter()
            .filter_map(|record| Some((record.step.0, watch.observe(record, &guard, 100)?.kind)))
            .collect()
    }

    #[test]
    fn a_jump_fires_once_where_it_begins() {
        let real = |step: u64| if step >= 6 { 3.0 } else { 1.0 };
        assert_eq!(fired((0..9).map(|step| record(step, real(step), 0.5, 1.0))), [(6, Kind::Jump)]);
    }

    #[test]
    fn k_at_a_bound_fires_every_so_many_steps_and_not_for_the_first_step_of_a_run() {
        let k = |step: u64| if step < 8 { 0.0 } else { 0.3 };
        assert_eq!(fired((0..9).map(|step| record(step, 1.0, k(step), 1.0))), [(3, Kind::Pinned), (6, Kind::Pinned)]);
    }

    #[test]
    fn a_rising_m_fires_at_the_end_of_a_window() {
        assert_eq!(
            fired((0..12).map(|step| record(step, 1.0, 0.5, if step < 8 { 1.0 } else { 1.2 }))),
            [(11, Kind::Rising)]
        );
    }

    #[test]
    fn a_watch_that_was_rewound_fires_as_if_nothing_had_been() {
        let all: Vec<StepRecord> =
            (0..9).map(|step| record(step, if step >= 6 { 3.0 } else { 1.0 }, 0.5, 1.0)).collect();
        let mut watch = Watch::over(all[..6].iter().copied());
        assert!(watch.observe(all[6], &guard(), 100).is_some());
        watch.rewind(Step(4));
        let again: Vec<u64> = all[4..]
            .iter()
            .filter(|record| watch.observe(**record, &guard(), 100).is_some())
            .map(|r| r.step.0)
            .collect();
        assert_eq!(again, [6]);
    }

    #[test]
    fn diversity_below_its_floor_fires_and_an_unmeasured_one_does_not() {
        let guard = Guard { diversity: GuardAction::Stop, diversity_floor: 0.3, ..Guard::default() };
        assert!(diversity(Step(1), 0.2, &guard).is_some_and(|firing| firing.text.contains("0.200")));
        assert!(diversity(Step(1), 0.0, &guard).is_none() && diversity(Step(1), 0.4, &guard).is_none());
    }
}
