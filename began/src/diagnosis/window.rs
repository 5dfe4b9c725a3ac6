//! Everything about one window of steps, as a row of `run.db` keeps it.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::distance::{gaussian, ratio, wasserstein_1};
use super::moments::Moments;
use crate::StepRecord;

/// Bins of a histogram.
pub const BINS: usize = 40;

/// What is known of one lane's images in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LaneSample {
    /// The loss of each real image.
    pub real: Vec<f32>,
    /// The loss of each generated image.
    pub fake: Vec<f32>,
    /// Values in the generated images; 0 where they were not looked at.
    pub values: u64,
    /// How many of them are out of range.
    pub out_of_range: u64,
    /// Values with a whole neighbourhood.
    pub inner: u64,
    /// How many of them are specks.
    pub specks: u64,
}

/// What is known of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSample {
    /// Losses, k, rate, M.
    pub record: Option<StepRecord>,
    /// By lane.
    pub lanes: BTreeMap<u32, LaneSample>,
    /// Of the samples drawn in the state of this step.
    pub diversity: Option<f64>,
}

/// One window: what was measured in the steps `from..to`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The first step.
    pub from: u64,
    /// The first step that is not in it any more.
    pub to: u64,
    /// Losses of real images.
    pub real: Distribution,
    /// Losses of generated images.
    pub fake: Distribution,
    /// Wasserstein-1 between the two, as measured.
    pub wasserstein: Option<f64>,
    /// The same by the paper's formula for normal distributions.
    pub wasserstein_gaussian: Option<f64>,
    /// `(c1 + c2 - 2 sqrt(c1 c2)) / |m1 - m2|^2`.
    pub ratio: Option<f64>,
    /// How often L(x) and L(G(z)) changed places from one step to the next.
    pub crossings: Option<u64>,
    /// How often gamma L(x) and L(G(z)) did.
    pub gamma_crossings: Option<u64>,
    /// Share of the steps with k at 0.
    pub k_at_0: Option<f64>,
    /// Share of the steps with k at 1.
    pub k_at_1: Option<f64>,
    /// Share of the generated values that lie outside [-1, 1].
    pub out_of_range: Option<f64>,
    /// Share of the generated values that are far from their 3x3 median.
    pub specks: Option<f64>,
    /// Mean distance between samples of fixed noise over that between real images, where samples were drawn.
    pub diversity: Option<f64>,
}

/// The losses of single images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many were measured.
    pub count: usize,
    /// Their mean.
    pub mean: Option<f64>,
    /// Their standard deviation.
    pub std: Option<f64>,
    /// Their skewness.
    pub skewness: Option<f64>,
    /// Their excess kurtosis.
    pub kurtosis: Option<f64>,
    /// See [`Moments::normality`].
    pub normality_p: Option<f64>,
    /// How they are spread.
    pub histogram: Option<Histogram>,
}

/// Counts in [`BINS`] bins of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Where the first bin begins.
    pub low: f64,
    /// Where the last one ends.
    pub high: f64,
    /// How many values lie in each.
    pub counts: Vec<u64>,
}

impl Distribution {
    /// Of a sample.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let Some(moments) = Moments::of(values) else { return Self::default() };
        Self {
            count: moments.count,
            mean: Some(moments.mean),
            std: Some(moments.std),
            skewness: moments.skewness,
            kurtosis: moments.kurtosis,
            normality_p: moments.normality(),
            histogram: Histogram::of(values),
        }
    }
}

impl Histogram {
    fn of(values: &[f64]) -> Option<Self> {
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        let width = high - low;
        let mut counts = vec![0; BINS];
        for value in values {
            let bin = if width > 0.0 { ((value - low) / width * BINS as f64) as usize } else { 0 };
            counts[bin.min(BINS - 1)] += 1;
        }
        Some(Self { low, high, counts })
    }
}

impl Window {
    /// Sums up the steps of a window; `steps` may lack some, and hold others.
    #[must_use]
    pub fn of(range: Range<u64>, gamma: f64, steps: &BTreeMap<u64, StepSample>) -> Self {
        let inside = || steps.range(range.clone()).map(|(_, sample)| sample);
        let losses = |of: fn(&LaneSample) -> &[f32]| -> Vec<f64> {
            let images = inside().flat_map(|step| step.lanes.values()).flat_map(of);
            // What is not finite ends a run by other means.
            images.map(|&loss| f64::from(loss)).filter(|loss| loss.is_finite()).collect()
        };
        let (real, fake) = (losses(|lane| &lane.real), losses(|lane| &lane.fake));
        let records: Vec<&StepRecord> = inside().filter_map(|step| step.record.as_ref()).collect();
        let share = |bound: f64| {
            let at = records.iter().filter(|record| record.k == bound).count();
            (!records.is_empty()).then(|| at as f64 / records.len() as f64)
        };
        let crossings = |gap: &dyn Fn(&StepRecord) -> f64| (records.len() > 1).then(|| crossings(&records, gap));
        let part = |count: fn(&LaneSample) -> u64, of: fn(&LaneSample) -> u64| {
            let lanes = || inside().flat_map(|step| step.lanes.values());
            let all: u64 = lanes().map(of).sum();
            (all > 0).then(|| lanes().map(count).sum::<u64>() as f64 / all as f64)
        };
        let mut window = Self {
            from: range.start,
            to: range.end,
            wasserstein: wasserstein_1(&real, &fake),
            crossings: crossings(&|record| record.real - record.fake),
            gamma_crossings: crossings(&|record| gamma * record.real - record.fake),
            k_at_0: share(0.0),
            k_at_1: share(1.0),
            out_of_range: part(|lane| lane.out_of_range, |lane| lane.values),
            specks: part(|lane| lane.specks, |lane| lane.inner),
            diversity: inside().filter_map(|step| step.diversity).next_back(),
            real: Distribution::of(&real),
            fake: Distribution::of(&fake),
            ..Self::default()
        };
        if let (Some(m1), Some(s1), Some(m2), Some(s2)) =
            (window.real.mean, window.real.std, window.fake.mean, window.fake.std)
        {
            window.wasserstein_gaussian = Some(gaussian(m1, s1 * s1, m2, s2 * s2));
            window.ratio = ratio(m1, s1 * s1, m2, s2 * s2);
        }
        window
    }
}

/// How often a gap changes its sign from one step to the next one there is.
fn crossings(records: &[&StepRecord], gap: &dyn Fn(&StepRecord) -> f64) -> u64 {
    let signs = records.iter().map(|record| gap(record)).filter(|gap| *gap != 0.0).map(|gap| gap > 0.0);
    let mut last = None;
    signs.fold(0, |count, sign| count + u64::from(last.replace(sign).is_some_and(|before| before != sign)))
}
