//! The average of G's weights over the steps: how fast it forgets.
//!
//! `average = d average + (1 - d) G` after every step. G's weights swing around where they are going; their average swings less, and
//! commonly draws better images. It starts as a copy of G's initial weights, which are noise: with `d` from the first step on it would
//! carry `d^t` of that noise after t steps (0.999: a third of it after 1,000). So it forgets faster at first.

/// The decay of update number `count`, the first being 1: `min(most, (1 + count) / (10 + count))`.
///
/// Until `most` takes over (at about 9 / (1 - most) steps), it reaches over about the last ninth of the steps there are. The initial
/// weights count for `10! / ((t + 2) ... (t + 10))` after t steps, 2e-12 after 100: nothing is left to correct. A function of
/// the two numbers alone, so that every trainer has the same, and a resumed run too.
#[must_use]
pub fn decay(most: f64, count: u64) -> f64 {
    let count = count as f64;
    most.min((1.0 + count) / (10.0 + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_fast_at_first_and_never_faster_than_the_configured_decay_in_the_end() {
        assert_eq!(decay(0.999, 1), 2.0 / 11.0);
        assert_eq!(decay(0.5, 8), 0.5);
        assert_eq!(decay(0.999, 1_000_000), 0.999);
        let decays: Vec<f64> = (1..20_000).map(|count| decay(0.999, count)).collect();
        assert!(decays.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn of_the_initial_weights_nothing_is_left_after_a_hundred_steps() {
        let left: f64 = (1..=100).map(|count| decay(0.9999, count)).product();
        assert!(left < 1e-11, "{left}");
    }
}
