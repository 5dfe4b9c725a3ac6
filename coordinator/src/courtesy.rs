//! Which thread runs when, and where: what the page shows, what is written down and what is summed up can wait for a few
//! milliseconds, an equilibrium that a thousand trainers wait for cannot.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The page and the diagnosis take what is left over.
pub const LEFT_OVER: i32 = 19;
/// The record goes before them: what is not written yet is lost with the coordinator.
pub const RECORD: i32 = 10;

/// Lowers the calling thread's priority. Where the system does not let it, nothing changes but a few milliseconds.
pub fn give_way(niceness: i32) {
    if let Err(error) = rustix::process::nice(niceness) {
        tracing::debug!("a thread keeps its priority: {error}");
    }
}

/// The processors that the threads of connections keep to: each has a part of them for itself.
///
/// Left to itself, a kernel whose processors are all busy wakes the second thread on the processor of the first, which woke it, and
/// leaves both there; for a thousand answers that doubles the time, now and then.
#[derive(Debug)]
pub struct Shares {
    all: CpuSet,
    /// One for each thread; none where there are too few processors.
    parts: Vec<CpuSet>,
    next: AtomicUsize,
}

impl Shares {
    /// Of the processors that this process may use, for so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        // Where the system does not say, nobody keeps to anything.
        let all = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).collect();
        let parts = match usable.len() / threads.max(1) {
            0 => Vec::new(),
            _ => (0..threads).map(|thread| part(&usable, thread, threads)).collect(),
        };
        Self { all, parts, next: AtomicUsize::new(0) }
    }

    /// The calling thread takes the next share; after the last one, threads may run anywhere.
    pub fn take(&self) {
        let thread = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(share) = self.parts.get(thread).or((!self.parts.is_empty()).then_some(&self.all)) else { return };
        if let Err(error) = sched_setaffinity(None, share) {
            tracing::debug!("a thread keeps to no processors of its own: {error}");
        }
    }
}

fn part(usable: &[usize], thread: usize, threads: usize) -> CpuSet {
    let bound = |thread: usize| usable.len() * thread / threads;
    let mut set = CpuSet::new();
    for &cpu in &usable[bound(thread)..bound(thread + 1)] {
        set.set(cpu);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_is_in_one_share_and_every_share_has_one() {
        for (count, threads) in [(2, 2), (3, 2), (16, 2), (7, 3)] {
            let usable: Vec<usize> = (0..count).map(|cpu| 3 * cpu).collect();
            let shares: Vec<CpuSet> = (0..threads).map(|thread| part(&usable, thread, threads)).collect();
            for &cpu in &usable {
                assert_eq!(shares.iter().filter(|share| share.is_set(cpu)).count(), 1, "{cpu} of {count}");
            }
            assert!(shares.iter().all(|share| share.count() > 0), "{count} for {threads}");
        }
    }

    #[test]
    fn a_thread_keeps_to_its_share_and_later_ones_to_none() {
        let shares = Shares::new(2);
        let seen = |shares: &Shares| {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    shares.take();
                    sched_getaffinity(None).map(|set| set.count()).unwrap_or_default()
                });
                thread.join().unwrap_or_default()
            })
        };
        let counts = [seen(&shares), seen(&shares), seen(&shares)];
        let all = shares.all.count();
        if all < 2 {
            assert_eq!(counts, [all; 3]);
        } else {
            assert_eq!((counts[0] + counts[1], counts[2]), (all, all));
        }
    }
}
