//! `trainer prepare SOURCE --out DATA --size 64`: makes a data set that trainers can map into memory.

use std::path::PathBuf;

use anyhow::Result;
use began_data::prepare::{Crop, Options, Split, prepare};

/// Make a data set out of images: a folder, an archive, CelebA, IDX files, or made-up faces.
#[derive(Debug, clap::Args)]
pub struct Prepare {
    /// A folder of JPEG, PNG or WebP at any depth; CelebA's folder; a zip of images; IDX files; or synthetic:faces.
    source: String,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Height and width in pixels: 16, 32, 64, 128, 256 or 512.
    #[arg(long)]
    size: u32,
    /// The square to take: auto, began (CelebA, rows 50-178, columns 25-153), progan (rows 57-185), center, none.
    #[arg(long, default_value = "auto")]
    crop: Crop,
    /// The part to take, where the source has parts: all, train, valid, test.
    #[arg(long, default_value = "all")]
    split: Split,
    /// How many images; synthetic:faces needs a number, elsewhere all are taken.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Seed of the order of samples, and of synthetic:faces.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples a shard; 0 is about 64 MiB.
    #[arg(long, default_value_t = 0)]
    samples_per_shard: u64,
    /// End with an error at the first image that cannot be used.
    #[arg(long)]
    strict: bool,
    /// Replace a finished data set in --out.
    #[arg(long)]
    force: bool,
    /// No progress bar.
    #[arg(long, short)]
    quiet: bool,
}

impl Prepare {
    /// Prepares, and says what came of it.
    ///
    /// # Errors
    /// If nothing can be prepared; the source or file is named.
    pub fn run(&self) -> Result<()> {
        let report = prepare(&Options {
            source: self.source.clone(),
            out: self.out.clone(),
            size: self.size,
            crop: self.crop,
            split: self.split,
            count: self.count,
            seed: self.seed,
            strict: self.strict,
            force: self.force,
            samples_per_shard: self.samples_per_shard,
            quiet: self.quiet,
        })?;
        for skipped in report.skipped.iter().take(20) {
            eprintln!("skipped {}: {}", skipped.name, skipped.reason);
        }
        if report.skipped.len() > 20 {
            eprintln!("skipped {} more", report.skipped.len() - 20);
        }
        println!(
            "{}: {} images of {} px in {} shards, {} skipped, {:.1} s; digest {}",
            self.out.display(),
            report.samples,
            self.size,
            report.shards,
            report.skipped.len(),
            report.seconds,
            report.digest
        );
        Ok(())
    }
}
