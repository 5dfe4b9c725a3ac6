//! What trainers say of themselves that nothing hangs on: how long their steps take, how long they wait for others, how much
//! memory they use; and how long the coordinator takes to answer.
//!
//! Plain numbers behind atomics: written where messages come in and go out, read by whoever looks. Never a part of a decision.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use began_proto::v1::{Heartbeat, StepLosses, TrainerStatus};

/// The last word of one trainer; 0 where nothing is known.
#[derive(Debug, Default)]
pub struct Meter {
    step_seconds: AtomicU64,
    waited_seconds: AtomicU64,
    resident_bytes: AtomicU64,
    device_bytes: AtomicU64,
    device_total_bytes: AtomicU64,
}

impl Meter {
    /// A step's losses came.
    pub fn losses(&self, losses: &StepLosses) {
        self.step_seconds.store(sensible(losses.step_seconds).to_bits(), Ordering::Relaxed);
        self.waited_seconds.store(sensible(losses.waited_seconds).to_bits(), Ordering::Relaxed);
    }

    /// A heartbeat came.
    pub fn heartbeat(&self, beat: &Heartbeat) {
        self.resident_bytes.store(beat.resident_bytes, Ordering::Relaxed);
        self.device_bytes.store(beat.device_bytes, Ordering::Relaxed);
        self.device_total_bytes.store(beat.device_total_bytes, Ordering::Relaxed);
    }
}

/// A duration of a peer's, in seconds.
fn sensible(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.clamp(0.0, 1e9) } else { 0.0 }
}

/// All meters.
#[derive(Debug)]
pub struct Meters {
    by_trainer: Mutex<HashMap<String, Arc<Meter>>>,
    /// When the newest losses came, in nanoseconds since `started`.
    heard: AtomicU64,
    started: Instant,
    /// From a step's last losses in to its equilibrium out, once for each trainer.
    pub answers: Timing,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            by_trainer: Mutex::default(),
            heard: AtomicU64::new(0),
            started: Instant::now(),
            answers: Timing::default(),
        }
    }
}

impl Meters {
    /// A meter for the trainer of this name, in place of any other.
    pub fn of(&self, trainer: &str) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        self.lock().insert(trainer.to_owned(), meter.clone());
        meter
    }

    /// The trainer's stream is gone.
    pub fn forget(&self, trainer: &str, meter: &Arc<Meter>) {
        let mut meters = self.lock();
        // It may be back on a new stream already.
        if meters.get(trainer).is_some_and(|known| Arc::ptr_eq(known, meter)) {
            meters.remove(trainer);
        }
    }

    /// Writes down what is known of trainers beside what the machine knows.
    pub fn complete(&self, trainers: &mut [TrainerStatus]) {
        let meters = self.lock();
        for trainer in trainers {
            let Some(meter) = meters.get(&trainer.trainer) else { continue };
            trainer.step_seconds = f64::from_bits(meter.step_seconds.load(Ordering::Relaxed));
            trainer.waited_seconds = f64::from_bits(meter.waited_seconds.load(Ordering::Relaxed));
            trainer.resident_bytes = meter.resident_bytes.load(Ordering::Relaxed);
            trainer.device_bytes = meter.device_bytes.load(Ordering::Relaxed);
            trainer.device_total_bytes = meter.device_total_bytes.load(Ordering::Relaxed);
        }
    }

    /// Losses came in, of whichever trainer.
    pub fn heard(&self) {
        self.heard.fetch_max(self.nanoseconds(), Ordering::Relaxed);
    }

    /// Equilibria went out, to so many trainers. The newest losses then are the last ones of their step: nobody sends the next
    /// before it.
    fn answered(&self, count: u64) {
        let heard = self.heard.load(Ordering::Relaxed);
        self.answers.note(Duration::from_nanos(self.nanoseconds().saturating_sub(heard)), count);
    }

    fn nanoseconds(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Meter>>> {
        // Every change is complete before the lock is let go.
        self.by_trainer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Equilibria on their way through one connection: they count as out when the system has taken them.
#[derive(Debug)]
pub struct Unsent {
    equilibria: AtomicU64,
    meters: Arc<Meters>,
}

impl Unsent {
    /// None so far.
    #[must_use]
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { equilibria: AtomicU64::new(0), meters }
    }

    /// One was handed to the connection.
    pub fn equilibrium(&self) {
        self.equilibria.fetch_add(1, Ordering::Relaxed);
    }

    /// The system took bytes of the connection. What was handed to it is written at once, before anything else is.
    pub fn sent(&self) {
        if self.equilibria.load(Ordering::Relaxed) > 0 {
            self.meters.answered(self.equilibria.swap(0, Ordering::Relaxed));
        }
    }
}

/// The upper bounds of the classes of a [`Timing`], in seconds; one more is above all of them.
pub const CLASSES: [f64; 22] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.012, 0.015, 0.02, 0.03,
    0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Timing {
    counts: [AtomicU64; CLASSES.len() + 1],
    nanoseconds: AtomicU64,
}

impl Timing {
    /// It took this long, so many times.
    pub fn note(&self, took: Duration, times: u64) {
        let seconds = took.as_secs_f64();
        let class = CLASSES.partition_point(|&bound| bound < seconds);
        self.counts[class].fetch_add(times, Ordering::Relaxed);
        self.nanoseconds.fetch_add(times * took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How often it took at most each of [`CLASSES`] and more than the one before, last: more than all; and all of it, in
    /// seconds.
    #[must_use]
    pub fn counts(&self) -> ([u64; CLASSES.len() + 1], f64) {
        let counts = std::array::from_fn(|class| self.counts[class].load(Ordering::Relaxed));
        (counts, self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trainer_says_stands_beside_what_the_machine_knows_until_its_stream_is_gone() {
        let meters = Meters::default();
        let old = meters.of("a");
        old.losses(&StepLosses { step_seconds: 1.5, waited_seconds: f64::NAN, ..Default::default() });
        old.heartbeat(&Heartbeat { resident_bytes: 7, ..Default::default() });
        let seen = |meters: &Meters| {
            let mut status = [TrainerStatus { trainer: "a".into(), ..Default::default() }];
            meters.complete(&mut status);
            (status[0].step_seconds, status[0].waited_seconds, status[0].resident_bytes)
        };
        assert_eq!(seen(&meters), (1.5, 0.0, 7));
        let new = meters.of("a");
        new.heartbeat(&Heartbeat { resident_bytes: 9, ..Default::default() });
        meters.forget("a", &old);
        assert_eq!(seen(&meters), (0.0, 0.0, 9), "the stream before the newest is nobody's any more");
        meters.forget("a", &new);
        assert_eq!(seen(&meters), (0.0, 0.0, 0));
    }

    #[test]
    fn an_equilibrium_is_out_when_the_system_has_taken_it() {
        let meters = Arc::new(Meters::default());
        let unsent = Unsent::new(meters.clone());
        let out = || meters.answers.counts().0.iter().sum::<u64>();
        meters.heard();
        unsent.sent();
        unsent.equilibrium();
        assert_eq!(out(), 0);
        unsent.sent();
        unsent.sent();
        assert_eq!(out(), 1);
    }

    #[test]
    fn each_time_is_counted_in_the_class_it_is_at_most() {
        let timing = Timing::default();
        for milliseconds in [0, 10, 11, 60_000] {
            timing.note(Duration::from_millis(milliseconds), 1);
        }
        let (counts, seconds) = timing.counts();
        let class = |bound: f64| CLASSES.iter().position(|&known| known == bound);
        assert_eq!((counts[0], counts[CLASSES.len()], counts.iter().sum::<u64>()), (1, 1, 4));
        assert_eq!(class(0.01).map(|at| counts[at]), Some(1));
        assert_eq!(class(0.012).map(|at| counts[at]), Some(1));
        assert!((seconds - 60.021).abs() < 1e-9, "{seconds}");
    }
}
