//! The world as the page sees it: what stays (who is where) and what moves (what each does), in columns, so that a thousand
//! trainers a second are a few tens of kilobytes.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::body::Bytes;
use began_proto::v1::{StatusResponse, TrainerStatus};
use serde_json::{Value, json};

use super::feed::frame;

/// The last look.
#[derive(Debug, Default)]
pub struct World {
    version: u64,
    seen: u64,
    /// The message that says who is where.
    pub who: Bytes,
    /// The message that says what each does.
    pub pulse: Bytes,
}

impl World {
    /// Takes a look in; whether somebody came, went or changed place.
    pub fn look(&mut self, status: &StatusResponse, time: f64) -> bool {
        let seen = fingerprint(status);
        let changed = seen != self.seen || self.version == 0;
        if changed {
            self.version += 1;
            self.seen = seen;
            self.who = frame("world", &who(status, self.version));
        }
        self.pulse = frame("pulse", &pulse(status, self.version, time));
        changed
    }
}

fn fingerprint(status: &StatusResponse) -> u64 {
    let mut hasher = DefaultHasher::new();
    for trainer in &status.trainers {
        (&trainer.trainer, trainer.rank, trainer.node, trainer.local_rank, &trainer.host).hash(&mut hasher);
        (&trainer.device, trainer.pid, trainer.first_lane, trainer.end_lane).hash(&mut hasher);
    }
    hasher.finish()
}

/// A list of different texts, and each one's place in it.
fn indexed<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<&'a str>, Vec<usize>) {
    let (mut known, mut places) = (Vec::new(), std::collections::HashMap::new());
    let column = texts.map(|text| {
        *places.entry(text).or_insert_with(|| {
            known.push(text);
            known.len() - 1
        })
    });
    let column = column.collect();
    (known, column)
}

fn who(status: &StatusResponse, version: u64) -> Value {
    let trainers = &status.trainers;
    let (hosts, host) = indexed(trainers.iter().map(|trainer| trainer.host.as_str()));
    let (devices, device) = indexed(trainers.iter().map(|trainer| trainer.device.as_str()));
    json!({
        "version": version,
        "expected": status.expected_trainers,
        "hosts": hosts,
        "devices": devices,
        "rank": column(trainers, |trainer| trainer.rank),
        "node": column(trainers, |trainer| trainer.node),
        "local_rank": column(trainers, |trainer| trainer.local_rank),
        "host": host,
        "device": device,
        "pid": column(trainers, |trainer| trainer.pid),
        "first_lane": column(trainers, |trainer| trainer.first_lane),
        "end_lane": column(trainers, |trainer| trainer.end_lane),
    })
}

fn pulse(status: &StatusResponse, version: u64, time: f64) -> Value {
    let trainers = &status.trainers;
    let tenths = |seconds: f64| (seconds * 10.0).round() / 10.0;
    let milliseconds = |seconds: f64| (seconds > 0.0).then(|| (seconds * 1e4).round() / 10.0);
    // 0 is "not known", as in the protocol.
    let megabytes = |bytes: u64| (bytes > 0).then(|| bytes.div_ceil(1 << 20));
    json!({
        "version": version,
        "time": time,
        "phase": status.phase,
        "reason": status.reason,
        "step": status.step,
        "generation": status.generation,
        "last_checkpoint": status.last_checkpoint,
        "uptime": tenths(status.uptime_seconds),
        "images_per_second": status.progress.as_ref().map(|progress| progress.images_per_second as f32),
        "activity": column(trainers, |trainer| trainer.phase),
        "seconds": column(trainers, |trainer| tenths(trainer.phase_seconds)),
        "silent": column(trainers, |trainer| tenths(trainer.seconds_since_heard)),
        "step_ms": column(trainers, |trainer| milliseconds(trainer.step_seconds)),
        "wait_ms": column(trainers, |trainer| (trainer.step_seconds > 0.0).then(|| (trainer.waited_seconds * 1e4).round() / 10.0)),
        "resident_mb": column(trainers, |trainer| megabytes(trainer.resident_bytes)),
        "device_mb": column(trainers, |trainer| megabytes(trainer.device_bytes)),
        "device_total_mb": column(trainers, |trainer| megabytes(trainer.device_total_bytes)),
    })
}

fn column<T: Into<Value>>(trainers: &[TrainerStatus], value: impl Fn(&TrainerStatus) -> T) -> Value {
    trainers.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(trainers: u32) -> StatusResponse {
        let trainer = |rank: u32| TrainerStatus {
            trainer: format!("{rank:016x}"),
            rank: Some(rank),
            node: rank / 8,
            local_rank: rank % 8,
            host: format!("node-{:03}", rank / 8),
            pid: 40_000 + rank,
            device: "NVIDIA H100 80GB HBM3".into(),
            phase: 3,
            phase_seconds: 0.123_456,
            seconds_since_heard: 0.987_654,
            step_seconds: 0.051_234_5,
            waited_seconds: 0.002_345_6,
            resident_bytes: 3 << 30,
            device_bytes: 40 << 30,
            device_total_bytes: 80 << 30,
            ..Default::default()
        };
        StatusResponse { trainers: (0..trainers).map(trainer).collect(), ..Default::default() }
    }

    #[test]
    fn a_thousand_trainers_are_a_few_tens_of_kilobytes_a_second() {
        let mut world = World::default();
        assert!(world.look(&status(1024), 0.0));
        assert!(!world.look(&status(1024), 1.0), "nobody came or went");
        assert!(world.pulse.len() < 60_000, "{}", world.pulse.len());
        assert!(world.who.len() < 60_000, "{}", world.who.len());
    }

    #[test]
    fn who_comes_or_goes_makes_another_world() {
        let mut world = World::default();
        world.look(&status(3), 0.0);
        assert!(world.look(&status(4), 0.0));
        let pulse = String::from_utf8_lossy(&world.pulse).into_owned();
        assert!(pulse.contains("\"version\":2") && pulse.contains("\"wait_ms\":[2.3,2.3,2.3,2.3]"), "{pulse}");
    }
}
