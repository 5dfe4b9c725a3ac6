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

/// Adds up values in the tree's order as they come.
///
/// Values are pushed from the lowest lane to the highest, each for a node of the tree; whenever two neighbours are the
/// halves of a node they are added. What is left in the end are the maximal subtrees of what was pushed: one value, the
/// whole sum, once all lanes were.
#[derive(Debug)]
pub struct Fold<T> {
    lanes: u32,
    stack: Vec<(Range<u32>, T)>,
}

impl<T> Fold<T> {
    /// An empty sum over `0..lanes`.
    #[must_use]
    pub fn new(lanes: u32) -> Self {
        Self { lanes, stack: Vec::new() }
    }

    /// Adds the value of the node over `span`, which must begin where the last one ended. `add` adds the right to the left.
    ///
    /// # Errors
    /// The first error of `add`.
    pub fn push<E>(&mut self, span: Range<u32>, value: T, mut add: impl FnMut(T, T) -> Result<T, E>) -> Result<(), E> {
        self.stack.push((span, value));
        while let [.., (left, _), (right, _)] = self.stack.as_slice() {
            let whole = left.start..right.end;
            if left.end != right.start || !is_node(&whole, self.lanes) || halves(&whole).0 != *left {
                break;
            }
            let (Some((_, right)), Some((_, left))) = (self.stack.pop(), self.stack.pop()) else { break };
            self.stack.push((whole, add(left, right)?));
        }
        Ok(())
    }

    /// The sums of the maximal subtrees, in order.
    #[must_use]
    pub fn finish(self) -> Vec<(Range<u32>, T)> {
        self.stack
    }
}

/// Whether the tree over `0..lanes` has a node over exactly `span`.
fn is_node(span: &Range<u32>, lanes: u32) -> bool {
    let mut node = 0..lanes;
    while node.start <= span.start && span.end <= node.end {
        if node == *span {
            return true;
        }
        if node.end - node.start < 2 {
            return false;
        }
        let (left, right) = halves(&node);
        node = if span.end <= left.end { left } else { right };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Rank, lanes::lanes_of};
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn join(left: String, right: String) -> Result<String, Infallible> {
        Ok(format!("({left}+{right})"))
    }

    fn partials(held: Range<u32>, lanes: u32) -> Vec<(Range<u32>, String)> {
        let mut fold = Fold::new(lanes);
        for lane in held {
            fold.push(lane..lane + 1, lane.to_string(), join).unwrap_or_else(|never| match never {});
        }
        fold.finish()
    }

    #[test]
    fn seven_lanes_are_added_as_a_merkle_tree_over_seven_leaves() {
        assert_eq!(partials(0..7, 7), [(0..7, "(((0+1)+(2+3))+((4+5)+6))".into())]);
        assert_eq!(partials(0..1, 1), [(0..1, "0".into())]);
        assert_eq!(partials(0..3, 3), [(0..3, "((0+1)+2)".into())]);
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
            let mut owner = Fold::new(lanes);
            for rank in 0..world {
                let held = lanes_of(Rank(rank), world, lanes);
                let sums = partials(held.clone(), lanes);
                let spans: Vec<_> = sums.iter().map(|(span, _)| span.clone()).collect();
                prop_assert_eq!(spans, maximal_subtrees(held, lanes));
                for (span, sum) in sums {
                    owner.push(span, sum, join).unwrap_or_else(|never| match never {});
                }
            }
            prop_assert_eq!(owner.finish(), partials(0..lanes, lanes));
        }
    }
}
