//! The fixed tree: the one order in which a run adds up its lanes.
//!
//! The tree over lanes `[a, b)` splits them at the largest power of two below their number, as a Merkle tree does
//! (RFC 6962, section 2.1). Floating-point addition does not associate, so this order is part of what a run is: it
//! depends on the number of lanes and never on who computes them.

use std::ops::Range;

/// The two halves of a span of at least two lanes.
fn halves(span: &Range<u32>) -> (Range<u32>, Range<u32>) {
    let len = span.end - span.start;
    let left = 1 << (31 - (len - 1).leading_zeros());
    (span.start..span.start + left, span.start + left..span.end)
}

/// The largest subtrees of the tree over `0..lanes` that lie wholly inside `held`, in order.
///
/// A trainer that holds `held` can add these up alone; everything above them needs other trainers.
#[must_use]
pub fn maximal_subtrees(held: Range<u32>, lanes: u32) -> Vec<Range<u32>> {
    fn descend(span: Range<u32>, held: &Range<u32>, out: &mut Vec<Range<u32>>) {
        if span.end <= held.start || held.end <= span.start {
            return;
        }
        if held.start <= span.start && span.end <= held.end {
            out.push(span);
            return;
        }
        let (left, right) = halves(&span);
        descend(left, held, out);
        descend(right, held, out);
    }
    let mut out = Vec::new();
    if !held.is_empty() && lanes > 0 {
        descend(0..lanes, &held, &mut out);
    }
    out
}

/// Adds up the subtree over `span`.
///
/// `known` is asked for each node from the top down and gives the node's sum where it has it; for a single lane it
/// must. `add` adds the right sum to the left. Values are asked for from the lowest lane to the highest.
///
/// # Errors
/// The first error of `known` or `add`.
pub fn sum<T, E>(
    span: Range<u32>,
    known: &mut impl FnMut(&Range<u32>) -> Result<Option<T>, E>,
    add: &mut impl FnMut(T, T) -> Result<T, E>,
) -> Result<T, E> {
    if let Some(value) = known(&span)? {
        return Ok(value);
    }
    assert!(span.end - span.start > 1, "no value for lane {}", span.start);
    let (left, right) = halves(&span);
    let left = sum(left, known, add)?;
    let right = sum(right, known, add)?;
    add(left, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Rank, lanes::lanes_of};
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn shape(span: Range<u32>) -> String {
        sum::<_, Infallible>(
            span,
            &mut |node| Ok((node.len() == 1).then(|| node.start.to_string())),
            &mut |left, right| Ok(format!("({left}+{right})")),
        )
        .unwrap_or_else(|never| match never {})
    }

    #[test]
    fn seven_lanes_are_added_as_a_merkle_tree_over_seven_leaves() {
        assert_eq!(shape(0..7), "(((0+1)+(2+3))+((4+5)+6))");
        assert_eq!(shape(0..1), "0");
        assert_eq!(shape(0..3), "((0+1)+2)");
    }

    #[test]
    fn a_trainer_sums_only_what_lies_wholly_inside_its_lanes() {
        assert_eq!(maximal_subtrees(1..5, 8), vec![1..2, 2..4, 4..5]);
        assert_eq!(maximal_subtrees(0..8, 8), vec![0..8]);
        assert_eq!(maximal_subtrees(3..3, 8), vec![]);
    }

    proptest! {
        #[test]
        fn partials_of_any_world_add_up_in_the_same_order(lanes in 1u32..70, world in 1u32..70) {
            let world = world.min(lanes);
            let mut partials = std::collections::BTreeMap::new();
            for rank in 0..world {
                for subtree in maximal_subtrees(lanes_of(Rank(rank), world, lanes), lanes) {
                    partials.insert((subtree.start, subtree.end), shape(subtree.clone()));
                }
            }
            let whole = sum::<_, Infallible>(
                0..lanes,
                &mut |node| Ok(partials.get(&(node.start, node.end)).cloned()),
                &mut |left, right| Ok(format!("({left}+{right})")),
            ).unwrap_or_else(|never| match never {});
            prop_assert_eq!(whole, shape(0..lanes));
        }
    }
}
