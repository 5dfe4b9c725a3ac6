//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! A number is a function of (seed, purpose, step or epoch, lane, index) and of nothing else. There is no state that
//! could be advanced once too often: the same noise comes out whichever trainer asks, in whichever order.

/// What a stream of numbers is for; streams of different purposes never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Initial weights; `step` is the index of the parameter.
    Weights = 1,
    /// The generator's input.
    Noise = 2,
    /// Horizontal mirroring of real images.
    Flip = 3,
    /// Order of samples; `step` is the epoch.
    Order = 4,
    /// Order of shards; `step` is the epoch.
    ShardOrder = 5,
    /// The noise behind sample grids, the same at every step.
    Samples = 6,
    /// Made-up images for benches.
    Bench = 7,
    /// What scores draw: patches, directions, pairs, subsets; `step` tells which.
    Evaluation = 8,
    /// Starts of the search for an image's noise.
    Inversion = 9,
}

/// One stream of random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// Lane, step's low half, step's high bits with the purpose.
    counter: [u32; 3],
}

impl Stream {
    /// The stream of (seed, purpose, step, lane). `step` is used up to 2^56.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, step: u64, lane: u32) -> Self {
        let high = ((step >> 32) as u32 & 0x00ff_ffff) | (u32::from(purpose as u8) << 24);
        Self { key: [seed as u32, (seed >> 32) as u32], counter: [lane, step as u32, high] }
    }

    /// The block of four numbers at `block`.
    #[must_use]
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox4x32([block, self.counter[0], self.counter[1], self.counter[2]], self.key)
    }

    /// The number at `index`; indices up to 2^34 give different blocks.
    #[must_use]
    pub fn at(&self, index: u64) -> u32 {
        self.block((index / 4) as u32)[(index % 4) as usize]
    }

    /// Fills `out` with numbers evenly spread over (-bound, bound), from the start of the stream.
    pub fn uniform(&self, bound: f64, out: &mut [f32]) {
        for (block, values) in out.chunks_mut(4).enumerate() {
            let raw = self.block(block as u32);
            for (value, raw) in values.iter_mut().zip(raw) {
                // 24 bits, at the middle of their cell: symmetric about 0, and neither bound is reached.
                let unit = (f64::from(raw >> 8) + 0.5) / f64::from(1 << 24);
                *value = ((2.0 * unit - 1.0) * bound) as f32;
            }
        }
    }
}

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A permutation of `0..len`, computed value by value: a six-round Feistel network over the next even power of two,
/// walked until it lands inside.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    stream: Stream,
    len: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation of `0..len` that this stream names.
    #[must_use]
    pub fn new(stream: Stream, len: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self { stream, len, half_bits: bits.div_ceil(2).max(1) }
    }

    /// Where `index` goes. `index` must be below the length.
    #[must_use]
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mut value = index;
        loop {
            value = self.rounds(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn rounds(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..6u32 {
            let key = [self.stream.key[0] ^ round, self.stream.key[1]];
            let [lane, low, high] = self.stream.counter;
            let mixed = philox4x32([right as u32, lane ^ ((right >> 32) as u32).rotate_left(16), low, high], key);
            let mixed = u64::from(mixed[0]) | u64::from(mixed[1]) << 32;
            (left, right) = (right, left ^ (mixed & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn philox_gives_the_numbers_its_authors_published() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn noise_is_centred_spread_evenly_and_inside_its_bounds() {
        let mut values = vec![0f32; 100_000];
        Stream::new(7, Purpose::Noise, 3, 1).uniform(1.0, &mut values);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (square - 1.0 / 3.0).abs() < 0.005, "{mean} {square}");
        assert!(values.iter().all(|v| v.abs() < 1.0));
    }

    #[test]
    fn streams_that_differ_in_one_coordinate_differ() {
        let base = Stream::new(1, Purpose::Noise, 5, 2).block(0);
        for other in [
            Stream::new(2, Purpose::Noise, 5, 2),
            Stream::new(1 << 32 | 1, Purpose::Noise, 5, 2),
            Stream::new(1, Purpose::Flip, 5, 2),
            Stream::new(1, Purpose::Noise, 6, 2),
            Stream::new(1, Purpose::Noise, 1 << 40 | 5, 2),
            Stream::new(1, Purpose::Noise, 5, 3),
        ] {
            assert_ne!(base, other.block(0));
        }
    }

    proptest! {
        #[test]
        fn a_permutation_reaches_every_place_once(len in 1u64..3000, seed: u64) {
            let permutation = Permutation::new(Stream::new(seed, Purpose::Order, 0, 0), len);
            let mut seen = vec![false; len as usize];
            for index in 0..len {
                let place = permutation.at(index) as usize;
                prop_assert!(!seen[place]);
                seen[place] = true;
            }
        }
    }
}
