//! Mean, spread, skewness and kurtosis of a sample, and whether a normal distribution could have given it.

/// Values below which a test of normality says nothing (its approximation is good from 20 on).
pub const FEWEST: usize = 20;

/// The moments of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// How many values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (of the sample itself: divided by n).
    pub std: f64,
    /// `m3 / m2^1.5`; 0 of a normal distribution. Nothing where all values are the same.
    pub skewness: Option<f64>,
    /// `m4 / m2^2 - 3`; 0 of a normal distribution. Nothing where all values are the same.
    pub kurtosis: Option<f64>,
}

impl Moments {
    /// Of a sample, in its order; nothing of an empty one.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let [mut m2, mut m3, mut m4] = [0.0; 3];
        for value in values {
            let d = value - mean;
            (m2, m3, m4) = (m2 + d * d, m3 + d * d * d, m4 + d * d * d * d);
        }
        (m2, m3, m4) = (m2 / n, m3 / n, m4 / n);
        // Rounding alone spreads equal values by about this much.
        let spread = m2.sqrt() > 1e-12 * mean.abs() && m2 > 0.0;
        Some(Self {
            count: values.len(),
            mean,
            std: m2.sqrt(),
            skewness: spread.then(|| m3 / m2.powf(1.5)),
            kurtosis: spread.then(|| m4 / (m2 * m2) - 3.0),
        })
    }

    /// D'Agostino and Pearson's K^2: how probable a skewness and kurtosis at least as unusual together are in a sample of this size
    /// from a normal distribution. Nothing below [`FEWEST`] values, or where all are the same.
    #[must_use]
    pub fn normality(&self) -> Option<f64> {
        if self.count < FEWEST {
            return None;
        }
        let n = self.count as f64;
        let (z1, z2) = (skewness_score(self.skewness?, n), kurtosis_score(self.kurtosis?, n));
        // The tail of chi-squared with two degrees of freedom.
        Some((-(z1 * z1 + z2 * z2) / 2.0).exp())
    }
}

/// D'Agostino (1970): a skewness as a standard normal score.
fn skewness_score(skewness: f64, n: f64) -> f64 {
    let y = skewness * ((n + 1.0) * (n + 3.0) / (6.0 * (n - 2.0))).sqrt();
    let beta2 =
        3.0 * (n * n + 27.0 * n - 70.0) * (n + 1.0) * (n + 3.0) / ((n - 2.0) * (n + 5.0) * (n + 7.0) * (n + 9.0));
    let w2 = -1.0 + (2.0 * (beta2 - 1.0)).sqrt();
    let delta = 1.0 / (0.5 * w2.ln()).sqrt();
    let alpha = (2.0 / (w2 - 1.0)).sqrt();
    delta * (y / alpha).asinh()
}

/// Anscombe and Glynn (1983): an excess kurtosis as a standard normal score.
fn kurtosis_score(kurtosis: f64, n: f64) -> f64 {
    let expected = 3.0 * (n - 1.0) / (n + 1.0);
    let variance = 24.0 * n * (n - 2.0) * (n - 3.0) / ((n + 1.0) * (n + 1.0) * (n + 3.0) * (n + 5.0));
    let x = (kurtosis + 3.0 - expected) / variance.sqrt();
    let root_beta1 = 6.0 * (n * n - 5.0 * n + 2.0) / ((n + 7.0) * (n + 9.0))
        * (6.0 * (n + 3.0) * (n + 5.0) / (n * (n - 2.0) * (n - 3.0))).sqrt();
    let a = 6.0 + 8.0 / root_beta1 * (2.0 / root_beta1 + (1.0 + 4.0 / (root_beta1 * root_beta1)).sqrt());
    let denominator = 1.0 + x * (2.0 / (a - 4.0)).sqrt();
    if denominator == 0.0 {
        return f64::INFINITY;
    }
    let term = denominator.signum() * ((1.0 - 2.0 / a) / denominator.abs()).cbrt();
    (1.0 - 2.0 / (9.0 * a) - term) / (2.0 / (9.0 * a)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_the_test_are_scipys() {
        // scipy 1.17.1: numpy.mean, numpy.std, stats.skew, stats.kurtosis, stats.normaltest.
        let values: Vec<f64> = (0..60u32).map(|i| f64::from((i * i * 37 + 11 * i) % 101) / 50.0).collect();
        let cubes: Vec<f64> = values.iter().map(|value| value.powi(3)).collect();
        let near = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-12 * b.abs().max(1.0));
        let moments = Moments::of(&values).expect("values");
        assert!(near(Some(moments.mean), 0.951_666_666_666_666_8) && near(Some(moments.std), 0.524_827_484_883_260_4));
        assert!(near(moments.skewness, -0.107_890_155_881_608_27) && near(moments.kurtosis, -1.008_007_348_443_662));
        assert!(near(moments.normality(), 0.026_445_381_734_713_582));
        let moments = Moments::of(&cubes).expect("values");
        assert!(near(moments.skewness, 1.321_318_846_941_944_3) && near(moments.kurtosis, 1.316_455_078_474_312_8));
        assert!(near(moments.normality(), 0.000_118_781_236_969_948_1));
    }

    #[test]
    fn of_few_or_equal_values_normality_is_not_told() {
        assert_eq!(Moments::of(&[]), None);
        let equal = Moments::of(&[0.1; 50]).expect("values");
        assert_eq!((equal.skewness, equal.normality()), (None, None));
        assert_eq!(Moments::of(&[1.0, 2.0, 4.0]).and_then(|few| few.normality()), None);
    }
}
