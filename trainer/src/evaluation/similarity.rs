//! MS-SSIM, the multi-scale structural similarity of pairs of images (Wang et al., 2003): 1 for the same image twice.
//!
//! Its mean over random pairs of generated images, beside that over pairs of real ones, tells of diversity: a generator that
//! draws few different images has the higher one. It says nothing of how good the images are.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::draw::{Use, below, stream};
use super::plain::still_wanted;
use crate::collective::CalledOff;

/// How much each level counts, finest first.
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];
/// Pairs that are computed at a time.
const CHUNK: i64 = 64;

/// How the similarity is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    /// Height and width of the Gaussian window, in pixels.
    pub side: i64,
    /// Levels; the weights of those that are there are brought to a sum of 1.
    pub levels: usize,
}

impl Window {
    /// What is usual where the image has room for it: 11 pixels from 256 on, 7 below, at most five levels, and no level
    /// smaller than the window.
    #[must_use]
    pub fn of(size: i64) -> Self {
        let side = if size >= 256 { 11 } else { 7 };
        let fits = |levels: &usize| size > (side - 1) << (levels - 1);
        Self { side, levels: (1..=WEIGHTS.len()).take_while(fits).last().unwrap_or(1) }
    }
}

/// The similarity of each of `a` with its counterpart in `b`, `[B,3,H,W]` from 0 to 255: `[B]`.
///
/// # Errors
/// If an image is too small for the window at some level, or shapes differ.
pub fn ms_ssim(a: &Tensor, b: &Tensor, window: Window) -> Result<Tensor> {
    let (_, _, height, width) = a.size4()?;
    let levels = window.levels.clamp(1, WEIGHTS.len());
    let least = (window.side - 1) << (levels - 1);
    ensure!(
        height.min(width) > least,
        "MS-SSIM with a window of {} over {levels} levels needs images larger than {least} px, these are {height}x{width}",
        window.side
    );
    let total: f64 = WEIGHTS[..levels].iter().sum();
    let kernel = gaussian(window.side, a.kind(), a.device())?;
    let (mut a, mut b) = (a.shallow_clone(), b.shallow_clone());
    let mut product: Option<Tensor> = None;
    for (level, weight) in WEIGHTS[..levels].iter().enumerate() {
        let (whole, contrast) = ssim(&a, &b, &kernel)?;
        let last = level + 1 == levels;
        let factor = if last { whole } else { contrast };
        let factor = factor.f_relu()?.f_pow_tensor_scalar(weight / total)?;
        product = Some(match product {
            Some(product) => product.f_mul(&factor)?,
            None => factor,
        });
        if !last {
            let halved = |x: &Tensor| {
                let (_, _, height, width) = x.size4()?;
                x.f_avg_pool2d([2, 2], [2, 2], [height % 2, width % 2], false, true, None)
            };
            (a, b) = (halved(&a)?, halved(&b)?);
        }
    }
    let product = product.unwrap_or_default();
    Ok(product.f_mean_dim([1i64].as_slice(), false, product.kind())?)
}

fn gaussian(side: i64, kind: Kind, device: Device) -> Result<Tensor> {
    let sigma = 1.5;
    let line: Vec<f64> = (0..side).map(|i| (-((i - side / 2) as f64).powi(2) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f64 = line.iter().sum();
    let line: Vec<f64> = line.iter().map(|value| value / sum).collect();
    Ok(Tensor::f_from_slice(&line)?.f_to_kind(kind)?.f_to_device(device)?)
}

/// Structural similarity, and its part that is contrast and structure, each averaged over an image's channel: `[B,3]`.
fn ssim(a: &Tensor, b: &Tensor, kernel: &Tensor) -> Result<(Tensor, Tensor)> {
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let side = kernel.size()[0];
    let rows = kernel.f_view([1, 1, side, 1])?.f_repeat([3, 1, 1, 1])?;
    let columns = kernel.f_view([1, 1, 1, side])?.f_repeat([3, 1, 1, 1])?;
    let smooth = |x: &Tensor| -> Result<Tensor> {
        let x = x.f_conv2d(&rows, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 3)?;
        Ok(x.f_conv2d(&columns, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 3)?)
    };
    let (mean_a, mean_b) = (smooth(a)?, smooth(b)?);
    let (aa, bb, ab) = (mean_a.f_square()?, mean_b.f_square()?, mean_a.f_mul(&mean_b)?);
    let variance_a = smooth(&a.f_square()?)?.f_sub(&aa)?;
    let variance_b = smooth(&b.f_square()?)?.f_sub(&bb)?;
    let covariance = smooth(&a.f_mul(b)?)?.f_sub(&ab)?;
    let quotient = |above: &Tensor, below: Tensor, c: f64| -> Result<Tensor> {
        Ok(above.f_mul_scalar(2.0)?.f_add_scalar(c)?.f_div(&below.f_add_scalar(c)?)?)
    };
    let contrast = quotient(&covariance, variance_a.f_add(&variance_b)?, c2)?;
    let whole = quotient(&ab, aa.f_add(&bb)?, c1)?.f_mul(&contrast)?;
    let average = |x: &Tensor| x.f_mean_dim([2i64, 3].as_slice(), false, x.kind());
    Ok((average(&whole)?, average(&contrast)?))
}

/// The mean similarity of `pairs` random pairs of different images of a set, `[N,3,H,W]` bytes.
///
/// # Errors
/// If there are fewer than two images, memory is short, or it is called off.
pub fn diversity(
    images: &Tensor,
    window: Window,
    pairs: u64,
    seed: u64,
    device: Device,
    called_off: &CalledOff,
) -> Result<f64> {
    let count = images.size()[0] as u64;
    ensure!(count >= 2, "pairs need at least two images, there is {count}");
    let drawn = stream(seed, Use::Pairs, 0);
    let pair = |n: u64| {
        let first = below(&drawn, 2 * n, count);
        // Any of the others.
        (first as i64, ((first + 1 + below(&drawn, 2 * n + 1, count - 1)) % count) as i64)
    };
    let (first, second): (Vec<i64>, Vec<i64>) = (0..pairs).map(pair).unzip();
    let mut sum = 0.0;
    for (first, second) in first.chunks(CHUNK as usize).zip(second.chunks(CHUNK as usize)) {
        still_wanted(called_off)?;
        let of = |index: &[i64]| -> Result<Tensor> {
            let chosen = images.f_index_select(0, &Tensor::f_from_slice(index)?)?;
            Ok(chosen.f_to_device(device)?.f_to_kind(Kind::Float)?)
        };
        sum += f64::try_from(ms_ssim(&of(first)?, &of(second)?, window)?.f_sum(Kind::Double)?)?;
    }
    Ok(sum / pairs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::testing::faces;

    #[test]
    fn levels_are_as_many_as_the_image_has_room_for() {
        let levels = |size| (Window::of(size).side, Window::of(size).levels);
        assert_eq!([16, 32, 64, 128, 256, 512].map(levels), [(7, 2), (7, 3), (7, 4), (7, 5), (11, 5), (11, 5)]);
    }

    #[test]
    fn one_image_all_over_has_similarity_1_and_different_faces_have_less() -> Result<()> {
        let images = faces(40, 1, 32)?;
        let window = Window::of(32);
        let same = images.f_narrow(0, 0, 1)?.f_repeat([40, 1, 1, 1])?;
        assert!((diversity(&same, window, 50, 1, Device::Cpu, &CalledOff::new())? - 1.0).abs() < 1e-5);
        assert!(diversity(&images, window, 50, 1, Device::Cpu, &CalledOff::new())? < 0.7);
        assert!(ms_ssim(&images, &images, Window { side: 11, levels: 5 }).is_err());
        Ok(())
    }
}
