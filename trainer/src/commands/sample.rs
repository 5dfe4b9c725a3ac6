//! `trainer sample CHECKPOINT`: images from a trained generator.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use began::random::{Purpose, Stream};
use began_record::write_atomically;
use tch::Kind;

use crate::checkpoint::read_weights;
use crate::device::{DeviceChoice, choose};
use crate::feed::uniform;
use crate::pictures::{generate, grid, png};

/// Draw images from a checkpoint's generator.
#[derive(Debug, clap::Args)]
pub struct Sample {
    /// A checkpoint (runs/NAME/checkpoints/step-00001000), or a run, whose last one is taken.
    checkpoint: PathBuf,
    /// How many images.
    #[arg(long, default_value_t = 64)]
    count: u32,
    /// Seed of the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Columns of the grid; 0 makes it as square as can be.
    #[arg(long, default_value_t = 0)]
    columns: usize,
    /// The grid's file.
    #[arg(long, default_value = "samples.png")]
    out: PathBuf,
    /// Write each image as a file of its own into this folder instead.
    #[arg(long)]
    files: Option<PathBuf>,
    /// Draw from weights that were changed after they were written.
    #[arg(long)]
    accept_changed_checkpoint: bool,
    /// What to compute on.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

impl Sample {
    /// Draws.
    ///
    /// # Errors
    /// If the checkpoint cannot be read or a file not be written.
    pub fn run(&self) -> Result<()> {
        ensure!((1..=1_000_000).contains(&self.count), "--count must be from 1 to 1000000, got {}", self.count);
        ensure!(
            self.columns <= self.count as usize,
            "--columns must be at most --count, {}, got {}",
            self.count,
            self.columns
        );
        let folder = resolve(&self.checkpoint)?;
        let (device, _) = choose(self.device, 0)?;
        let (state, about) = read_weights(&folder, device, self.accept_changed_checkpoint)?;
        let stream = Stream::new(self.seed, Purpose::Samples, 0, 0);
        let noise = uniform(stream, self.count.into(), about.model.latent.into(), Kind::Float, device)?;
        let images = generate(&state, &noise, about.carry)?;
        if let Some(folder) = &self.files {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            for (i, image) in images.iter().enumerate() {
                write_atomically(&folder.join(format!("{i:06}.png")), &png(image)?)?;
            }
            println!("{} images from step {} in {}", images.len(), state.step, folder.display());
        } else {
            let columns = if self.columns > 0 { self.columns } else { (images.len() as f64).sqrt().ceil() as usize };
            let count = images.len();
            write_atomically(&self.out, &png(&grid(&[(columns, images)])?)?)?;
            println!("{count} images from step {} in {}", state.step, self.out.display());
        }
        Ok(())
    }
}

/// A checkpoint's folder, given itself or its run.
///
/// # Errors
/// If it is neither.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join("state.json").is_file() {
        return Ok(path.into());
    }
    if path.join("run.toml").is_file() {
        let run = began_record::RunDir::open(path)?;
        let last = run.latest_checkpoint()?.with_context(|| format!("run {} has no checkpoint yet", path.display()))?;
        return Ok(path.join(last.path));
    }
    anyhow::bail!("{} is neither a checkpoint (it has no state.json) nor a run (it has no run.toml)", path.display())
}
