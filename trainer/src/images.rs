//! What is measured of single images beside a lane's losses, for the diagnosis: the loss of each, values out of range,
//! and specks.
//!
//! It only reads: nothing that training computes depends on it, and nothing waits for it. On a GPU it comes to the host
//! behind the losses, in pinned memory.

use anyhow::{Context, Result};
use began::diagnosis::Schedule;
use began::{RunConfig, Step};
use began_proto::v1::LaneImages;
use tch::{Kind, Tensor};

use crate::transfer::to_host;

/// A value is a speck if it is this far from the median of its 3x3 neighbourhood: a quarter of the range of values.
const SPECK: f64 = 0.5;

/// What is measured in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// The loss of each image.
    losses: bool,
    /// Values out of range, and specks.
    pixels: bool,
}

impl Measure {
    /// Nothing.
    pub const NOTHING: Self = Self { losses: false, pixels: false };

    /// As the run's schedule has it for this step.
    #[must_use]
    pub fn in_step(config: &RunConfig, step: Step) -> Self {
        let schedule = Schedule::of(&config.run);
        Self { losses: schedule.measures_losses(step), pixels: schedule.measures_pixels(step) }
    }

    /// Measures real and generated images, each `[B,3,H,W]` with its reconstruction. Nothing if this step is not measured.
    ///
    /// # Errors
    /// If shapes differ or memory is short.
    pub fn images(self, real: (&Tensor, &Tensor), fake: (&Tensor, &Tensor), norm: u32) -> Result<Option<Measured>> {
        if !self.losses {
            return Ok(None);
        }
        tch::no_grad(|| {
            let losses = Tensor::f_cat(&[of_each(real, norm)?, of_each(fake, norm)?], 0)?;
            let (pixels, sizes) = match self.pixels {
                true => pixels(fake.0)?,
                false => (None, (0, 0)),
            };
            Ok(Some(Measured { losses, pixels, sizes }))
        })
    }
}

/// Measurements of one lane.
#[derive(Debug)]
pub struct Measured {
    /// `[2B]`, f32: real, then generated.
    losses: Tensor,
    /// `[2]`: how many values are out of range, how many are specks.
    pixels: Option<Tensor>,
    /// Of how many values each.
    sizes: (u64, u64),
}

impl Measured {
    /// On the way to the host, behind what the current stream holds.
    pub(crate) fn to_host(&self) -> Result<Self> {
        let pixels = self.pixels.as_ref().map(to_host).transpose()?;
        Ok(Self { losses: to_host(&self.losses)?, pixels, sizes: self.sizes })
    }

    /// The measurements, once they are on the host. The lane's number is for others to fill in.
    pub(crate) fn read(self) -> Result<LaneImages> {
        let all = Vec::<f32>::try_from(&self.losses).context("the losses of single images")?;
        let (real, fake) = all.split_at(all.len() / 2);
        let mut images = LaneImages { real: real.to_vec(), fake: fake.to_vec(), ..LaneImages::default() };
        if let Some(pixels) = self.pixels {
            let counts = Vec::<i64>::try_from(&pixels).context("the counts of pixels")?;
            (images.values, images.inner) = self.sizes;
            images.out_of_range = counts.first().map_or(0, |&count| count.max(0) as u64);
            images.specks = counts.get(1).map_or(0, |&count| count.max(0) as u64);
        }
        Ok(images)
    }
}

/// `mean |v - D(v)|^norm` of each image: `[B]`, f32.
fn of_each((v, again): (&Tensor, &Tensor), norm: u32) -> Result<Tensor> {
    let difference = v.f_sub(again)?.f_to_kind(Kind::Float)?;
    let difference = if norm == 2 { difference.f_mul(&difference)? } else { difference.f_abs()? };
    Ok(difference.f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)?)
}

/// How many values are out of range and how many are specks, and of how many.
fn pixels(images: &Tensor) -> Result<(Option<Tensor>, (u64, u64))> {
    let (batch, channels, height, width) = images.size4()?;
    // Half-precision values are told apart as well as they can be in f32.
    let images = images.f_detach()?.f_to_kind(Kind::Float)?;
    let out = images.f_abs()?.f_gt(1.0)?.f_sum(Kind::Int64)?;
    let part = |row: i64, column: i64| images.f_narrow(2, row, height - 2)?.f_narrow(3, column, width - 2);
    let places = (0..9).map(|n| part(n / 3, n % 3)).collect::<Result<Vec<_>, _>>()?;
    let centre = places[4].shallow_clone();
    let specks = centre.f_sub(&median_of_nine(places)?)?.f_abs()?.f_gt(SPECK)?.f_sum(Kind::Int64)?;
    let sizes = (batch * channels * height * width, batch * channels * (height - 2) * (width - 2));
    Ok((Some(Tensor::f_stack(&[out, specks], 0)?), (sizes.0 as u64, sizes.1 as u64)))
}

/// Smith's network of 19 exchanges, of which the middle comes out right: minimum and maximum alone, which every device computes
/// the same way every time, as a selection by index does not.
const EXCHANGES: [(usize, usize); 19] = [
    (1, 2),
    (4, 5),
    (7, 8),
    (0, 1),
    (3, 4),
    (6, 7),
    (1, 2),
    (4, 5),
    (7, 8),
    (0, 3),
    (5, 8),
    (4, 7),
    (3, 6),
    (1, 4),
    (2, 5),
    (4, 7),
    (4, 2),
    (6, 4),
    (4, 2),
];

fn median_of_nine(mut places: Vec<Tensor>) -> Result<Tensor> {
    for (low, high) in EXCHANGES {
        let less = places[low].f_minimum(&places[high])?;
        places[high] = places[low].f_maximum(&places[high])?;
        places[low] = less;
    }
    Ok(places.swap_remove(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const ALL: Measure = Measure { losses: true, pixels: true };

    #[test]
    fn each_image_has_its_own_loss_and_their_mean_is_the_lanes() -> Result<()> {
        let x = Tensor::f_rand([5, 3, 8, 8], (Kind::Float, Device::Cpu))?;
        let again = Tensor::f_rand([5, 3, 8, 8], (Kind::Float, Device::Cpu))?;
        for norm in [1, 2] {
            let measured = ALL.images((&x, &again), (&again, &x), norm)?.context("nothing was measured")?.read()?;
            let lane = crate::step::reconstruction_loss(&x, &again, norm)?.f_double_value(&[])?;
            let mean = measured.real.iter().map(|&loss| f64::from(loss)).sum::<f64>() / 5.0;
            assert!((mean - lane).abs() < 1e-6, "{mean} {lane}");
            assert_eq!(measured.real, measured.fake);
        }
        assert!(Measure::NOTHING.images((&x, &again), (&again, &x), 1)?.is_none());
        Ok(())
    }

    #[test]
    fn a_pixel_far_from_its_neighbours_is_a_speck_and_one_beyond_the_range_is_counted() -> Result<()> {
        let image = Tensor::f_zeros([2, 3, 8, 8], (Kind::Float, Device::Cpu))?;
        let _ = image.f_get(0)?.f_get(1)?.f_get(3)?.f_get(4)?.f_fill_(1.5)?;
        // An edge is no speck: half of the neighbourhood is like it.
        let _ = image.f_get(1)?.f_narrow(1, 0, 4)?.f_fill_(1.0)?;
        let measured = ALL.images((&image, &image), (&image, &image), 1)?.context("nothing was measured")?.read()?;
        assert_eq!((measured.values, measured.inner), (2 * 3 * 64, 2 * 3 * 36));
        assert_eq!((measured.out_of_range, measured.specks), (1, 1));
        Ok(())
    }

    #[test]
    fn the_network_finds_the_median_of_any_nine_values() -> Result<()> {
        let values = Tensor::f_rand([9, 500], (Kind::Float, Device::Cpu))?;
        let places = (0..9).map(|n| values.f_get(n)).collect::<Result<Vec<_>, _>>()?;
        let (expected, _) = values.f_median_dim(0, false)?;
        assert!(median_of_nine(places)?.equal(&expected));
        Ok(())
    }
}
