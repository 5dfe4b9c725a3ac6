//! Judging: what sets of images have to do with each other, in numbers.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`images`] | the sets: prepared data, a folder, a generator |
//! | [`patches`] | sliced Wasserstein distance between patches, level by level |
//! | [`similarity`] | MS-SSIM between pairs of one set: diversity |
//! | [`features`], [`efficientnet`] | what turns images into the numbers that the rest compares |
//! | [`plain`] | the two of them, which need no features: what a run scores itself by |
//! | [`neighbours`] | precision, recall, density, coverage |
//! | [`mod@kernel_distance`] | KID |
//! | [`frechet`] | FID |
//! | [`draw`] | what all of it draws at random |
//!
//! Every score is a function of the two sets, the features and the seed.

pub mod draw;
pub mod efficientnet;
pub mod features;
pub mod frechet;
pub mod images;
pub mod kernel_distance;
pub mod neighbours;
pub mod patches;
pub mod plain;
pub mod similarity;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tch::{Device, Tensor};

use crate::collective::CalledOff;
use features::Features;
use kernel_distance::{KernelDistance, kernel_distance};
use neighbours::{Neighbourhood, neighbourhood};
use plain::{Plain, PlainJudge, Similarity, Sliced};

/// The neighbour that balls reach to.
pub const NEIGHBOUR: i64 = 3;
/// Subsets for KID.
const SUBSETS: u32 = 50;

/// The scores of one set against the real one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Images of each kind.
    pub count: i64,
    /// Their height and width.
    pub size: i64,
    /// The seed of all that was drawn.
    pub seed: u64,
    /// Which features the scores below `similarity` are of.
    pub features: String,
    /// The sliced Wasserstein distance, times 1,000.
    pub sliced_wasserstein: Sliced,
    /// MS-SSIM over pairs.
    pub similarity: Similarity,
    /// Precision and recall, density and coverage.
    pub neighbourhood: Neighbourhood,
    /// KID.
    pub kernel_distance: KernelDistance,
    /// FID, which depends on `count`.
    pub frechet_distance: f64,
}

/// The real side of a comparison: images and their features, computed once.
#[derive(Debug)]
pub struct Judge<'a> {
    features: &'a Features,
    real_features: Tensor,
    plain: PlainJudge,
    seed: u64,
}

impl<'a> Judge<'a> {
    /// Of real images, `[N,3,size,size]` bytes on the host.
    ///
    /// # Errors
    /// If there are too few, or the features do not take them.
    pub fn new(
        real: Tensor,
        features: &'a Features,
        seed: u64,
        device: Device,
        progress: impl FnMut(i64),
    ) -> Result<Self> {
        let (count, ..) = real.size4()?;
        ensure!(count > NEIGHBOUR, "scores need more than {NEIGHBOUR} images of each kind, there are {count}");
        let real_features = features.of(&real, progress).context("real images")?;
        Ok(Self { features, real_features, plain: PlainJudge::new(real, seed, device, &CalledOff::new())?, seed })
    }

    /// Judges as many images, of the same size.
    ///
    /// # Errors
    /// If number or size are others, or memory is short.
    pub fn judge(&self, images: &Tensor, progress: impl FnMut(i64)) -> Result<Scores> {
        let (count, _, size, _) = images.size4()?;
        let seed = self.seed;
        let Plain { sliced_wasserstein, similarity } = self.plain.judge(images, &CalledOff::new())?;
        let features = self.features.of(images, progress)?;
        Ok(Scores {
            count,
            size,
            seed,
            features: self.features.name.clone(),
            sliced_wasserstein,
            similarity,
            neighbourhood: neighbourhood(&self.real_features, &features, NEIGHBOUR)?,
            kernel_distance: kernel_distance(&self.real_features, &features, SUBSETS, seed)?,
            frechet_distance: frechet::frechet_distance(&self.real_features, &features)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Made-up faces for tests.

    use super::*;
    use tch::Kind;

    /// `[count,3,size,size]` bytes.
    pub fn faces(count: u64, seed: u64, size: u32) -> Result<Tensor> {
        // As in every command; more threads than free cores wait for each other.
        tch::set_num_threads(1);
        let mut pixels = Vec::new();
        for index in 0..count {
            let face = began_data::faces::face(seed, index, size);
            pixels.extend_from_slice(face.as_raw());
        }
        let side = i64::from(size);
        let images = Tensor::f_from_data_size(&pixels, &[count as i64, side, side, 3], Kind::Uint8)?;
        Ok(images.f_permute([0, 3, 1, 2])?.f_contiguous()?)
    }
}

#[cfg(test)]
mod tests;
