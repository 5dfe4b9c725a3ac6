//! What this trainer is doing, as heartbeats tell it. Set by the training loop, read by the session's thread.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use began::Step;
use began_proto::v1::{self as wire, Phase};
use began_traces::Traces;
use tch::Device;

use super::timeline::Timeline;

/// What this trainer is doing.
#[derive(Debug)]
pub struct Activity {
    started: Instant,
    phase: AtomicU8,
    since: AtomicU64,
    step: AtomicU64,
    gpu: OnceLock<Gpu>,
    timeline: OnceLock<Timeline>,
}

#[derive(Clone, Copy, Debug)]
struct Gpu {
    index: usize,
    total_bytes: u64,
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Activity {
    /// Starting.
    #[must_use]
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let phase = AtomicU8::new(Phase::Starting as u8);
        let (gpu, timeline) = (OnceLock::new(), OnceLock::new());
        Self { started: Instant::now(), phase, since: zero(), step: zero(), gpu, timeline }
    }

    /// From now on, this.
    pub fn enter(&self, phase: Phase) {
        self.since.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
        if let Some(timeline) = self.timeline.get() {
            timeline.enter(phase);
        }
    }

    /// From now on, on the way into this generation, whose first step that is.
    pub fn joins(&self, generation: u64, rank: u32, step: Step) {
        self.step.store(step.0, Ordering::Relaxed);
        if let Some(timeline) = self.timeline.get() {
            timeline.joins(generation, rank, step);
        }
    }

    /// From now on, in this step.
    pub fn at_step(&self, step: Step) {
        self.step.store(step.0, Ordering::Relaxed);
        if let Some(timeline) = self.timeline.get() {
            timeline.at_step(step);
        }
    }

    /// What it does is told as spans, too.
    pub fn is_traced(&self, traces: Traces, run: &str) {
        let _ = self.timeline.set(Timeline::new(traces, run.to_owned()));
    }

    /// It computes on this device: if that is a GPU, its memory is told.
    pub fn computes_on(&self, device: Device) {
        if let Device::Cuda(index) = device {
            // Asked for once: the driver may take its time, and a heartbeat must not wait for it.
            let total_bytes = torch_ext::gpu_total(index).map_or(0, i64::unsigned_abs);
            let _ = self.gpu.set(Gpu { index, total_bytes });
        }
    }

    pub(super) fn heartbeat(&self) -> wire::Heartbeat {
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
        let gpu = self.gpu.get();
        let used = gpu.and_then(|gpu| torch_ext::gpu_memory(gpu.index).ok());
        wire::Heartbeat {
            phase: self.phase.load(Ordering::Relaxed).into(),
            phase_seconds: self.started.elapsed().saturating_sub(since).as_secs_f64(),
            step: self.step.load(Ordering::Relaxed),
            resident_bytes: resident_bytes(),
            device_bytes: used.map_or(0, |memory| memory.reserved.unsigned_abs()),
            device_total_bytes: gpu.map_or(0, |gpu| gpu.total_bytes),
        }
    }
}

/// Memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |line: &str| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok();
    status.lines().find_map(kilobytes).map_or(0, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_says_how_much_memory_the_process_has() {
        let beat = Activity::new().heartbeat();
        assert!(beat.resident_bytes > 1 << 20 && beat.resident_bytes < 1 << 40, "{beat:?}");
        assert_eq!((beat.device_bytes, beat.device_total_bytes), (0, 0));
    }
}
