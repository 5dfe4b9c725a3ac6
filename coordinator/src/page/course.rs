//! The run's curves as the page shows them: in memory, in at most a few thousand buckets however long the run is.
//!
//! A bucket holds the steps of one multiple of a power of two; where there are too many buckets, neighbours become one. The
//! latest steps are kept as they are.

use std::collections::VecDeque;

use began_record::{CurveRow, Span, StepRow};
use serde::Serialize;

/// Buckets.
const MOST: usize = 4096;
/// Steps that are kept as they are.
const RECENT: usize = 4096;

/// What is drawn of a step, in the order of [`QUANTITIES`].
pub const QUANTITIES: [&str; 6] = ["real", "fake", "k", "m_global", "rate", "seconds"];

/// See [`QUANTITIES`].
#[must_use]
pub fn quantities(row: &StepRow) -> [f64; 6] {
    let record = row.record;
    [record.real, record.fake, record.k, record.m_global, record.rate, row.seconds]
}

/// See the module.
#[derive(Debug)]
pub struct Course {
    /// Steps of a bucket: a power of two.
    width: u64,
    /// By their first step.
    buckets: Vec<CurveRow>,
    /// The latest, without holes.
    recent: VecDeque<StepRow>,
    /// The step after the last.
    end: u64,
}

impl Default for Course {
    fn default() -> Self {
        Self { width: 1, buckets: Vec::new(), recent: VecDeque::new(), end: 0 }
    }
}

impl Course {
    /// Of steps in order.
    #[must_use]
    pub fn of<'a>(steps: impl IntoIterator<Item = &'a StepRow>) -> Self {
        let mut course = Self::default();
        for row in steps {
            course.step(row);
        }
        course
    }

    /// The step after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The latest step.
    #[must_use]
    pub fn last(&self) -> Option<&StepRow> {
        self.recent.back()
    }

    /// The latest steps, as far as they are kept as they are.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &StepRow> {
        self.recent.iter()
    }

    /// A step is finished. One that is known already is not counted twice.
    pub fn step(&mut self, row: &StepRow) {
        let step = row.record.step.0;
        if step < self.end {
            return;
        }
        if step > self.end {
            self.recent.clear();
        }
        self.end = step + 1;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(*row);
        self.bucket(step, row);
        if self.buckets.len() > MOST {
            self.widen();
        }
    }

    fn bucket(&mut self, step: u64, row: &StepRow) {
        let first = step / self.width * self.width;
        let one = quantities(row).map(Span::of);
        match self.buckets.last_mut() {
            Some(last) if last.first == first => last.add(1, &one),
            _ => self.buckets.push(CurveRow { first, count: 1, spans: one }),
        }
    }

    fn widen(&mut self) {
        self.width *= 2;
        self.buckets = gather(&self.buckets, self.width);
    }

    /// Steps from this one on are void. Whether what is left is exact: else it has to be made again from the journal.
    pub fn rewind(&mut self, step: u64) -> bool {
        if step >= self.end {
            return true;
        }
        self.end = step;
        while self.recent.back().is_some_and(|row| row.record.step.0 >= step) {
            self.recent.pop_back();
        }
        while self.buckets.last().is_some_and(|bucket| bucket.first >= step) {
            self.buckets.pop();
        }
        let Some(open) = self.buckets.last().copied().filter(|open| open.first + open.count > step) else {
            return true;
        };
        if self.recent.front().is_none_or(|row| row.record.step.0 > open.first) {
            return false;
        }
        self.buckets.pop();
        let again: Vec<StepRow> = self.recent.iter().filter(|row| row.record.step.0 >= open.first).copied().collect();
        for row in &again {
            self.bucket(row.record.step.0, row);
        }
        true
    }

    /// Steps `[from, to)` in at most `points` buckets; and whether the journal knows them finer than what is kept here.
    #[must_use]
    pub fn curves(&self, from: u64, to: u64, points: u64) -> (Vec<CurveRow>, bool) {
        let width = width(from, to, points);
        let kept = self.recent.front().is_some_and(|row| row.record.step.0 <= from);
        if kept {
            let rows = self.recent.iter().filter(|row| (from..to).contains(&row.record.step.0));
            let single: Vec<CurveRow> = rows
                .map(|row| CurveRow { first: row.record.step.0, count: 1, spans: quantities(row).map(Span::of) })
                .collect();
            return (gather(&single, width), false);
        }
        let here = self.buckets.iter().filter(|bucket| bucket.first < to && bucket.first + bucket.count > from);
        let here: Vec<CurveRow> = here.copied().collect();
        (gather(&here, width.max(self.width)), width < self.width)
    }
}

/// Steps of a bucket, so that `[from, to)` has at most `points`.
#[must_use]
pub fn width(from: u64, to: u64, points: u64) -> u64 {
    let steps = to.saturating_sub(from);
    if steps <= points {
        return 1;
    }
    // Aligned buckets may be one more than the steps would need.
    steps.div_ceil(points.saturating_sub(1).max(1)).next_power_of_two()
}

/// Makes one bucket of those with the same multiple of `width`.
fn gather(buckets: &[CurveRow], width: u64) -> Vec<CurveRow> {
    let mut wide: Vec<CurveRow> = Vec::new();
    for bucket in buckets {
        match wide.last_mut() {
            Some(last) if last.first / width == bucket.first / width => last.add(bucket.count, &bucket.spans),
            _ => wide.push(*bucket),
        }
    }
    wide
}

/// Curves as they travel: columns.
#[derive(Debug, Serialize)]
pub struct Columns {
    from: u64,
    to: u64,
    end: u64,
    step: Vec<u64>,
    count: Vec<u64>,
    #[serde(flatten)]
    quantities: std::collections::BTreeMap<&'static str, Spread>,
}

/// A quantity's columns; null is no number.
#[derive(Debug, Default, Serialize)]
struct Spread {
    min: Vec<f32>,
    mean: Vec<f32>,
    max: Vec<f32>,
}

impl Columns {
    /// Of these buckets.
    #[must_use]
    pub fn of(buckets: &[CurveRow], from: u64, to: u64, end: u64) -> Self {
        let spread = |which: usize| {
            let mut spread = Spread::default();
            for bucket in buckets {
                let Span { min, sum, max } = bucket.spans[which];
                spread.min.push(min as f32);
                spread.mean.push((sum / bucket.count as f64) as f32);
                spread.max.push(max as f32);
            }
            spread
        };
        Self {
            from,
            to,
            end,
            step: buckets.iter().map(|bucket| bucket.first).collect(),
            count: buckets.iter().map(|bucket| bucket.count).collect(),
            quantities: QUANTITIES.into_iter().enumerate().map(|(which, name)| (name, spread(which))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::{Step, StepRecord};
    use proptest::prelude::*;

    fn row(step: u64) -> StepRow {
        let real = ((step * 7919) % 1000) as f64;
        let record = StepRecord { step: Step(step), real, fake: real / 2.0, k: 0.0, rate: 0.25, m_global: real };
        StepRow { record, generation: 1, seconds: 0.5, time: 0.0, drawn: 0 }
    }

    fn course(steps: u64) -> Course {
        let rows: Vec<StepRow> = (0..steps).map(row).collect();
        Course::of(&rows)
    }

    /// What the buckets should be, from the steps themselves.
    fn expected(from: u64, to: u64, width: u64) -> Vec<CurveRow> {
        let single: Vec<CurveRow> = (from..to)
            .map(|step| CurveRow { first: step, count: 1, spans: quantities(&row(step)).map(Span::of) })
            .collect();
        gather(&single, width)
    }

    #[test]
    fn a_long_run_is_kept_in_a_bounded_number_of_buckets_with_its_extremes() {
        let course = course(100_000);
        assert!(course.buckets.len() <= MOST && course.recent.len() == RECENT);
        let (curves, finer) = course.curves(0, 100_000, 1000);
        assert!(!finer && curves.len() <= 1000, "{}", curves.len());
        assert_eq!(curves.iter().map(|bucket| bucket.count).sum::<u64>(), 100_000);
        assert_eq!(curves, expected(0, 100_000, width(0, 100_000, 1000)));
        let (near, finer) = course.curves(99_000, 99_100, 1000);
        assert!(!finer && near.len() == 100 && near.iter().all(|bucket| bucket.count == 1));
        assert!(course.curves(10, 20, 1000).1, "what is not kept is in the journal");
    }

    #[test]
    fn a_step_that_is_told_twice_counts_once_and_a_hole_stays_one() {
        let mut course = course(10);
        course.step(&row(9));
        course.step(&row(12));
        let (curves, _) = course.curves(0, 100, 100);
        let steps: Vec<u64> = curves.iter().map(|bucket| bucket.first).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12]);
        assert!(curves.iter().all(|bucket| bucket.count == 1));
        assert_eq!(course.end(), 13);
    }

    proptest! {
        #[test]
        fn after_a_rewind_the_curves_are_as_if_the_void_steps_had_never_been(
            steps in 1_u64..20_000, back in 0_u64..6_000, on in 0_u64..100
        ) {
            let mut course = course(steps);
            let to = steps.saturating_sub(back);
            if course.rewind(to) {
                for step in to..to + on {
                    course.step(&row(step));
                }
                prop_assert_eq!(course.end(), to + on);
                let (curves, _) = course.curves(0, to + on, 500);
                let width = curves.iter().map(|bucket| bucket.count).max().unwrap_or(1).next_power_of_two();
                prop_assert_eq!(curves, expected(0, to + on, width));
            } else {
                prop_assert!(back > 0);
            }
        }
    }
}
