//! The trainers' sums among each other: a sum is there once all have put their part in. Who waits for one that is gone is
//! told so; who waits for one that hangs waits.

use std::collections::{BTreeMap, BTreeSet};

/// One process: a trainer's place, and which of its lives.
pub type Process = (usize, u64);

/// What a change brings about: for this process, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// All peers are connected.
    Connected(Process),
    /// The sum of the step is there.
    Sum(Process, u64),
    /// A peer is gone.
    Severed(Process),
}

#[derive(Clone, Debug, Default)]
struct Group {
    size: usize,
    members: BTreeMap<u32, Process>,
    connected: bool,
    gone: bool,
    /// Somebody aborted: what the others sent it is lost, and what it sent.
    aborted: bool,
    /// Sums that were finished after a later generation had finished one.
    late: u32,
    /// Who has put its part in, by step.
    sums: BTreeMap<u64, BTreeSet<u32>>,
    /// Who was connected, or waits for a sum: (step).
    waiting: BTreeMap<u32, Option<u64>>,
}

/// The groups of all generations.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    groups: BTreeMap<u64, Group>,
    /// The newest generation that has finished a sum.
    pub newest: u64,
}

impl Peers {
    /// A process looks for its peers.
    pub fn join(&mut self, generation: u64, rank: u32, size: usize, process: Process) -> Vec<Told> {
        let group = self.groups.entry(generation).or_default();
        group.size = size;
        group.members.insert(rank, process);
        if group.gone {
            return vec![Told::Severed(process)];
        }
        group.waiting.insert(rank, None);
        if group.members.len() < size {
            return Vec::new();
        }
        group.connected = true;
        group.waiting.clear();
        group.members.values().map(|process| Told::Connected(*process)).collect()
    }

    /// A process puts its part into a sum.
    ///
    /// # Panics
    /// If a generation goes on although a later one does.
    pub fn add(&mut self, generation: u64, rank: u32, step: u64) -> Vec<Told> {
        let group = self.groups.entry(generation).or_default();
        let Some(process) = group.members.get(&rank).copied() else { return Vec::new() };
        let sum = group.sums.entry(step).or_default();
        sum.insert(rank);
        if sum.len() == group.size && !group.aborted {
            // One that wakes up may finish the step it was given, with what the dead had sent it; no more than that.
            group.late += u32::from(generation < self.newest);
            assert!(group.late < 2, "generation {generation} goes on beside generation {}", self.newest);
            self.newest = self.newest.max(generation);
            group.waiting.clear();
            group.sums.remove(&step);
            return group.members.values().map(|process| Told::Sum(*process, step)).collect();
        }
        if group.gone {
            return vec![Told::Severed(process)];
        }
        group.waiting.insert(rank, Some(step));
        Vec::new()
    }

    /// A process is gone from a generation: dead, or it left. Those who wait for it are told.
    pub fn leave(&mut self, generation: u64, process: Process, aborts: bool) -> Vec<Told> {
        let Some(group) = self.groups.get_mut(&generation) else { return Vec::new() };
        if !group.members.values().any(|member| *member == process) {
            return Vec::new();
        }
        group.gone = true;
        group.aborted |= aborts;
        let waiting = std::mem::take(&mut group.waiting);
        waiting
            .into_keys()
            .filter_map(|rank| group.members.get(&rank).copied())
            .filter(|member| *member != process)
            .map(Told::Severed)
            .collect()
    }
}
