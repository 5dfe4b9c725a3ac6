//! The sliced Wasserstein distance between small patches of two sets of images, level by level of a Laplacian pyramid
//! (Karras et al., "Progressive growing of GANs", 2018, section 5 and appendix A.1).
//!
//! 128 patches of 7x7 pixels an image, each channel of all of them brought to mean 0 and deviation 1, projected on 512
//! directions; in each direction the distance between two sets of numbers is the mean difference of the sorted ones. A coarse
//! level tells of shapes and colours, a fine one of texture and sharpness. Given times 1,000, as in that paper.

use anyhow::{Result, ensure};
use began::random::Stream;
use tch::{Device, Kind, Tensor};

use super::draw::{Use, below, normal, stream};
use super::plain::still_wanted;
use crate::collective::CalledOff;

/// Height and width of a patch.
const SIDE: i64 = 7;
/// Patches of one image at one level.
const PATCHES: i64 = 128;
/// Directions, and how many are computed at a time.
const DIRECTIONS: i64 = 512;
/// What they are drawn from, whatever the seed of a score.
const DIRECTED: u64 = 0;
const AT_ONCE: i64 = 128;
/// The smallest level.
const SMALLEST: i64 = 16;
/// Images taken through the pyramid at a time.
const CHUNK: i64 = 64;

/// The distance at one level.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Level {
    /// Height and width of the level, in pixels.
    pub size: i64,
    /// The distance, times 1,000.
    pub distance: f64,
}

/// The distance of each level between as many images of both sets, finest first: `[N,3,size,size]` bytes each.
///
/// # Errors
/// If the sets are not alike in size and number, memory is short, or it is called off.
pub fn sliced_wasserstein(
    real: &Tensor,
    other: &Tensor,
    seed: u64,
    device: Device,
    called_off: &CalledOff,
) -> Result<Vec<Level>> {
    ensure!(real.size() == other.size(), "sets of {:?} and {:?} cannot be compared", real.size(), other.size());
    let (_, _, size, _) = real.size4()?;
    let mut out = Vec::new();
    let mut level = 0;
    while size >> level >= SMALLEST {
        // Each set has patches of its own: the same places would make a set and its copy closer than any two samples are.
        let a = descriptors(real, level, &stream(seed, Use::Patches, 2 * level as u32), device)?;
        let b = descriptors(other, level, &stream(seed, Use::Patches, 2 * level as u32 + 1), device)?;
        let directions = directions(&stream(DIRECTED, Use::Directions, level as u32), device)?;
        out.push(Level { size: size >> level, distance: 1e3 * distance(&a, &b, &directions, called_off)? });
        level += 1;
    }
    Ok(out)
}

/// Directions as columns of length 1: `[147, 512]`. They come in whole bases, each drawn at random and at right angles in itself,
/// so that no part of the space is looked at more than another by chance. They are the same for every seed: what directions are drawn
/// moves a distance by some per cent, and two models are to be compared along the same ones.
fn directions(stream: &Stream, device: Device) -> Result<Tensor> {
    let width = 3 * SIDE * SIDE;
    let bases = (DIRECTIONS + width - 1) / width;
    let drawn = normal(stream, &[bases, width, width], Device::Cpu)?;
    let bases: Vec<Tensor> = (0..bases)
        .map(|base| Ok(Tensor::f_linalg_qr(&drawn.f_select(0, base)?, "reduced")?.0))
        .collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&bases, 1)?.f_narrow(1, 0, DIRECTIONS)?.f_to_device(device)?)
}

/// Patches at one level, each a row: `[N*128, 147]`, normalised by channel.
fn descriptors(images: &Tensor, level: i64, stream: &Stream, device: Device) -> Result<Tensor> {
    let count = images.size()[0];
    let mut parts = Vec::new();
    for start in (0..count).step_by(CHUNK as usize) {
        let part = images.f_narrow(0, start, CHUNK.min(count - start))?;
        let part = part.f_to_device(device)?.f_to_kind(Kind::Float)?;
        parts.push(patches(&laplacian(&part, level)?, stream, start)?);
    }
    let all = Tensor::f_cat(&parts, 0)?.f_view([-1, 3, SIDE * SIDE])?;
    let over = [0i64, 2];
    let mean = all.f_mean_dim(over.as_slice(), true, Kind::Float)?;
    let centred = all.f_sub(&mean)?;
    let deviation = centred.f_square()?.f_mean_dim(over.as_slice(), true, Kind::Float)?.f_sqrt()?;
    // Where nothing differs at all there is nothing to bring to one scale.
    let scaled = centred.f_div(&deviation.f_clamp_min(1e-6)?)?;
    Ok(scaled.f_view([-1, 3 * SIDE * SIDE])?)
}

/// Level `level` of the Laplacian pyramid of `[B,3,H,W]`; the last one there is keeps what is left.
fn laplacian(images: &Tensor, level: i64) -> Result<Tensor> {
    let mut now = images.shallow_clone();
    for _ in 0..level {
        now = down(&now)?;
    }
    if now.size()[2] / 2 < SMALLEST {
        return Ok(now);
    }
    Ok(now.f_sub(&up(&down(&now)?)?)?)
}

/// The binomial kernel 1 4 6 4 1 over rows and columns, its sum being `sum`.
fn binomial(sum: f64, device: Device) -> Result<Tensor> {
    let line = Tensor::f_from_slice(&[1f32, 4., 6., 4., 1.])?.f_to_device(device)?;
    Ok(line.f_outer(&line)?.f_mul_scalar(sum / 256.0)?.f_view([1, 1, 5, 5])?.f_repeat([3, 1, 1, 1])?)
}

fn blur(images: &Tensor, sum: f64, stride: i64) -> Result<Tensor> {
    let padded = images.f_reflection_pad2d([2, 2, 2, 2])?;
    let kernel = binomial(sum, images.device())?;
    Ok(padded.f_conv2d(&kernel, None::<&Tensor>, [stride, stride], [0, 0], [1, 1], 3)?)
}

fn down(images: &Tensor) -> Result<Tensor> {
    blur(images, 1.0, 2)
}

fn up(images: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = images.size4()?;
    let spread = Tensor::f_zeros([batch, channels, height, 2, width, 2], (Kind::Float, images.device()))?;
    spread.f_select(3, 0)?.f_select(4, 0)?.f_copy_(images)?;
    blur(&spread.f_view([batch, channels, 2 * height, 2 * width])?, 4.0, 1)
}

/// 128 patches of each of `[B,3,S,S]` at drawn places: `[B*128, 3*49]`. `first` numbers the first image.
fn patches(images: &Tensor, stream: &Stream, first: i64) -> Result<Tensor> {
    let (batch, _, size, _) = images.size4()?;
    let places = size - SIDE + 1;
    let mut corners = Vec::with_capacity((batch * PATCHES) as usize);
    for image in 0..batch {
        for patch in 0..PATCHES {
            let number = ((first + image) * PATCHES + patch) as u64;
            let place = |n: u64| below(stream, 2 * number + n, places as u64) as i64;
            corners.push((image * 3 * size + place(0)) * size + place(1));
        }
    }
    let mut offsets = Vec::with_capacity((3 * SIDE * SIDE) as usize);
    for channel in 0..3 {
        for row in 0..SIDE {
            offsets.extend((0..SIDE).map(|column| (channel * size + row) * size + column));
        }
    }
    let corners = Tensor::f_from_slice(&corners)?.f_view([-1, 1])?;
    let index = corners.f_add(&Tensor::f_from_slice(&offsets)?.f_view([1, -1])?)?.f_to_device(images.device())?;
    Ok(images.f_contiguous()?.f_take(&index)?)
}

/// The mean distance of two sets of rows over all directions, which are columns.
fn distance(a: &Tensor, b: &Tensor, directions: &Tensor, called_off: &CalledOff) -> Result<f64> {
    let mut sum = 0.0;
    for start in (0..DIRECTIONS).step_by(AT_ONCE as usize) {
        still_wanted(called_off)?;
        let part = directions.f_narrow(1, start, AT_ONCE)?.f_transpose(0, 1)?;
        let sorted = |rows: &Tensor| sorted_rows(&part.f_matmul(&rows.f_transpose(0, 1)?)?);
        let apart = sorted(a)?.f_sub(&sorted(b)?)?.f_abs()?;
        sum += f64::try_from(apart.f_mean(Kind::Double)?)? * AT_ONCE as f64;
    }
    Ok(sum / DIRECTIONS as f64)
}

/// Each row in ascending order.
fn sorted_rows(rows: &Tensor) -> Result<Tensor> {
    if rows.device() != Device::Cpu {
        return Ok(rows.f_sort(1, false)?.0);
    }
    // libtorch's sort carries indices along, and compares; this takes a fifth of its time.
    let width = rows.size()[1] as usize;
    let mut values = Vec::<f32>::try_from(rows.f_contiguous()?.f_view(-1)?)?;
    let (mut keys, mut spare) = (vec![0u32; width], vec![0u32; width]);
    for row in values.chunks_mut(width) {
        for (key, value) in keys.iter_mut().zip(&*row) {
            let bits = value.to_bits();
            *key = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        }
        sort_keys(&mut keys, &mut spare);
        for (value, &key) in row.iter_mut().zip(&keys) {
            *value = f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key });
        }
    }
    Ok(Tensor::f_from_slice(&values)?.f_view(rows.size().as_slice())?)
}

/// Sorts by eleven bits at a time, the lowest first; `spare` is as long.
fn sort_keys(keys: &mut Vec<u32>, spare: &mut Vec<u32>) {
    for shift in [0, 11, 22] {
        let digit = |key: u32| (key >> shift) as usize & 0x7ff;
        let mut places = [0usize; 1 << 11];
        for &key in &*keys {
            places[digit(key)] += 1;
        }
        let mut next = 0;
        for place in &mut places {
            next += std::mem::replace(place, next);
        }
        for &key in &*keys {
            let place = &mut places[digit(key)];
            spare[*place] = key;
            *place += 1;
        }
        std::mem::swap(keys, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::testing::faces;

    #[test]
    fn a_set_is_closer_to_its_like_than_to_its_blur() -> Result<()> {
        let (real, other) = (faces(96, 1, 32)?, faces(96, 2, 32)?);
        let off = CalledOff::new();
        let near = sliced_wasserstein(&real, &other, 1, Device::Cpu, &off)?;
        let blurred = blur(&other.f_to_kind(Kind::Float)?, 1.0, 1)?.f_round()?.f_to_kind(Kind::Uint8)?;
        let far = || sliced_wasserstein(&real, &blurred, 1, Device::Cpu, &off);
        let one = far()?;
        assert_eq!(one, far()?);
        assert_eq!(one.iter().map(|level| level.size).collect::<Vec<_>>(), [32, 16]);
        assert!(one[0].distance > 1.5 * near[0].distance, "{one:?} {near:?}");
        Ok(())
    }

    #[test]
    fn rows_are_sorted_whatever_their_signs() -> Result<()> {
        let rows = normal(&stream(1, Use::Directions, 0), &[3, 1000], Device::Cpu)?.f_mul_scalar(1e3)?;
        assert_eq!(sorted_rows(&rows)?, rows.f_sort(1, false)?.0);
        Ok(())
    }

    #[test]
    fn the_pyramid_adds_up_to_the_image() -> Result<()> {
        let images = faces(2, 1, 64)?.f_to_kind(Kind::Float)?;
        let mut sum = laplacian(&images, 2)?;
        for level in [1, 0] {
            sum = up(&sum)?.f_add(&laplacian(&images, level)?)?;
        }
        let worst = f64::try_from(sum.f_sub(&images)?.f_abs()?.f_max()?)?;
        assert!(worst < 1e-2, "{worst}");
        Ok(())
    }
}
