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
