//! The rhythm of a bounded wait.

use std::thread;
use std::time::{Duration, Instant};

/// Looks often at first, for what takes microseconds, and never less often than every half millisecond: a flag that
/// another thread raises is seen at once on a person's clock, and a wait costs a core next to nothing.
pub(crate) struct Pace {
    started: Instant,
    bound: Duration,
    looks: u32,
}

impl Pace {
    const LONGEST: Duration = Duration::from_micros(500);

    pub(crate) fn new(bound: Duration) -> Self {
        Self { started: Instant::now(), bound, looks: 0 }
    }

    pub(crate) fn lasted(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn bound(&self) -> Duration {
        self.bound
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lasted() >= self.bound
    }

    /// Rests before the next look, not beyond the bound.
    pub(crate) fn rest(&mut self) {
        self.looks = self.looks.saturating_add(1);
        let pause = match self.looks {
            0..64 => return thread::yield_now(),
            64..128 => Duration::from_micros(20),
            128..256 => Duration::from_micros(100),
            _ => Self::LONGEST,
        };
        thread::sleep(pause.min(self.bound.saturating_sub(self.lasted())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_its_bound_and_not_much_later() {
        let bound = Duration::from_millis(30);
        let mut pace = Pace::new(bound);
        while !pace.is_over() {
            pace.rest();
        }
        assert!(pace.lasted() >= bound);
        assert!(pace.lasted() < Duration::from_secs(2));
        assert!(pace.looks > 10);
    }

    #[test]
    fn the_longest_bound_does_not_overflow() {
        assert!(!Pace::new(Duration::MAX).is_over());
    }
}
