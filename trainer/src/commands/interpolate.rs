//! `trainer interpolate CHECKPOINT`: what lies between images, as a grid or as a picture that moves.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use began::random::{Purpose, Stream};
use began_record::write_atomically;
use image::RgbImage;
use tch::{Kind, Tensor};

use crate::animation;
use crate::commands::model::{ModelArgs, check_writable};
use crate::feed::uniform;
use crate::latent::{Way, path};
use crate::pictures::{generate_with, grid, png};

/// Draw what lies between images of a checkpoint's generator.
#[derive(Debug, clap::Args)]
pub struct Interpolate {
    #[command(flatten)]
    model: ModelArgs,
    /// How many ways, one below the other.
    #[arg(long, default_value_t = 8)]
    rows: u32,
    /// Images on each way, its ends included; in a picture that moves, its frames.
    #[arg(long, default_value_t = 10)]
    columns: u32,
    /// Noise vectors that each way leads through.
    #[arg(long, default_value_t = 2)]
    points: u32,
    /// linear or spherical.
    #[arg(long, default_value = "linear")]
    way: Way,
    /// Seed of the noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file: .png is a grid; .gif and .webp move, and come back to where they began.
    #[arg(long, default_value = "interpolation.png")]
    out: PathBuf,
    /// How long a frame is shown, in milliseconds.
    #[arg(long, default_value_t = 80)]
    milliseconds: u32,
}

/// What a file's name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Grid,
    Gif,
    Webp,
}

impl Form {
    fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("png") => Ok(Self::Grid),
            Some("gif") => Ok(Self::Gif),
            Some("webp") => Ok(Self::Webp),
            _ => bail!("--out {}: the name must end in .png (a grid), .gif or .webp (they move)", file.display()),
        }
    }
}

impl Interpolate {
    /// Draws.
    ///
    /// # Errors
    /// If the checkpoint cannot be read, a number is out of bounds or the file cannot be written.
    pub fn run(&self) -> Result<()> {
        ensure!((1..=1000).contains(&self.rows), "--rows must be from 1 to 1000, got {}", self.rows);
        ensure!((2..=1000).contains(&self.columns), "--columns must be from 2 to 1000, got {}", self.columns);
        ensure!((2..=100).contains(&self.points), "--points must be from 2 to 100, got {}", self.points);
        ensure!((1..=60_000).contains(&self.milliseconds), "--milliseconds must be from 1 to 60000");
        let form = Form::of(&self.out)?;
        check_writable(&self.out)?;
        let model = self.model.open()?;
        let (rows, columns, points) = (i64::from(self.rows), i64::from(self.columns), i64::from(self.points));
        let stream = Stream::new(self.seed, Purpose::Samples, 0, 0);
        let noise = uniform(stream, rows * points, model.latent(), Kind::Float, model.device)?;
        let mut images = Vec::new();
        for row in 0..rows {
            let between = noise.f_narrow(0, row * points, points)?;
            let way: Tensor = path(&between, columns, self.way, form != Form::Grid)?;
            images.push(generate_with(model.generator(), &way, model.about.carry)?);
        }
        let bytes = match form {
            Form::Grid => png(&grid(&[(columns as usize, images.into_iter().flatten().collect())])?)?,
            Form::Gif => animation::gif(&frames(&images, columns as usize)?, self.milliseconds)?,
            Form::Webp => animation::webp(&frames(&images, columns as usize)?, self.milliseconds)?,
        };
        write_atomically(&self.out, &bytes)?;
        println!("{} ways of {} images from {} in {}", self.rows, self.columns, model.words(), self.out.display());
        Ok(())
    }
}

/// One grid a frame, as square as can be.
fn frames(ways: &[Vec<RgbImage>], count: usize) -> Result<Vec<RgbImage>> {
    let columns = (ways.len() as f64).sqrt().ceil() as usize;
    (0..count)
        .map(|frame| {
            let tiles = ways.iter().filter_map(|way| way.get(frame).cloned()).collect();
            grid(&[(columns, tiles)])
        })
        .collect()
}
