//! How often something that keeps failing is started again, and after which pause: one budget a place.
//!
//! Pure. What counts is failures in a row: whoever makes progress has its whole budget back. It must never let something be
//! started again without a bound, nor faster than its pauses say.

use std::time::Duration;

/// The pauses before each new start: the first, then doubling up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// Whether the very first restart comes without a pause.
    pub at_once: bool,
    /// The shortest pause.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

/// Of trainers: at once, then 0.5, 1, 2, 4, 8, 10 s.
pub const TRAINER: Pauses =
    Pauses { at_once: true, first: Duration::from_millis(500), longest: Duration::from_secs(10) };

/// Of coordinator and agents: 0.1, 0.2, 0.4 .. 5 s.
pub const SUPPORT: Pauses =
    Pauses { at_once: false, first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// One more start that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// The how-manieth restart in a row this is, from 1.
    pub attempt: u32,
    /// How many in a row there may be.
    pub allowed: u32,
    /// After which pause.
    pub pause: Duration,
}

/// The restarts of one place.
#[derive(Clone, Debug)]
pub struct Restarts {
    pauses: Pauses,
    allowed: u32,
    used: u32,
}

impl Restarts {
    /// A place that may fail `allowed` times in a row and be started again.
    #[must_use]
    pub fn new(pauses: Pauses, allowed: u32) -> Self {
        Self { pauses, allowed, used: 0 }
    }

    /// It failed: whether, and when, it is to be started again.
    pub fn failed(&mut self) -> Option<Again> {
        if self.used >= self.allowed {
            return None;
        }
        let Pauses { at_once, first, longest } = self.pauses;
        let doublings = if at_once { self.used.checked_sub(1) } else { Some(self.used) };
        let pause = doublings.map_or(Duration::ZERO, |n| first.saturating_mul(1 << n.min(16)).min(longest));
        self.used += 1;
        Some(Again { attempt: self.used, allowed: self.allowed, pause })
    }

    /// It made progress.
    pub fn progressed(&mut self) {
        self.used = 0;
    }

    /// How many failures in a row there may be before a place is given up.
    #[must_use]
    pub fn allowed(&self) -> u32 {
        self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(restarts: &mut Restarts) -> Vec<f64> {
        std::iter::from_fn(|| restarts.failed()).map(|again| again.pause.as_secs_f64()).collect()
    }

    #[test]
    fn a_trainer_is_started_at_once_then_after_growing_pauses_and_then_no_more() {
        let mut restarts = Restarts::new(TRAINER, 8);
        assert_eq!(pauses(&mut restarts), [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!(restarts.failed(), None);
    }

    #[test]
    fn a_coordinator_comes_back_after_a_short_pause() {
        assert_eq!(pauses(&mut Restarts::new(SUPPORT, 7)), [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]);
    }

    #[test]
    fn progress_gives_the_whole_budget_back() {
        let mut restarts = Restarts::new(TRAINER, 2);
        for _ in 0..50 {
            assert_eq!(restarts.failed().map(|again| (again.attempt, again.pause)), Some((1, Duration::ZERO)));
            restarts.progressed();
        }
        assert_eq!(pauses(&mut restarts), [0.0, 0.5]);
    }

    #[test]
    fn no_budget_is_never_started_again_and_a_huge_one_does_not_overflow() {
        assert_eq!(Restarts::new(TRAINER, 0).failed(), None);
        assert!(pauses(&mut Restarts::new(SUPPORT, 200)).iter().all(|pause| *pause <= 5.0));
    }
}
