//! Making a prepared set: from a source of images to shards and a manifest.
//!
//! The candidates of a source are sorted by name, put in an order drawn from the seed, so that every shard is a fair
//! sample of the whole and shards can stand in for each other, and taken in chunks: decoded, cropped and resized in
//! parallel, written in order. So the bytes depend on the source and the options alone, never on threads or timing;
//! and memory holds one shard and one chunk, never the set. Made-up faces are independent of each other and keep
//! their order.
//!
//! What is not an image, or too small, is skipped, counted and named. The manifest comes last: an interrupted
//! preparation leaves none, and the next one into the folder starts over.

mod archive;
mod celeba;
mod decode;
mod fit;
mod folder;
mod idx;
mod options;
mod out_folder;
pub mod pictures;
mod source;

use std::time::{Duration, Instant};

use began::random::{Permutation, Purpose, Stream};
use fast_image_resize::Resizer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;

pub use options::{Crop, Options, Split};

use crate::error::DataError;
use crate::manifest::{FORMAT, Manifest, SkippedCounts, SourceDescription};
use crate::shard;
use fit::fit;
use out_folder::OutFolder;
use source::{Fault, Opened};

/// About how many bytes of finished images are made between two writes.
const CHUNK_BYTES: usize = 8 << 20;

/// How a preparation went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Images in the set.
    pub samples: u64,
    /// Shards it has.
    pub shards: usize,
    /// What was left out, in the order in which it was met.
    pub skipped: Vec<Skipped>,
    /// How long it took.
    pub seconds: f64,
    /// The digest of the set.
    pub digest: String,
    /// What the source was found to be, with the options in force.
    pub source: SourceDescription,
}

/// An image that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name within the source.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Prepares a set as the options say.
///
/// # Errors
/// If an option cannot be, the source is missing or has no usable image, or the folder cannot be written or holds
/// something else. With `strict`, also for the first image that would be skipped. What was written is removed.
pub fn prepare(options: &Options) -> Result<Report, DataError> {
    let start = Instant::now();
    options.check()?;
    let opened = source::open(options)?;
    let out = OutFolder::claim(&options.out, options.force)?;
    if !options.quiet {
        eprintln!("{}: {}", options.source, opened.found);
    }
    let bar = progress(options, opened.source.len());
    let written = write_set(options, &opened, out, &bar);
    bar.finish_and_clear();
    let (manifest, skipped) = written?;
    Ok(Report {
        samples: manifest.samples,
        shards: manifest.shards.len(),
        skipped,
        seconds: start.elapsed().as_secs_f64(),
        digest: manifest.digest,
        source: manifest.source,
    })
}

fn write_set(
    options: &Options,
    opened: &Opened,
    mut out: OutFolder,
    bar: &ProgressBar,
) -> Result<(Manifest, Vec<Skipped>), DataError> {
    let (source, size) = (&*opened.source, options.size);
    let image_bytes = shard::image_bytes(size);
    let chunk = (CHUNK_BYTES / image_bytes).clamp(64, 1024);
    let wanted = if options.count == 0 { u64::MAX } else { options.count };
    let per_shard = match options.samples_per_shard {
        0 => shard::default_samples(size),
        samples => samples,
    };
    let order = opened.shuffled.then(|| shuffle(options.seed, source.len()));

    let mut shards = Vec::new();
    let mut pixels: Vec<u8> = Vec::new();
    let mut samples = 0u64;
    let mut counts = SkippedCounts::default();
    let mut skipped = Vec::new();
    let mut next = 0;
    while next < source.len() && samples < wanted {
        // Not more than are wanted, so that nothing is decoded in vain where nothing is skipped.
        let end = source.len().min(next + chunk).min(next.saturating_add((wanted - samples).min(1 << 32) as usize));
        let places: Vec<usize> = (next..end).map(|n| order.map_or(n, |order| order.at(n as u64) as usize)).collect();
        let images: Vec<_> = places
            .par_iter()
            .map_init(Resizer::new, |resizer, &place| fit(source.picture(place)?, opened.crop, size, resizer))
            .collect();
        for (&place, image) in places.iter().zip(images) {
            match image {
                Ok(image) => {
                    pixels.extend_from_slice(&image);
                    samples += 1;
                    if pixels.len() as u64 == per_shard * image_bytes as u64 {
                        shards.push(out.write_shard(shards.len(), size, &pixels)?);
                        pixels.clear();
                    }
                }
                Err(unusable) => {
                    let (name, reason) = (source.name(place), unusable.reason);
                    if options.strict {
                        return Err(DataError::Strict { source_name: options.source.clone(), name, reason });
                    }
                    match unusable.fault {
                        Fault::Broken => counts.broken += 1,
                        Fault::TooSmall => counts.too_small += 1,
                        Fault::WrongShape => counts.wrong_shape += 1,
                    }
                    skipped.push(Skipped { name, reason });
                }
            }
        }
        bar.inc((end - next) as u64);
        next = end;
    }
    if samples == 0 {
        let first = skipped.first().map_or(String::new(), |s: &Skipped| format!("; {}: {}", s.name, s.reason));
        let reason = format!("none of its {} images can be used{first}", source.len());
        return Err(DataError::Source { source_name: options.source.clone(), reason });
    }
    if !pixels.is_empty() {
        shards.push(out.write_shard(shards.len(), size, &pixels)?);
    }
    let mut manifest = Manifest {
        format: FORMAT,
        size,
        channels: shard::CHANNELS,
        samples,
        shards,
        digest: String::new(),
        source: SourceDescription {
            kind: opened.kind.into(),
            crop: opened.crop,
            split: options.split,
            seed: options.seed,
            count: options.count,
        },
        skipped: counts,
    };
    manifest.digest = manifest.compute_digest();
    out.finish(&manifest)?;
    Ok((manifest, skipped))
}

/// The order in which candidates are taken.
fn shuffle(seed: u64, candidates: usize) -> Permutation {
    // An epoch that no run reaches: the order of preparation is none of those of training.
    Permutation::new(Stream::new(seed, Purpose::Order, u64::MAX, 0), candidates as u64)
}

fn progress(options: &Options, candidates: usize) -> ProgressBar {
    let candidates = candidates as u64;
    let length = if options.count == 0 { candidates } else { options.count.min(candidates) };
    // To a terminal only; indicatif sees to that itself.
    let target = if options.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} images, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
