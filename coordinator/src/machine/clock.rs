//! Time as the trainers' silence is measured in: the coordinator's own absence does not count.
//!
//! A coordinator that was stopped (a debugger, a suspended laptop, a starved machine) finds every trainer silent when it
//! wakes up. It must blame none of them: what passed between two of its own ticks beyond a limit is taken out.

use std::time::Duration;

/// Counts the time in which the machine was awake.
#[derive(Clone, Debug)]
pub struct Clock {
    last: Duration,
    asleep: Duration,
    longest_gap: Duration,
}

impl Clock {
    /// At the start; a gap longer than this counts as absence.
    #[must_use]
    pub fn new(longest_gap: Duration) -> Self {
        Self { last: Duration::ZERO, asleep: Duration::ZERO, longest_gap }
    }

    /// The time awake, at `now`. Time that runs backwards stands still.
    pub fn at(&mut self, now: Duration) -> Duration {
        let gap = now.saturating_sub(self.last);
        if gap > self.longest_gap {
            self.asleep += gap;
        }
        self.last = self.last.max(now);
        self.last - self.asleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_asleep_does_not_count() {
        let mut clock = Clock::new(Duration::from_secs(1));
        assert_eq!(clock.at(Duration::from_millis(900)), Duration::from_millis(900));
        assert_eq!(clock.at(Duration::from_secs(3600)), Duration::from_millis(900));
        assert_eq!(clock.at(Duration::from_secs(3601)), Duration::from_millis(1900));
        assert_eq!(clock.at(Duration::from_secs(5)), Duration::from_millis(1900));
    }
}
