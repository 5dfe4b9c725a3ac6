//! Which trainer computes which lanes: a pure function of the number of lanes and the size of the world.

use std::ops::Range;

use crate::ids::Rank;

/// The lanes of `rank` in a world of `world` trainers: contiguous, in order, as even as can be.
///
/// # Panics
/// If `world` is 0.
#[must_use]
pub fn lanes_of(rank: Rank, world: u32, lanes: u32) -> Range<u32> {
    let bound = |rank: u32| (u64::from(rank) * u64::from(lanes) / u64::from(world)) as u32;
    bound(rank.0)..bound(rank.0 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_world_covers_every_lane_once_and_evenly(lanes in 1u32..200, world in 1u32..200) {
            let mut next = 0;
            for rank in 0..world {
                let held = lanes_of(Rank(rank), world, lanes);
                prop_assert_eq!(held.start, next);
                prop_assert!(held.len() as u32 == lanes / world || held.len() as u32 == lanes.div_ceil(world));
                next = held.end;
            }
            prop_assert_eq!(next, lanes);
        }
    }
}
