//! Which sample goes where: a pure function of (seed, data, lanes, batch, step, lane).
//!
//! The run consumes an endless sequence of samples, `lanes * batch` a step; epoch `e` of a data set of `N` samples
//! is the positions `[e*N, (e+1)*N)` of that sequence, so that epochs may begin inside a step and **every sample comes
//! exactly once in every epoch**: nothing is dropped and nothing padded.
//!
//! Within an epoch each lane has a range of its own: the shards are put in an order drawn for the epoch, their samples
//! laid end to end, and that line is cut into one slice a lane, as long as what the lane consumes in the epoch. Inside its
//! slice a lane reads in an order drawn for (epoch, lane). So a lane needs only the few shards its slice touches (the
//! coordinator leases them to whoever holds the lane), and which samples it gets changes with each epoch.

use std::ops::Range;

use crate::ids::{Lane, Step};
use crate::random::{Permutation, Purpose, Stream};

/// One sample of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sample {
    /// Index of the shard in the manifest.
    pub shard: u32,
    /// Index within the shard.
    pub index: u64,
}

/// A sample in its place in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Which sample.
    pub sample: Sample,
    /// In which epoch.
    pub epoch: u64,
    /// Whether it is mirrored, where the run mirrors at all.
    pub mirrored: bool,
}

/// What tells which samples a lane drew in a step, and in which order, in 48 bits (two numbers of 24 bits each travel
/// through an f32 unharmed).
#[must_use]
pub fn drawn_by_lane(samples: impl IntoIterator<Item = (u32, u64)>) -> u64 {
    samples.into_iter().fold(0x6261_7463, |hash, (shard, index)| mix(mix(hash, u64::from(shard)), index))
        & 0xffff_ffff_ffff
}

/// What tells which samples all lanes drew in a step; `lanes` in lane order.
#[must_use]
pub fn drawn_by_all(lanes: impl IntoIterator<Item = u64>) -> u64 {
    lanes.into_iter().fold(0x7374_6570, mix)
}

/// SplitMix64's finish over a running hash.
fn mix(hash: u64, value: u64) -> u64 {
    let z = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Why there is no order over a data set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Nothing to draw from.
    #[error("the data set has no samples")]
    Empty,
    /// A zero where a size is needed.
    #[error("a run needs at least one lane and a batch of at least one, got {lanes} lanes of {batch}")]
    NoLanes {
        /// Lanes asked for.
        lanes: u32,
        /// Batch asked for.
        batch: u32,
    },
}

/// The order of samples of a run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SampleOrder {
    seed: u64,
    shard_samples: Vec<u64>,
    total: u64,
    lanes: u64,
    batch: u64,
}

impl SampleOrder {
    /// The order for shards of these sizes.
    ///
    /// # Errors
    /// If there is no sample, no lane or an empty batch.
    pub fn new(seed: u64, shard_samples: Vec<u64>, lanes: u32, batch: u32) -> Result<Self, OrderError> {
        if lanes == 0 || batch == 0 {
            return Err(OrderError::NoLanes { lanes, batch });
        }
        let total = shard_samples.iter().sum();
        if total == 0 {
            return Err(OrderError::Empty);
        }
        Ok(Self { seed, shard_samples, total, lanes: lanes.into(), batch: batch.into() })
    }

    /// The epoch in which `step` begins.
    #[must_use]
    pub fn epoch(&self, step: Step) -> u64 {
        (u128::from(step.0) * u128::from(self.lanes * self.batch) / u128::from(self.total)) as u64
    }

    /// The first step that consumes a sample of `epoch`.
    #[must_use]
    pub fn first_step(&self, epoch: u64) -> Step {
        Step((u128::from(epoch) * u128::from(self.total) / u128::from(self.lanes * self.batch)) as u64)
    }

    /// How many of the positions below `end` are `lane`'s.
    fn consumed(&self, lane: u64, end: u128) -> u128 {
        let stride = u128::from(self.lanes * self.batch);
        let inside = (end % stride).saturating_sub(u128::from(lane * self.batch)).min(u128::from(self.batch));
        end / stride * u128::from(self.batch) + inside
    }

    /// How many samples `lane` consumes in `epoch`.
    fn share(&self, epoch: u64, lane: u64) -> u64 {
        let start = u128::from(epoch) * u128::from(self.total);
        (self.consumed(lane, start + u128::from(self.total)) - self.consumed(lane, start)) as u64
    }

    /// How many of the positions below `end` belong to lanes below `lane`.
    fn consumed_below(&self, lane: u64, end: u128) -> u128 {
        let (stride, below) = (u128::from(self.lanes * self.batch), u128::from(lane * self.batch));
        end / stride * below + (end % stride).min(below)
    }

    /// `lane`'s slice of the epoch's line of samples: it begins where those of the lanes below it end.
    fn slice(&self, epoch: u64, lane: u64) -> Range<u64> {
        let from = u128::from(epoch) * u128::from(self.total);
        let to = from + u128::from(self.total);
        let start = (self.consumed_below(lane, to) - self.consumed_below(lane, from)) as u64;
        start..start + self.share(epoch, lane)
    }

    fn shard_order(&self, epoch: u64) -> Permutation {
        Permutation::new(Stream::new(self.seed, Purpose::ShardOrder, epoch, 0), self.shard_samples.len() as u64)
    }

    /// The batch of `lane` in `step`.
    #[must_use]
    pub fn batch(&self, step: Step, lane: Lane) -> Vec<Drawn> {
        let (lane, total) = (u64::from(lane.0), u128::from(self.total));
        let first = u128::from(step.0) * u128::from(self.lanes * self.batch) + u128::from(lane * self.batch);
        let flips = Stream::new(self.seed, Purpose::Flip, step.0, lane as u32);
        let mut layout: Option<EpochLayout> = None;
        (0..self.batch)
            .map(|offset| {
                let position = first + u128::from(offset);
                let epoch = (position / total) as u64;
                let layout = match &mut layout {
                    Some(layout) if layout.epoch == epoch => layout,
                    stale => stale.insert(EpochLayout::new(self, epoch, lane)),
                };
                // How many samples of this epoch the lane has drawn before this one.
                let drawn = self.consumed(lane, position) - self.consumed(lane, u128::from(epoch) * total);
                let sample = layout.sample(layout.slice.start + layout.order.at(drawn as u64));
                Drawn { sample, epoch, mirrored: flips.at(offset) & 1 == 1 }
            })
            .collect()
    }

    /// The shards that these lanes need in `epoch`, ascending.
    #[must_use]
    pub fn shards(&self, epoch: u64, lanes: Range<u32>) -> Vec<u32> {
        self.line(epoch).shards(self, lanes)
    }

    /// The shards of an epoch laid end to end, for whoever asks about many lanes.
    #[must_use]
    pub fn line(&self, epoch: u64) -> EpochLine {
        let order = self.shard_order(epoch);
        let mut end = 0;
        let place = |place| {
            let shard = order.at(place);
            let start = end;
            end += self.shard_samples[shard as usize];
            (end, shard as u32, start)
        };
        EpochLine { epoch, line: (0..self.shard_samples.len() as u64).map(place).collect() }
    }
}

/// The shards of one epoch in its order, laid end to end.
#[derive(Clone, Debug)]
pub struct EpochLine {
    epoch: u64,
    /// Where each ends, which it is, where it begins.
    line: Vec<(u64, u32, u64)>,
}

impl EpochLine {
    /// The shards that these lanes need, ascending.
    #[must_use]
    pub fn shards(&self, order: &SampleOrder, lanes: Range<u32>) -> Vec<u32> {
        if lanes.is_empty() {
            return Vec::new();
        }
        let first = order.slice(self.epoch, lanes.start.into()).start;
        let last = order.slice(self.epoch, u64::from(lanes.end) - 1).end;
        let from = self.line.partition_point(|&(end, ..)| end <= first);
        let touched = self.line[from..].iter().take_while(|&&(_, _, start)| start < last);
        let mut shards: Vec<u32> =
            touched.filter(|&&(end, _, start)| start < end).map(|&(_, shard, _)| shard).collect();
        shards.sort_unstable();
        shards
    }

    fn sample(&self, place: u64) -> Sample {
        let (_, shard, start) = self.line[self.line.partition_point(|&(end, ..)| end <= place)];
        Sample { shard, index: place - start }
    }
}

/// One lane's view of one epoch.
struct EpochLayout {
    epoch: u64,
    slice: Range<u64>,
    order: Permutation,
    line: EpochLine,
}

impl EpochLayout {
    fn new(order: &SampleOrder, epoch: u64, lane: u64) -> Self {
        let slice = order.slice(epoch, lane);
        let stream = Stream::new(order.seed, Purpose::Order, epoch, lane as u32);
        let order_of_lane = Permutation::new(stream, slice.end - slice.start);
        Self { epoch, slice, order: order_of_lane, line: order.line(epoch) }
    }

    fn sample(&self, place: u64) -> Sample {
        self.line.sample(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn every_sample_comes_exactly_once_in_every_epoch(
            shards in proptest::collection::vec(0u64..40, 1..7),
            lanes in 1u32..6,
            batch in 1u32..5,
            seed: u64,
        ) {
            let total: u64 = shards.iter().sum();
            prop_assume!(total > 0);
            let order = SampleOrder::new(seed, shards, lanes, batch).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut seen: HashMap<(u64, Sample), u32> = HashMap::new();
            let steps = 3 * total / u64::from(lanes * batch) + 1;
            for step in 0..steps {
                for lane in 0..lanes {
                    for drawn in order.batch(Step(step), Lane(lane)) {
                        *seen.entry((drawn.epoch, drawn.sample)).or_default() += 1;
                        prop_assert!(order.shards(drawn.epoch, lane..lane + 1).contains(&drawn.sample.shard));
                    }
                }
            }
            prop_assert!(seen.values().all(|&times| times == 1));
            for epoch in 0..2 {
                prop_assert_eq!(seen.keys().filter(|(e, _)| *e == epoch).count() as u64, total);
            }
        }

        #[test]
        fn a_world_leases_exactly_the_shards_its_lanes_read(
            shards in proptest::collection::vec(1u64..20, 1..12), lanes in 1u32..9, epoch in 0u64..4,
        ) {
            let count = shards.len() as u32;
            let order = SampleOrder::new(3, shards, lanes, 4).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut all: Vec<u32> = (0..lanes).flat_map(|lane| order.shards(epoch, lane..lane + 1)).collect();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(&all, &order.shards(epoch, 0..lanes));
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_are_shuffled_differently() -> Result<(), OrderError> {
        let order = SampleOrder::new(1, vec![100, 100], 1, 10)?;
        let samples = |steps: Range<u64>| -> Vec<Sample> {
            steps.flat_map(|step| order.batch(Step(step), Lane(0))).map(|drawn| drawn.sample).collect()
        };
        assert_ne!(samples(0..20), samples(20..40));
        assert_eq!(order.epoch(Step(19)), 0);
        assert_eq!(order.epoch(Step(20)), 1);
        assert_eq!(order.first_step(1), Step(20));
        Ok(())
    }
}
