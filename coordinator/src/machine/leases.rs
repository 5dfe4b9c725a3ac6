//! Which shards each trainer may read, epoch by epoch and ahead of need.
//!
//! A lease is a function of (order of samples, epoch, lanes); nothing is negotiated. What must never happen is that a
//! trainer needs a shard before its lease is on the way: leases always cover the step in progress and the next ones.

use std::ops::Range;

use began::order::SampleOrder;
use began::{Rank, Step, lanes::lanes_of};

use super::event::Lease;

/// Steps ahead of the one in progress that are always leased: more than loaders read ahead.
const NEEDED: u64 = 12;
/// Steps ahead that are leased while nothing waits.
const AHEAD: u64 = 48;
/// Leases to one trainer at once, beyond which only the nearest steps are covered.
const AT_ONCE: usize = 512;
/// The nearest steps.
const NEAREST: u64 = 2;

/// What has been leased in a generation so far.
#[derive(Clone, Debug)]
pub(super) struct LeaseBook {
    next_epoch: u64,
    world: u32,
    lanes: u32,
    steps: Step,
}

/// How far ahead to lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// As far as must be; for the path of a step.
    Needed,
    /// Comfortably; for when there is time.
    Ahead,
}

impl LeaseBook {
    pub(super) fn new(order: &SampleOrder, from: Step, steps: u64, world: u32, lanes: u32) -> Self {
        Self { next_epoch: order.epoch(from), world, lanes, steps: Step(steps) }
    }

    /// The leases that are due while `step` is in progress, in epoch order.
    pub(super) fn due(&mut self, order: &SampleOrder, step: Step, reach: Reach) -> Vec<(Rank, Lease)> {
        let ahead = match reach {
            Reach::Needed => NEEDED,
            Reach::Ahead => AHEAD,
        };
        let mut out = Vec::new();
        let mut epochs = 0;
        while self.first(order).0 < step.0 + if epochs < AT_ONCE { ahead } else { NEAREST }
            && self.first(order) < self.steps
        {
            let steps = steps_of(order, self.next_epoch);
            let line = order.line(self.next_epoch);
            for rank in (0..self.world).map(Rank) {
                let shards = line.shards(order, lanes_of(rank, self.world, self.lanes));
                let lease = Lease { epoch: self.next_epoch, first_step: steps.start, end_step: steps.end, shards };
                out.push((rank, lease));
            }
            self.next_epoch += 1;
            epochs += 1;
        }
        out
    }

    fn first(&self, order: &SampleOrder) -> Step {
        order.first_step(self.next_epoch)
    }
}

/// The steps that draw from an epoch; the last of them may draw from the next one too.
fn steps_of(order: &SampleOrder, epoch: u64) -> Range<Step> {
    let next = order.first_step(epoch + 1);
    // If that step begins in the next epoch, this epoch ended exactly before it.
    let ends_before = order.epoch(next) > epoch;
    order.first_step(epoch)..if ends_before { next } else { next.next() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::Lane;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_step_and_the_next_two_are_leased_whatever_the_length_of_an_epoch(
            shards in proptest::collection::vec(1u64..30, 1..5),
            lanes in 1u32..6, batch in 1u32..9, world in 1u32..6, from in 0u64..50,
        ) {
            let world = world.min(lanes);
            let order = SampleOrder::new(1, shards, lanes, batch).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let steps = from + 40;
            let mut book = LeaseBook::new(&order, Step(from), steps, world, lanes);
            let mut held: Vec<Vec<Lease>> = vec![Vec::new(); world as usize];
            for step in from..steps {
                let reach = if step % 7 == 0 { Reach::Ahead } else { Reach::Needed };
                for (rank, lease) in book.due(&order, Step(step), reach) {
                    held[rank.0 as usize].push(lease);
                }
                for ahead in step..(step + NEAREST).min(steps) {
                    for rank in (0..world).map(Rank) {
                        for lane in lanes_of(rank, world, lanes) {
                            for drawn in order.batch(Step(ahead), Lane(lane)) {
                                prop_assert!(held[rank.0 as usize].iter().any(|lease| lease.epoch == drawn.epoch
                                    && (lease.first_step..lease.end_step).contains(&Step(ahead))
                                    && lease.shards.contains(&drawn.sample.shard)));
                            }
                        }
                    }
                }
            }
            for leases in held {
                prop_assert!(leases.windows(2).all(|pair| pair[0].epoch + 1 == pair[1].epoch));
            }
        }
    }

    #[test]
    fn an_epoch_that_ends_between_two_steps_is_not_leased_for_the_second() -> Result<(), began::order::OrderError> {
        let order = SampleOrder::new(1, vec![8], 1, 4)?;
        assert_eq!(steps_of(&order, 0), Step(0)..Step(2));
        let order = SampleOrder::new(1, vec![9], 1, 4)?;
        assert_eq!((steps_of(&order, 0), steps_of(&order, 1)), (Step(0)..Step(3), Step(2)..Step(5)));
        Ok(())
    }
}
