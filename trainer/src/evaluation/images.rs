//! The sets of images that are judged: `[N,3,size,size]` bytes on the host, from prepared data, a folder or a generator.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use began::random::{Purpose, Stream};
use began_data::{DataSet, prepare::pictures};
use tch::{Kind, Tensor};

use super::draw::{Use, choice, stream};
use crate::drawing;
use crate::network::Generator;
use crate::pictures::to_bytes;

/// `count` images of a prepared set, drawn by the seed; all if there are fewer.
///
/// # Errors
/// If a shard is damaged, any of them: every image might have been drawn.
pub fn of_data(data: &DataSet, count: u64, seed: u64) -> Result<Tensor> {
    for shard in 0..data.manifest().shards.len() {
        data.verify_shard(shard as u32)?;
    }
    of_data_unverified(data, count, seed)
}

/// The same images as [`of_data`], without reading all of the set to find damage.
///
/// # Errors
/// If a shard is missing.
pub fn of_data_unverified(data: &DataSet, count: u64, seed: u64) -> Result<Tensor> {
    let mut starts = vec![0u64];
    for shard in &data.manifest().shards {
        starts.push(starts.last().copied().unwrap_or(0) + shard.samples);
    }
    let mut pixels = Vec::new();
    let mut taken = 0;
    for index in choice(stream(seed, Use::Images, 0), data.len(), count) {
        let shard = starts.partition_point(|&start| start <= index) - 1;
        pixels.extend_from_slice(data.image(shard as u32, index - starts[shard])?);
        taken += 1;
    }
    bytes(&pixels, taken, data.size())
}

/// `count` images of a folder, drawn by the seed, cropped and resized as `prepare` does; all if there are fewer.
///
/// # Errors
/// If there are none, or one cannot be used; it is named.
pub fn of_folder(folder: &Path, size: u32, count: u64, seed: u64) -> Result<Tensor> {
    let files = pictures::list(folder)?;
    ensure!(!files.is_empty(), "{} has no JPEG, PNG or WebP image in it", folder.display());
    let mut pixels = Vec::new();
    let chosen = choice(stream(seed, Use::Images, 0), files.len() as u64, count);
    for &index in &chosen {
        pixels.extend_from_slice(&pictures::read(&files[index as usize], size)?);
    }
    bytes(&pixels, chosen.len(), size)
}

/// `count` images from the generator, from noise drawn by the seed: those that `trainer sample --seed` draws. `progress` hears
/// how many are done, and may end it.
///
/// # Errors
/// If the generator gives numbers that are not finite, or `progress` fails.
pub fn of_generator(
    generator: &Generator,
    carry: f64,
    count: i64,
    seed: u64,
    mut progress: impl FnMut(i64) -> Result<()>,
) -> Result<Tensor> {
    let noise = drawing::noise(generator, Stream::new(seed, Purpose::Samples, 0, 0), count)?;
    let (mut parts, mut done) = (Vec::new(), 0);
    drawing::draw(generator, &noise, carry, |images| {
        done += images.size()[0];
        parts.push(to_bytes(&images)?.f_contiguous()?.f_to_device(tch::Device::Cpu)?);
        progress(done)
    })?;
    Ok(Tensor::f_cat(&parts, 0)?.f_contiguous()?)
}

fn bytes(pixels: &[u8], count: usize, size: u32) -> Result<Tensor> {
    let shape = [count as i64, 3, i64::from(size), i64::from(size)];
    Tensor::f_from_data_size(pixels, &shape, Kind::Uint8).context("an image of the wrong length")
}
