//! How often something may happen: a bucket that fills steadily and is drawn from.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pure: the time comes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    level: f64,
    at: Duration,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(now: Duration, burst: f64) -> Self {
        Self { level: burst, at: now }
    }

    fn level(&self, now: Duration, burst: f64, per_second: f64) -> f64 {
        (self.level + now.saturating_sub(self.at).as_secs_f64() * per_second).min(burst)
    }

    /// Whether nothing of it is missing.
    #[must_use]
    pub fn is_full(&self, now: Duration, burst: f64, per_second: f64) -> bool {
        self.level(now, burst, per_second) >= burst
    }

    /// Draws one.
    ///
    /// # Errors
    /// If there is none: how long until there is.
    pub fn take(&mut self, now: Duration, burst: f64, per_second: f64) -> Result<(), Duration> {
        let level = self.level(now, burst, per_second);
        (self.level, self.at) = (level, now.max(self.at));
        if level < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - level) / per_second));
        }
        self.level -= 1.0;
        Ok(())
    }
}

/// How fast one peer is listened to. Whoever is faster waits, and is not refused: HTTP/2 holds back what it sends.
#[derive(Debug)]
pub struct Pace {
    bucket: Mutex<Bucket>,
    started: Instant,
    burst: f64,
    per_second: f64,
}

impl Pace {
    /// Of the calls on one connection: 2,000 a second.
    #[must_use]
    pub fn of_calls() -> Self {
        Self::new(4_000.0, 2_000.0)
    }

    /// Of the messages on one stream: 10,000 a second.
    #[must_use]
    pub fn of_messages() -> Self {
        Self::new(20_000.0, 10_000.0)
    }

    fn new(burst: f64, per_second: f64) -> Self {
        let bucket = Mutex::new(Bucket::full(Duration::ZERO, burst));
        Self { bucket, started: Instant::now(), burst, per_second }
    }

    /// Waits until the next may come.
    pub async fn keep(&self) {
        while let Err(wait) = self.take() {
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }

    fn take(&self) -> Result<(), Duration> {
        let now = self.started.elapsed();
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now, self.burst, self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_what_flows_in() {
        let mut bucket = Bucket::full(Duration::ZERO, 5.0);
        let mut drawn = 0;
        for tenth in 0..100 {
            let now = Duration::from_millis(100 * tenth);
            drawn += (0..20).filter(|_| bucket.take(now, 5.0, 10.0).is_ok()).count();
        }
        assert!((103..=105).contains(&drawn), "{drawn}");
        let wait = bucket.take(Duration::from_millis(9900), 5.0, 10.0);
        assert!(wait.is_err_and(|wait| wait <= Duration::from_millis(100)));
    }
}
