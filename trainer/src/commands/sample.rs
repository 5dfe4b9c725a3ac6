//! `trainer sample CHECKPOINT`: images from a trained generator.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use began::random::{Purpose, Stream};
use began_record::write_atomically;
use tch::Kind;

use crate::commands::model::{ModelArgs, check_writable, make_folder};
use crate::feed::uniform;
use crate::pictures::{generate_with, grid, png};

/// Draw images from a checkpoint's generator.
#[derive(Debug, clap::Args)]
pub struct Sample {
    #[command(flatten)]
    model: ModelArgs,
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
    /// Noise is drawn from (-T,T) instead of (-1,1): below 1, images nearer to the mean one, and less different.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    truncation: f64,
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
        ensure!(
            self.truncation > 0.0 && self.truncation <= 1.0,
            "--truncation must be above 0 and at most 1, got {}",
            self.truncation
        );
        match &self.files {
            Some(folder) => make_folder(folder)?,
            None => check_writable(&self.out)?,
        }
        let model = self.model.open()?;
        let stream = Stream::new(self.seed, Purpose::Samples, 0, 0);
        let noise = uniform(stream, self.count.into(), model.latent(), Kind::Float, model.device)?;
        let images = generate_with(model.generator(), &noise.f_mul_scalar(self.truncation)?, model.about.carry)?;
        if let Some(folder) = &self.files {
            for (i, image) in images.iter().enumerate() {
                write_atomically(&folder.join(format!("{i:06}.png")), &png(image)?)?;
            }
            println!("{} images from {} in {}", images.len(), model.words(), folder.display());
        } else {
            let columns = if self.columns > 0 { self.columns } else { (images.len() as f64).sqrt().ceil() as usize };
            let count = images.len();
            write_atomically(&self.out, &png(&grid(&[(columns, images)])?)?)?;
            println!("{count} images from {} in {}", model.words(), self.out.display());
        }
        Ok(())
    }
}
