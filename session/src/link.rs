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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// When it connects, tick by tick, if every attempt fails at once.
    fn attempts(link: &mut Link, from: Duration, count: usize) -> Vec<Duration> {
        let mut now = from;
        let mut at = Vec::new();
        while at.len() < count {
            if link.due(now, PATIENCE) == Due::Connect {
                at.push(now);
                link.broken(now);
            }
            now += ms(10);
        }
        at.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn the_pause_between_attempts_doubles_up_to_a_bound_and_is_short_again_after_a_welcome() {
        let mut link = Link::new(ms(0));
        assert_eq!(attempts(&mut link, ms(0), 8), [50, 100, 200, 400, 800, 800, 800].map(ms));
        link.welcomed();
        link.broken(ms(10_000));
        assert_eq!(link.due(ms(10_040), PATIENCE), Due::Nothing);
        assert_eq!(link.due(ms(10_050), PATIENCE), Due::Connect);
    }

    #[test]
    fn a_stream_that_does_not_open_and_a_hello_that_is_not_answered_are_given_ten_seconds() {
        let mut link = Link::new(ms(0));
        assert_eq!(link.due(ms(0), PATIENCE), Due::Connect);
        assert_eq!(link.due(ms(10_000), PATIENCE), Due::Nothing);
        assert_eq!(link.due(ms(10_001), PATIENCE), Due::Drop);
        assert_eq!(link.due(ms(10_051), PATIENCE), Due::Connect);
        link.opened(ms(10_060));
        assert_eq!(link.due(ms(20_060), PATIENCE), Due::Nothing);
        assert_eq!(link.due(ms(20_061), PATIENCE), Due::Drop);
    }

    #[test]
    fn attempts_that_get_no_further_than_a_greeting_count_as_missing_all_the_time() {
        let mut link = Link::new(ms(0));
        link.welcomed();
        link.broken(ms(1_000));
        for second in 2..31 {
            let now = ms(second * 1_000);
            assert_ne!(link.due(now, PATIENCE), Due::GiveUp);
            link.opened(now);
            link.broken(now);
        }
        assert_eq!(link.due(ms(31_001), PATIENCE), Due::GiveUp);
        assert_eq!(link.missing(ms(31_001)), ms(30_001));
    }

    #[test]
    fn one_that_is_closed_stays_closed() {
        let mut link = Link::new(ms(0));
        link.close();
        link.broken(ms(5));
        assert_eq!((link.stage, link.is_up()), (Stage::Closed, false));
        assert_eq!(link.due(PATIENCE * 2, PATIENCE), Due::Nothing);
    }

    #[test]
    fn while_it_is_up_nothing_is_due() {
        let mut link = Link::new(ms(0));
        link.opened(ms(5));
        link.welcomed();
        assert!(link.is_up());
        assert_eq!(link.due(PATIENCE * 100, PATIENCE), Due::Nothing);
    }
}
