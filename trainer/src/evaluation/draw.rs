//! What scores draw at random, as a function of the seed: numbers, normal numbers, choices.

use anyhow::Result;
use began::random::{Permutation, Purpose, Stream};
use tch::{Device, Kind, Tensor};

/// What a stream is drawn for; streams of different uses never meet.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Use {
    /// Where patches are cut.
    Patches = 1,
    /// On which directions patches are projected.
    Directions = 2,
    /// Which images are compared with which.
    Pairs = 3,
    /// Which images make a subset.
    Subsets = 4,
    /// Which images of a set are taken.
    Images = 5,
    /// The kernels of the built-in features.
    Kernels = 6,
}

/// The stream of (seed, use, index).
#[must_use]
pub fn stream(seed: u64, what: Use, index: u32) -> Stream {
    Stream::new(seed, Purpose::Evaluation, what as u64, index)
}

/// Evenly spread over 0..bound.
#[must_use]
pub fn below(stream: &Stream, index: u64, bound: u64) -> u64 {
    (u64::from(stream.at(index)) * bound) >> 32
}

/// `count` of `0..len`, in a drawn order, none twice; all of them if there are fewer.
#[must_use]
pub fn choice(stream: Stream, len: u64, count: u64) -> Vec<u64> {
    let order = Permutation::new(stream, len);
    (0..count.min(len)).map(|index| order.at(index)).collect()
}

/// Normal numbers of mean 0 and variance 1, of this shape.
///
/// # Errors
/// If memory is short.
pub fn normal(stream: &Stream, shape: &[i64], device: Device) -> Result<Tensor> {
    let count: i64 = shape.iter().product();
    let mut values = vec![0f32; count as usize];
    for (index, pair) in values.chunks_mut(2).enumerate() {
        // Box and Muller's way; the first number is never 0.
        let unit = |n: u64| (f64::from(stream.at(n)) + 0.5) / f64::from(u32::MAX);
        let radius = (-2.0 * unit(2 * index as u64).min(1.0).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * unit(2 * index as u64 + 1)).sin_cos();
        for (value, factor) in pair.iter_mut().zip([cosine, sine]) {
            *value = (radius * factor) as f32;
        }
    }
    Ok(Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_kind(Kind::Float)?.f_to_device(device)?)
}
