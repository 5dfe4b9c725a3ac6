//! Chance with a seed: which fault comes next, when, and whom it hits. The same seed rolls the same numbers.

use std::time::Duration;

use crate::cli::Fault;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice that begin at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An index below `count`; 0 where there is nothing to choose.
    pub fn below(&mut self, count: usize) -> usize {
        (self.roll() % (count.max(1) as u64)) as usize
    }

    /// A pause from half of `every` to one and a half of it.
    pub fn pause(&mut self, every: Duration) -> Duration {
        let unit = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        every.mul_f64(0.5 + unit)
    }

    /// One of the faults.
    pub fn fault(&mut self, faults: &[Fault]) -> Option<Fault> {
        faults.get(self.below(faults.len())).copied()
    }

    /// As many different ones of `things` as asked for, or all there are.
    pub fn choose<T>(&mut self, mut things: Vec<T>, count: usize) -> Vec<T> {
        let mut chosen = Vec::new();
        while chosen.len() < count && !things.is_empty() {
            chosen.push(things.swap_remove(self.below(things.len())));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same_numbers() {
        let mut dice = Dice::new(0);
        // The first outputs of the reference implementation for seed 0.
        assert_eq!([dice.roll(), dice.roll()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn pauses_are_around_what_was_asked_for_and_every_fault_comes() {
        let mut dice = Dice::new(7);
        let every = Duration::from_secs(20);
        let pauses: Vec<f64> = (0..200).map(|_| dice.pause(every).as_secs_f64()).collect();
        assert!(pauses.iter().all(|pause| (10.0..30.0).contains(pause)));
        assert!((pauses.iter().sum::<f64>() / 200.0 - 20.0).abs() < 2.0);
        let faults = [Fault::Kill, Fault::Stop, Fault::Disk];
        let drawn: Vec<Fault> = (0..60).filter_map(|_| dice.fault(&faults)).collect();
        assert!(faults.iter().all(|fault| drawn.contains(fault)));
        assert_eq!(dice.fault(&[]), None);
    }

    #[test]
    fn nobody_is_chosen_twice() {
        let mut dice = Dice::new(7);
        for _ in 0..20 {
            let mut chosen = dice.choose(vec![1, 2, 3], 2);
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), 2);
        }
        assert_eq!(dice.choose(vec![1], 2), [1]);
    }
}
