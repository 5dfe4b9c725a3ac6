//! Which steps are measured, and the windows they are summed up in: functions of the configuration alone.

use std::ops::Range;

use crate::Step;
use crate::config::Run;

/// Steps in a window of a run of ordinary length.
const WINDOW: u64 = 100;
/// Windows that a run has at most.
const MOST: u64 = 1_000;
/// Windows that a short run has at least, as far as [`SHORTEST`] allows.
const LEAST: u64 = 20;
/// Steps that a window has at least.
const SHORTEST: u64 = 10;
/// Real images in a window that are enough to tell a distribution by: the error of a skewness is then 0.04. Beyond that,
/// steps are left out, so that a world of a thousand trainers does not send twice as many messages.
const IMAGES: u64 = 4_096;
/// Steps of a window that are measured at least.
const MEASURED: u64 = 4;
/// Measured steps between two whose pixels are looked at too.
const PIXELS: u64 = 10;

/// When what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Steps in a window.
    pub window: u64,
    /// Every so many steps the losses of single images are measured.
    pub every: u64,
}

impl Schedule {
    /// Of a run.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let window = (run.steps / LEAST).clamp(SHORTEST, WINDOW).max(run.steps.div_ceil(MOST));
        let batch = u64::from(run.lanes.max(1)) * u64::from(run.batch.max(1));
        let every = (window.saturating_mul(batch) / IMAGES).clamp(1, window.div_ceil(MEASURED));
        Self { window, every }
    }

    /// Whether the losses of single images are measured in this step.
    #[must_use]
    pub fn measures_losses(&self, step: Step) -> bool {
        (step.0 % self.window).is_multiple_of(self.every)
    }

    /// Whether the pixels are looked at too.
    #[must_use]
    pub fn measures_pixels(&self, step: Step) -> bool {
        let place = step.0 % self.window;
        place.is_multiple_of(self.every) && (place / self.every).is_multiple_of(PIXELS)
    }

    /// The window that a step is in.
    #[must_use]
    pub fn window_of(&self, step: Step) -> Range<u64> {
        let from = step.0 / self.window * self.window;
        from..from + self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(steps: u64, lanes: u32, batch: u32) -> Schedule {
        Schedule::of(&Run { steps, lanes, batch, ..Run::default() })
    }

    #[test]
    fn a_run_has_at_most_a_thousand_windows_and_a_short_one_some() {
        for steps in [1, 10, 200, 3_000, 100_000, 100_001, 5_000_000] {
            let schedule = of(steps, 4, 16);
            assert!(steps.div_ceil(schedule.window) <= MOST, "{steps}: {schedule:?}");
        }
        assert_eq!((of(300, 1, 4).window, of(3_000, 1, 4).window, of(100_000, 1, 4).window), (15, 100, 100));
    }

    #[test]
    fn a_small_world_measures_every_step_and_a_large_one_a_few() {
        assert_eq!(of(3_000, 1, 16).every, 1);
        let large = of(100_000, 1_024, 16);
        assert_eq!((large.every, (0..100).filter(|&step| large.measures_losses(Step(step))).count()), (25, 4));
        assert!(large.measures_pixels(Step(100)) && !large.measures_pixels(Step(125)));
        assert_eq!(large.window_of(Step(199)), 100..200);
    }
}
