//! The sum over lanes, the same bits in any world.
//!
//! Each trainer adds up the maximal subtrees of the fixed tree inside its lanes and owns one chunk of the flat buffer. It
//! receives that chunk of everyone's partial sums (all-to-all), adds them in the tree's order, divides by the lanes, and
//! hands the result to all (all-gather). Only this order of additions decides the bits, and it does not depend on the world.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use began::config::Reduce;
use began::lanes::lanes_of;
use began::tree::{Fold, maximal_subtrees};
use began::{LaneLosses, Rank};
use tch::Tensor;

use crate::collective::Collective;

/// Chunks are multiples of this many elements.
const ALIGNMENT: i64 = 16;

/// Numbers that a lane adds to G's gradient: its losses, and which samples it drew, as two halves of 24 bits.
const TAIL: usize = 4;

/// An averaged gradient; may be longer than the parameters.
#[derive(Debug)]
pub struct Gradient(pub Tensor);

/// A trainer's partial sums: the maximal subtrees of its lanes, in order, each with its flat sum.
pub type Partials = Vec<(Range<u32>, Tensor)>;

/// This trainer's place in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// My rank.
    pub rank: u32,
    /// Trainers in the generation.
    pub world: u32,
    /// The run's lanes.
    pub lanes: u32,
}

impl Place {
    /// The lanes that `rank` computes.
    #[must_use]
    pub fn lanes_of(&self, rank: u32) -> Range<u32> {
        lanes_of(Rank(rank), self.world, self.lanes)
    }

    /// My lanes.
    #[must_use]
    pub fn my_lanes(&self) -> Range<u32> {
        self.lanes_of(self.rank)
    }

    /// Elements in a chunk of a buffer of `len` elements.
    fn chunk(&self, len: i64) -> i64 {
        let world = i64::from(self.world);
        ((len + world - 1) / world + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
    }

    /// Elements that a gradient buffer of `len` elements needs so that its chunks are all of one length.
    #[must_use]
    pub fn padded(&self, len: i64) -> i64 {
        self.chunk(len) * i64::from(self.world)
    }

    fn partials_of(&self, rank: u32) -> Vec<Range<u32>> {
        maximal_subtrees(self.lanes_of(rank), self.lanes)
    }
}

/// Sums partials over the world.
pub struct Reducer {
    place: Place,
    how: Reduce,
    collective: Option<Box<dyn Collective>>,
}

impl Reducer {
    /// A reducer; a world of one needs no collective.
    ///
    /// # Errors
    /// If a larger world has none.
    pub fn new(place: Place, how: Reduce, collective: Option<Box<dyn Collective>>) -> Result<Self> {
        ensure!(place.world == 1 || collective.is_some(), "a world of {} needs a collective", place.world);
        Ok(Self { place, how, collective })
    }

    /// The average over all lanes. The partials' tensors are used up.
    ///
    /// # Errors
    /// If a peer is gone.
    pub fn average(&mut self, partials: Partials) -> Result<Gradient> {
        let lanes = i64::from(self.place.lanes);
        let Some(collective) = &mut self.collective else {
            return Ok(Gradient(divide(root(&self.place, partials)?, lanes)?));
        };
        if self.how == Reduce::Fast {
            let mine = local_sum(partials)?;
            collective.all_reduce(&mine)?;
            let mine = divide(mine, lanes)?;
            collective.settle("the sum of a gradient")?;
            return Ok(Gradient(mine));
        }
        let chunk = divide(owned_chunk(&self.place, collective.as_mut(), partials)?, lanes)?;
        let whole =
            chunk.f_new_empty([chunk.size1()? * i64::from(self.place.world)], (chunk.kind(), chunk.device()))?;
        collective.all_gather(&whole, &chunk)?;
        collective.settle("the sum of a gradient")?;
        Ok(Gradient(whole))
    }

    /// Trainers in the generation.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.place.world
    }

    /// Leaves the group in good order.
    pub fn leave(self, bound: Duration) {
        if let Some(collective) = self.collective {
            collective.leave(bound);
        }
    }

    /// The group itself, for handing the state around; nothing in a world of one.
    pub fn collective(&mut self) -> Option<&mut (dyn Collective + 'static)> {
        self.collective.as_deref_mut()
    }

    /// As [`Reducer::average`], with every lane's losses handed to everyone beside it: who has the last gradient of a step
    /// has the step's losses, whatever the coordinator has seen.
    ///
    /// # Errors
    /// If a peer is gone.
    pub fn average_with_losses(
        &mut self,
        partials: Partials,
        losses: &[LaneLosses],
    ) -> Result<(Gradient, Vec<LaneLosses>)> {
        let Some(collective) = &mut self.collective else {
            let gradient = self.average(partials)?;
            return Ok((gradient, losses.to_vec()));
        };
        let place = self.place;
        let slots = TAIL as i64 * i64::from(place.lanes.div_ceil(place.world));
        let (kind, device) = match partials.first() {
            Some((_, tensor)) => (tensor.kind(), tensor.device()),
            None => bail!("trainer {} of {} holds no lanes", place.rank, place.world),
        };
        let mut mine: Vec<f64> = losses.iter().flat_map(to_numbers).collect();
        mine.resize(slots as usize, 0.0);
        let mine = Tensor::f_from_slice(&mine)?.f_to_kind(kind)?.f_to_device(device)?;
        let world = i64::from(place.world);

        let (gradient, tail) = if self.how == Reduce::Fast {
            let all = mine.f_new_empty([world * slots], (kind, device))?;
            collective.all_gather(&all, &mine)?;
            collective.settle("the losses of all lanes")?;
            (self.average(partials)?.0, all.f_view([world, slots])?)
        } else {
            let chunk = owned_chunk(&place, collective.as_mut(), partials)?;
            let chunk = divide(chunk, i64::from(place.lanes))?;
            let len = chunk.size1()?;
            let sent = Tensor::f_cat(&[chunk, mine], 0)?;
            let received = sent.f_new_empty([world * (len + slots)], (kind, device))?;
            collective.all_gather(&received, &sent)?;
            collective.settle("the sum of a gradient and the losses")?;
            let received = received.f_view([world, len + slots])?;
            let whole = received.f_narrow(1, 0, len)?.f_reshape([-1])?;
            (whole, received.f_narrow(1, len, slots)?)
        };
        let tail = Vec::<Vec<f64>>::try_from(tail.f_to_kind(tch::Kind::Double)?.f_to_device(tch::Device::Cpu)?)?;
        let mut all = Vec::with_capacity(place.lanes as usize);
        for (rank, values) in tail.iter().enumerate() {
            let held = place.lanes_of(rank as u32).len();
            all.extend(values.chunks_exact(TAIL).take(held).map(from_numbers));
        }
        Ok((Gradient(gradient), all))
    }
}

/// 24 bits are exact in f32.
const HALF: u32 = 24;

fn to_numbers(losses: &LaneLosses) -> [f64; TAIL] {
    let LaneLosses { real, fake, drawn } = *losses;
    [real, fake, ((drawn >> HALF) & ((1 << HALF) - 1)) as f64, (drawn & ((1 << HALF) - 1)) as f64]
}

fn from_numbers(numbers: &[f64]) -> LaneLosses {
    LaneLosses { real: numbers[0], fake: numbers[1], drawn: ((numbers[2] as u64) << HALF) | numbers[3] as u64 }
}

/// Sends every owner its chunk of my partials, and adds up what I own in the tree's order.
fn owned_chunk(place: &Place, collective: &mut dyn Collective, partials: Partials) -> Result<Tensor> {
    let Some((_, first)) = partials.first() else { bail!("trainer {} of {} holds no lanes", place.rank, place.world) };
    let chunk = first.size1()? / i64::from(place.world);
    ensure!(
        chunk * i64::from(place.world) == first.size1()?,
        "a buffer of {} elements does not divide among {} trainers",
        first.size1()?,
        place.world
    );
    // [partial, owner, chunk] to [owner, partial, chunk]; nothing to do for a single partial.
    let held = partials.len() as i64;
    let send = if held == 1 {
        first.shallow_clone()
    } else {
        let tensors: Vec<&Tensor> = partials.iter().map(|(_, tensor)| tensor).collect();
        Tensor::f_stack(&tensors, 0)?
            .f_view([held, i64::from(place.world), chunk])?
            .f_transpose(0, 1)?
            .f_reshape([-1])?
    };
    let spans: Vec<Vec<Range<u32>>> = (0..place.world).map(|rank| place.partials_of(rank)).collect();
    let output_splits: Vec<i64> = spans.iter().map(|spans| spans.len() as i64 * chunk).collect();
    let input_splits = vec![held * chunk; place.world as usize];
    let received = send.f_new_empty([output_splits.iter().sum::<i64>()], (send.kind(), send.device()))?;
    collective.all_to_all(&received, &send, &output_splits, &input_splits)?;
    drop(partials);

    let mut fold = Fold::new(place.lanes);
    for (index, span) in spans.into_iter().flatten().enumerate() {
        fold.push(span, received.f_narrow(0, index as i64 * chunk, chunk)?, add)?;
    }
    only(fold.finish())
}

/// The sum over all lanes where one trainer holds them all.
fn root(place: &Place, partials: Partials) -> Result<Tensor> {
    let mut fold = Fold::new(place.lanes);
    for (span, tensor) in partials {
        fold.push(span, tensor, add)?;
    }
    only(fold.finish())
}

fn only(mut sums: Partials) -> Result<Tensor> {
    match (sums.pop(), sums.pop()) {
        (Some((_, tensor)), None) => Ok(tensor),
        _ => bail!("the partial sums of all trainers do not make up the whole"),
    }
}

/// The sum of one trainer's partials, for `reduce = "fast"`.
fn local_sum(partials: Partials) -> Result<Tensor> {
    let mut tensors = partials.into_iter().map(|(_, tensor)| tensor);
    let Some(first) = tensors.next() else { bail!("a trainer without lanes has nothing to sum") };
    tensors.try_fold(first, add)
}

/// Adds the right sum to the left, in its place.
///
/// # Errors
/// If they differ in length.
pub fn add(left: Tensor, right: Tensor) -> Result<Tensor> {
    torch_ext::add_scaled_(&left, &right, 1.0)?;
    Ok(left)
}

fn divide(mut sum: Tensor, lanes: i64) -> Result<Tensor> {
    Ok(if lanes == 1 { sum } else { sum.f_div_scalar_(lanes)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::in_process::threads;
    use proptest::prelude::*;
    use tch::{Device, Kind};

    fn values(lane: u32, len: i64) -> Tensor {
        let mut values = vec![0f32; len as usize];
        let stream = began::random::Stream::new(3, began::random::Purpose::Bench, 0, lane);
        stream.uniform(10f64.powi(lane as i32 % 7 - 3), &mut values);
        Tensor::from_slice(&values)
    }

    fn reduce(lanes: u32, world: u32, len: i64, how: Reduce) -> Vec<(Vec<f32>, Vec<LaneLosses>)> {
        threads(world, move |rank, collective| {
            let place = Place { rank, world, lanes };
            let padded = place.padded(len);
            let mut fold = Fold::new(lanes);
            let mut losses = Vec::new();
            for lane in place.my_lanes() {
                let flat = Tensor::zeros([padded], (Kind::Float, Device::Cpu));
                flat.narrow(0, 0, len).copy_(&values(lane, len));
                let drawn = (1 << 48) - 1 - u64::from(lane);
                losses.push(LaneLosses { real: f64::from(lane), fake: 0.5, drawn });
                fold.push(lane..lane + 1, flat, add)?;
            }
            let collective = (world > 1).then(|| Box::new(collective) as Box<dyn Collective>);
            let mut reducer = Reducer::new(place, how, collective)?;
            let (gradient, losses) = reducer.average_with_losses(fold.finish(), &losses)?;
            Ok((Vec::<f32>::try_from(gradient.0.narrow(0, 0, len))?, losses))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_same_bits_come_out_of_any_world(lanes in 1u32..10, world in 1u32..10, len in 1i64..200) {
            let world = world.min(lanes);
            let alone = reduce(lanes, 1, len, Reduce::Tree);
            for (gradient, losses) in reduce(lanes, world, len, Reduce::Tree) {
                prop_assert_eq!(&gradient, &alone[0].0);
                prop_assert_eq!(&losses, &alone[0].1);
                prop_assert_eq!(losses.len() as u32, lanes);
            }
            for (gradient, losses) in reduce(lanes, world, len, Reduce::Fast) {
                for (a, b) in gradient.iter().zip(&alone[0].0) {
                    prop_assert!((a - b).abs() <= 1e-2);
                }
                prop_assert_eq!(&losses, &alone[0].1);
            }
        }
    }
}
