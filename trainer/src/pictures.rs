//! Grids of images as PNG: what the generator draws from fixed noise, and how well D reconstructs it and real images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use began::Step;
use began::random::{Purpose, Stream};
use began_data::DataSet;
use began_record::{RunDir, write_atomically};
use image::{ImageFormat, Rgb, RgbImage, imageops};
use tch::{Kind, Tensor};

use crate::drawing::{self, in_chunks};
use crate::feed::{images, uniform};
use crate::network::Generator;
use crate::state::State;

/// Rows and columns of generated images.
const SIDE: usize = 8;
/// Pixels between images, at the size they are shown in.
const GAP: u32 = 2;
/// Small images are enlarged to at least this many pixels.
const SHOWN: u32 = 64;
/// Images that are compared with each other for their diversity.
const COMPARED: usize = 32;
const BACKGROUND: Rgb<u8> = Rgb([24, 24, 24]);

/// Generated images for rows of noise: `[N,3,size,size]`.
///
/// # Errors
/// If memory is short.
pub fn generate(state: &State, noise: &Tensor, carry: f64) -> Result<Vec<RgbImage>> {
    through(noise, |z| state.generator.forward(z, carry))
}

/// As [`generate`], with any generator; one that gives numbers that are not finite draws nothing.
///
/// # Errors
/// If memory is short, or the weights are broken.
pub fn generate_with(generator: &Generator, noise: &Tensor, carry: f64) -> Result<Vec<RgbImage>> {
    let mut out = Vec::new();
    drawing::draw(generator, noise, carry, |images| {
        out.extend(to_images(&images)?);
        Ok(())
    })?;
    Ok(out)
}

fn through(input: &Tensor, network: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<RgbImage>> {
    let mut out = Vec::new();
    in_chunks(input, |part| {
        out.extend(to_images(&network(part)?)?);
        Ok(())
    })?;
    Ok(out)
}

/// `[N,3,H,W]` in [-1,1] as bytes of the same shape; what lies outside is clipped.
///
/// # Errors
/// If memory is short.
pub fn to_bytes(batch: &Tensor) -> Result<Tensor> {
    let scaled = batch.f_to_kind(Kind::Float)?.f_add_scalar(1.0)?.f_mul_scalar_(127.5)?.f_round_()?.f_clamp_(0, 255)?;
    Ok(scaled.f_to_kind(Kind::Uint8)?)
}

/// `[N,3,H,W]` in [-1,1] as images; what lies outside is clipped.
///
/// # Errors
/// If the shape is another.
pub fn to_images(batch: &Tensor) -> Result<Vec<RgbImage>> {
    let (count, channels, height, width) = batch.size4()?;
    ensure!(channels == 3, "expected three channels, got {channels}");
    let bytes = crate::digest::bytes(&to_bytes(batch)?.f_permute([0, 2, 3, 1])?)?;
    let size = (3 * height * width) as usize;
    (0..count as usize)
        .map(|i| {
            let pixels = bytes[i * size..(i + 1) * size].to_vec();
            RgbImage::from_raw(width as u32, height as u32, pixels).context("an image of the wrong length")
        })
        .collect()
}

/// Blocks of columns beside each other; each block is a list of images filled row by row.
///
/// # Errors
/// If there is nothing to show.
pub fn grid(blocks: &[(usize, Vec<RgbImage>)]) -> Result<RgbImage> {
    let side = blocks.iter().find_map(|(_, tiles)| tiles.first()).context("no images to lay out")?.width();
    let shown = side * SHOWN.div_ceil(side).max(1);
    let rows = |(columns, tiles): &(usize, Vec<RgbImage>)| tiles.len().div_ceil((*columns).max(1));
    let height = blocks.iter().map(rows).max().unwrap_or(0) as u32 * (shown + GAP) + GAP;
    let width: u32 = blocks.iter().map(|(columns, _)| *columns as u32 * (shown + GAP) + 3 * GAP).sum::<u32>() - 2 * GAP;
    let most = 1 << 15;
    ensure!(
        width <= most && height <= most,
        "a grid of {width} x {height} pixels is too large to draw; take fewer images"
    );
    let mut out = RgbImage::from_pixel(width, height, BACKGROUND);
    let mut left = GAP;
    for (columns, tiles) in blocks {
        for (i, tile) in tiles.iter().enumerate() {
            let x = left + (i % columns) as u32 * (shown + GAP);
            let y = GAP + (i / columns) as u32 * (shown + GAP);
            let tile = imageops::resize(tile, shown, shown, imageops::FilterType::Nearest);
            imageops::replace(&mut out, &tile, x.into(), y.into());
        }
        left += *columns as u32 * (shown + GAP) + 3 * GAP;
    }
    Ok(out)
}

/// A picture as PNG.
///
/// # Errors
/// If it cannot be encoded.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// How much images differ: the mean distance (L1, over all pixels) between pairs of them.
fn spread(images: &[RgbImage]) -> f64 {
    let distance = |a: &RgbImage, b: &RgbImage| {
        let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / a.as_raw().len() as f64
    };
    let pairs = images.iter().enumerate().flat_map(|(i, a)| images[..i].iter().map(move |b| distance(a, b)));
    let (sum, count) = pairs.fold((0.0, 0u32), |(sum, count), distance| (sum + distance, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// How much the generated images differ, as a part of how much as many real ones do; 0 where that cannot be told. Of a
/// generator that has collapsed it is near 0.
fn diversity(generated: &[RgbImage], real: &[RgbImage]) -> f64 {
    let count = COMPARED.min(generated.len()).min(real.len());
    let of_real = spread(&real[..count]);
    if of_real > 0.0 { spread(&generated[..count]) / of_real } else { 0.0 }
}

/// Draws `samples/step-00001000.png`: images from noise that never changes, and beside them pairs of a real image with its
/// reconstruction and of a generated image with its own. The path, relative to the run, and the diversity.
///
/// # Errors
/// If it cannot be drawn or written.
pub fn draw(run: &Path, state: &State, step: Step, carry: f64, seed: u64, data: &DataSet) -> Result<(PathBuf, f64)> {
    let parameters = &state.generator.parameters;
    let (kind, device) = (parameters.kind(), parameters.device());
    let latent = parameters.leaves[0].size()[1];
    let stream = Stream::new(seed, Purpose::Samples, 0, 0);
    let noise = uniform(stream, (SIDE * SIDE) as i64, latent, kind, device)?;
    let generated = generate(state, &noise, carry)?;

    let some = (COMPARED as u64).min(data.manifest().shards.first().map_or(0, |shard| shard.samples));
    let mut compared = Vec::new();
    for index in 0..some {
        compared.extend_from_slice(data.image(0, index)?);
    }
    let compared = to_images(&images(&compared, data.size(), kind, device)?)?;
    let diversity = diversity(&generated, &compared);

    let count = (SIDE as u64).min(data.manifest().shards.first().map_or(0, |shard| shard.samples));
    let mut pixels = Vec::new();
    for index in 0..count {
        pixels.extend_from_slice(data.image(0, index)?);
    }
    let real = images(&pixels, data.size(), kind, device)?;
    let again = through(&real, |x| state.discriminator.forward(x, carry))?;
    let first = noise.f_narrow(0, 0, SIDE as i64)?;
    let fake_again = through(&first, |z| state.discriminator.forward(&state.generator.forward(z, carry)?, carry))?;
    let pairs = |a: Vec<RgbImage>, b: Vec<RgbImage>| a.into_iter().zip(b).flat_map(|(a, b)| [a, b]).collect();
    let blocks = [
        (SIDE, generated.clone()),
        (2, pairs(to_images(&real)?, again)),
        (2, pairs(generated.into_iter().take(SIDE).collect(), fake_again)),
    ];

    let relative = Path::new("samples").join(format!("{}.png", RunDir::step_name(step)));
    let folder = run.join("samples");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write_atomically(&run.join(&relative), &png(&grid(&blocks)?)?)?;
    Ok((relative, diversity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_all_alike_have_no_diversity_and_the_real_ones_have_one() {
        let image = |value: u8| RgbImage::from_pixel(4, 4, Rgb([value; 3]));
        let real: Vec<RgbImage> = (0..8).map(|n| image(n * 30)).collect();
        assert_eq!(diversity(&vec![image(9); 8], &real), 0.0);
        assert_eq!(diversity(&real, &real), 1.0);
        assert_eq!(diversity(&real, &real[..1]), 0.0);
    }
}
