//! How far two samples of losses lie apart: Wasserstein-1 as measured, and by the paper's formula for normal distributions.

/// Wasserstein-1 between the empirical distributions of two samples of any sizes: the area between their distribution
/// functions. Nothing where one is empty or a value is not finite.
#[must_use]
pub fn wasserstein_1(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() || a.iter().chain(b).any(|value| !value.is_finite()) {
        return None;
    }
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(a), sorted(b));
    let (mut i, mut j, mut area) = (0, 0, 0.0);
    let mut at = a[0].min(b[0]);
    while i < a.len() || j < b.len() {
        let next = match (a.get(i), b.get(j)) {
            (Some(&x), Some(&y)) => x.min(y),
            (Some(&x), None) | (None, Some(&x)) => x,
            (None, None) => break,
        };
        let apart = (i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs();
        area += apart * (next - at);
        at = next;
        while a.get(i).is_some_and(|&x| x <= at) {
            i += 1;
        }
        while b.get(j).is_some_and(|&y| y <= at) {
            j += 1;
        }
    }
    Some(area)
}

/// The part of the paper's formula that the spreads have: `c1 + c2 - 2 sqrt(c1 c2)`, of variances.
#[must_use]
pub fn spread_part(c1: f64, c2: f64) -> f64 {
    // The same as (sqrt c1 - sqrt c2)^2, which cannot come out below 0.
    (c1.sqrt() - c2.sqrt()).powi(2)
}

/// Equation 1 of the paper for two normal distributions with these means and variances:
/// `W = sqrt(|m1 - m2|^2 + c1 + c2 - 2 sqrt(c1 c2))`.
#[must_use]
pub fn gaussian(m1: f64, c1: f64, m2: f64, c2: f64) -> f64 {
    ((m1 - m2).powi(2) + spread_part(c1, c2)).sqrt()
}

/// Equation 2 of the paper: `(c1 + c2 - 2 sqrt(c1 c2)) / |m1 - m2|^2`, which is to be constant or to increase. Nothing where the
/// means are the same.
#[must_use]
pub fn ratio(m1: f64, c1: f64, m2: f64, c2: f64) -> Option<f64> {
    let ratio = spread_part(c1, c2) / (m1 - m2).powi(2);
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_distance_of_samples_of_two_sizes_is_scipys() {
        // scipy 1.17.1: stats.wasserstein_distance.
        let a: Vec<f64> = (0..60u32).map(|i| f64::from((i * i * 37 + 11 * i) % 101) / 50.0).collect();
        let b: Vec<f64> = (0..45u32).map(|i| f64::from((i * i * 17 + 5 * i) % 89) / 40.0 + 0.3).collect();
        let distance = wasserstein_1(&a, &b).expect("values");
        assert!((distance - 0.516_111_111_111_111).abs() < 1e-12, "{distance}");
        assert_eq!((wasserstein_1(&a, &[]), wasserstein_1(&a, &[f64::NAN])), (None, None));
    }

    #[test]
    fn the_formula_is_the_papers() {
        // Means 1 and 3, variances 4 and 9: 4 + 4 + 9 - 2 * 6 = 5; the ratio is 1 / 4.
        assert!((gaussian(1.0, 4.0, 3.0, 9.0) - 5.0f64.sqrt()).abs() < 1e-15);
        assert_eq!((ratio(1.0, 4.0, 3.0, 9.0), ratio(1.0, 4.0, 1.0, 9.0)), (Some(0.25), None));
    }

    proptest! {
        #[test]
        fn it_is_symmetric_nothing_for_the_same_and_a_shift_for_a_shift(
            a in prop::collection::vec(-10.0f64..10.0, 1..40),
            b in prop::collection::vec(-10.0f64..10.0, 1..40),
            shift in -5.0f64..5.0,
        ) {
            let distance = |a: &[f64], b: &[f64]| wasserstein_1(a, b).expect("values");
            prop_assert!((distance(&a, &b) - distance(&b, &a)).abs() < 1e-12);
            prop_assert_eq!(distance(&a, &a), 0.0);
            let moved: Vec<f64> = a.iter().map(|value| value + shift).collect();
            prop_assert!((distance(&a, &moved) - shift.abs()).abs() < 1e-9);
        }
    }
}
