//! The scores that need no features: sliced Wasserstein distance and MS-SSIM. `trainer evaluate` gives them among others, and a
//! run scores itself by them.
//!
//! A judgement takes seconds; it can be called off in between, and is an error then.

use anyhow::{Result, anyhow};
use began::score::Metric;
use serde::Serialize;
use tch::{Device, Tensor};

use super::patches::{Level, sliced_wasserstein};
use super::similarity::{Window, diversity};
use crate::collective::CalledOff;

/// Pairs whose similarity is taken, of each set.
const PAIRS: u64 = 1000;

/// Both scores of one set against the real one.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    /// The sliced Wasserstein distance, times 1,000.
    pub sliced_wasserstein: Sliced,
    /// MS-SSIM over pairs.
    pub similarity: Similarity,
}

/// The sliced Wasserstein distance by level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sliced {
    /// Mean over the levels.
    pub mean: f64,
    /// Each level, finest first.
    pub levels: Vec<Level>,
}

/// Mean MS-SSIM over random pairs of each set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Similarity {
    /// Over pairs of the judged images. Above `real`: they are less diverse.
    pub judged: f64,
    /// Over pairs of real images.
    pub real: f64,
    /// Window and levels.
    pub window: Window,
}

/// The real side of a comparison.
#[derive(Debug)]
pub struct PlainJudge {
    real: Tensor,
    real_similarity: f64,
    window: Window,
    seed: u64,
    device: Device,
}

impl PlainJudge {
    /// Of real images, `[N,3,size,size]` bytes on the host.
    ///
    /// # Errors
    /// If there are fewer than two, memory is short, or it is called off.
    pub fn new(real: Tensor, seed: u64, device: Device, called_off: &CalledOff) -> Result<Self> {
        let (_, _, size, _) = real.size4()?;
        let window = Window::of(size);
        let real_similarity = diversity(&real, window, PAIRS, seed, device, called_off)?;
        Ok(Self { real, real_similarity, window, seed, device })
    }

    /// How many images there are, and so how many are to be judged.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.real.size()[0]
    }

    /// Judges as many images, of the same size.
    ///
    /// # Errors
    /// If number or size are others, memory is short, or it is called off.
    pub fn judge(&self, images: &Tensor, called_off: &CalledOff) -> Result<Plain> {
        let levels = sliced_wasserstein(&self.real, images, self.seed, self.device, called_off)?;
        let mean = levels.iter().map(|level| level.distance).sum::<f64>() / levels.len() as f64;
        let judged = diversity(images, self.window, PAIRS, self.seed, self.device, called_off)?;
        Ok(Plain {
            sliced_wasserstein: Sliced { mean, levels },
            similarity: Similarity { judged, real: self.real_similarity, window: self.window },
        })
    }
}

impl Plain {
    /// Each score with its name.
    #[must_use]
    pub fn by_metric(&self) -> Vec<(Metric, f64)> {
        let mut scores = vec![(Metric::SlicedWasserstein, self.sliced_wasserstein.mean)];
        let level = |level: &Level| (Metric::SlicedWassersteinAt(level.size as u32), level.distance);
        scores.extend(self.sliced_wasserstein.levels.iter().map(level));
        scores.extend([(Metric::MsSsim, self.similarity.judged), (Metric::MsSsimReal, self.similarity.real)]);
        scores
    }
}

/// Whether to go on.
///
/// # Errors
/// If it is called off: the reason.
pub(crate) fn still_wanted(called_off: &CalledOff) -> Result<()> {
    called_off.reason().map_or(Ok(()), |reason| Err(anyhow!("called off: {reason}")))
}
