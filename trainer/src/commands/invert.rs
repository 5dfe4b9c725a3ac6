//! `trainer invert CHECKPOINT IMAGE...`: the noise from which the generator makes images most like given ones.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use began_data::prepare::pictures;
use began_record::write_atomically;
use image::RgbImage;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Kind, Tensor};

use crate::commands::model::{Model, ModelArgs, check_writable};
use crate::digest::bytes;
use crate::feed;
use crate::inversion::{Inversion, Search, invert};
use crate::latent::{Way, path};
use crate::pictures::{generate_with, grid, png, to_images};

/// Find the noise from which a checkpoint's generator makes images most like given ones.
#[derive(Debug, clap::Args)]
pub struct Invert {
    #[command(flatten)]
    model: ModelArgs,
    /// Images: JPEG, PNG or WebP of any size; the square in the middle is taken, resized as `prepare` does.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Starts for each image; the best quarter of them goes the whole way.
    #[arg(long, default_value_t = 8)]
    starts: u32,
    /// Steps of Adam.
    #[arg(long, default_value_t = 400)]
    steps: u32,
    /// Adam's rate at the start.
    #[arg(long, default_value_t = 0.1)]
    rate: f64,
    /// Seed of the starts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also find each image's mirror image, and show the ways from each to its mirror image and to the next image.
    #[arg(long)]
    mirror: bool,
    /// Images on a way, with --mirror.
    #[arg(long, default_value_t = 8)]
    columns: u32,
    /// linear or spherical, with --mirror.
    #[arg(long, default_value = "linear")]
    way: Way,
    /// The picture: each row an image and what the generator makes of it; with --mirror, the way between two.
    #[arg(long, default_value = "inversion.png")]
    out: PathBuf,
    /// Write the noise here, as safetensors: `z` of N x h, `error` and `random_error` of N.
    #[arg(long, value_name = "FILE.safetensors")]
    latents: Option<PathBuf>,
    /// No progress.
    #[arg(long, short)]
    quiet: bool,
}

impl Invert {
    /// Looks for the noise, says how near it comes, and draws it.
    ///
    /// # Errors
    /// If the checkpoint or an image cannot be read, a number is out of bounds, or a file cannot be written.
    pub fn run(&self) -> Result<()> {
        ensure!((1..=256).contains(&self.starts), "--starts must be from 1 to 256, got {}", self.starts);
        ensure!((1..=100_000).contains(&self.steps), "--steps must be from 1 to 100000, got {}", self.steps);
        ensure!(self.rate > 0.0 && self.rate <= 10.0, "--rate must be above 0 and at most 10, got {}", self.rate);
        ensure!((2..=100).contains(&self.columns), "--columns must be from 2 to 100, got {}", self.columns);
        for file in std::iter::once(&self.out).chain(&self.latents) {
            check_writable(file)?;
        }
        let model = self.model.open()?;
        let mut images = self.read(&model)?;
        let count = images.size()[0];
        if self.mirror {
            images = Tensor::f_cat(&[images.shallow_clone(), images.f_flip([3])?], 0)?;
        }
        let search = Search { starts: self.starts.into(), steps: self.steps.into(), rate: self.rate, seed: self.seed };
        let shown = !self.quiet && std::io::stderr().is_terminal();
        let progress = |done: i64, total: i64| {
            if shown && (done % 64 == 0 || done == total) {
                eprint!("\r{} of the search   ", percent(done, total));
            }
        };
        let found = invert(model.generator(), model.about.carry, &images, search, progress)?;
        if shown {
            eprintln!();
        }
        self.report(&found, count as usize);
        if let Some(file) = &self.latents {
            write_atomically(file, &self.stored(&found)?)?;
        }
        let picture = if self.mirror {
            self.ways(&model, &images, &found, count)?
        } else {
            let pairs = to_images(&images)?.into_iter().zip(to_images(&found.images)?);
            // Pairs beside each other, as many as make it about square.
            let across = ((count as f64 / 2.0).sqrt().ceil() as usize).max(1);
            grid(&[(2 * across, pairs.flat_map(|(image, again)| [image, again]).collect())])?
        };
        write_atomically(&self.out, &png(&picture)?)?;
        println!("{} in {}", model.words(), self.out.display());
        Ok(())
    }

    fn read(&self, model: &Model) -> Result<Tensor> {
        let size = model.about.model.size;
        let mut pixels = Vec::new();
        for file in &self.images {
            pixels.extend_from_slice(&pictures::read(file, size)?);
        }
        feed::images(&pixels, size, Kind::Float, model.device)
    }

    fn report(&self, found: &Inversion, count: usize) {
        for (index, (error, random)) in found.errors.iter().zip(&found.random).enumerate() {
            let file = self.images[index % count].display();
            let mirrored = if index < count { "" } else { ", mirrored" };
            let share = 100.0 * error / random;
            println!("{file}{mirrored}: error {error:.4}, that of random noise {random:.4} ({share:.1}%)");
        }
    }

    fn stored(&self, found: &Inversion) -> Result<Vec<u8>> {
        let floats =
            |values: &[f64]| values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect::<Vec<u8>>();
        let (z, errors, random) = (bytes(&found.latents)?, floats(&found.errors), floats(&found.random));
        let shape: Vec<usize> = found.latents.size().iter().map(|&n| n as usize).collect();
        let views = [
            ("z", TensorView::new(Dtype::F32, shape.clone(), &z)?),
            ("error", TensorView::new(Dtype::F32, vec![shape[0]], &errors)?),
            ("random_error", TensorView::new(Dtype::F32, vec![shape[0]], &random)?),
        ];
        let names: Vec<String> = self.images.iter().map(|file| file.display().to_string()).collect();
        let about = HashMap::from([
            ("images".to_owned(), serde_json::to_string(&names)?),
            ("mirrored".to_owned(), self.mirror.to_string()),
        ]);
        safetensors::serialize(views, Some(about)).context("the noise cannot be written down")
    }

    /// Rows from each image to its mirror image, then from each image to the next. At both ends stands the image itself.
    fn ways(&self, model: &Model, images: &Tensor, found: &Inversion, count: i64) -> Result<RgbImage> {
        let originals = to_images(images)?;
        let mirrors = (0..count).map(|index| (index, count + index));
        let mut tiles = Vec::new();
        for (from, to) in mirrors.chain((1..count).map(|index| (index - 1, index))) {
            let ends =
                found.latents.f_index_select(0, &Tensor::f_from_slice(&[from, to])?.f_to_device(model.device)?)?;
            let way = path(&ends, self.columns.into(), self.way, false)?;
            tiles.push(originals[from as usize].clone());
            tiles.extend(generate_with(model.generator(), &way, model.about.carry)?);
            tiles.push(originals[to as usize].clone());
        }
        grid(&[(self.columns as usize + 2, tiles)])
    }
}

fn percent(done: i64, total: i64) -> String {
    format!("{:.0}%", 100.0 * done as f64 / total.max(1) as f64)
}
