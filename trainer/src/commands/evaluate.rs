//! `trainer evaluate WHAT --data DATA`: scores of a model's images, or of any set of images, against real ones.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use began::score::Weights;
use began_data::DataSet;
use began_record::write_atomically;
use serde::Serialize;
use tch::{Device, Tensor};

use crate::checkpoint::read_weights;
use crate::commands::model;
use crate::device::{DeviceChoice, choose};
use crate::evaluation::features::{Features, Range};
use crate::evaluation::images::{of_data, of_folder, of_generator};
use crate::evaluation::{Judge, Scores};
use crate::network::Generator;

/// Judge a model, or any images, against real images: sliced Wasserstein distance, MS-SSIM, precision and recall, KID, FID.
#[derive(Debug, clap::Args)]
pub struct Evaluate {
    /// What to judge: a checkpoint, a run (its last checkpoint), a prepared data set, or a folder of images.
    what: PathBuf,
    /// The prepared data to compare with; what a model is judged by should be what it was trained on, or images held back from it.
    #[arg(long)]
    data: PathBuf,
    /// What features to compare: TorchScript (images in, N x d numbers out), or EfficientNet-Lite0 as `trainer features` writes it.
    /// Without, random convolutions that need no file.
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// In which numbers the TorchScript file takes its images; from -1 to 1 unless told otherwise.
    #[arg(long, requires = "features")]
    feature_range: Option<Range>,
    /// Height and width that images are brought to for the TorchScript file; their own unless told otherwise.
    #[arg(long, requires = "features", value_name = "PIXELS")]
    feature_size: Option<i64>,
    /// How many images of each kind, as far as there are as many.
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Seed of everything drawn: images, noise, patches, directions, pairs, subsets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Judge a model by G's weights as training left them (live) or by their average (average); both, where it has both, unless
    /// told otherwise.
    #[arg(long, value_name = "live|average")]
    weights: Option<Weights>,
    /// Also write the scores as JSON.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Judge weights that were changed after they were written.
    #[arg(long)]
    accept_changed_checkpoint: bool,
    /// What to compute on.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// No progress.
    #[arg(long, short)]
    quiet: bool,
}

/// What is written as JSON.
#[derive(Debug, Serialize)]
struct Report {
    what: String,
    data: String,
    data_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    /// Of the live weights, or of the only images there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Scores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_scores: Option<Scores>,
}

/// What is judged: sets of images, one for each kind of weights.
struct Judged {
    step: Option<u64>,
    sets: Vec<(Weights, Tensor)>,
}

impl Evaluate {
    /// Judges.
    ///
    /// # Errors
    /// If something cannot be read, sizes do not fit, or there are too few images; each is named.
    pub fn run(&self) -> Result<()> {
        ensure!((1..=200_000).contains(&self.count), "--count must be from 1 to 200000, got {}", self.count);
        ensure!(
            self.feature_size.is_none_or(|size| (1..=4096).contains(&size)),
            "--feature-size must be from 1 to 4096, got {}",
            self.feature_size.unwrap_or_default()
        );
        if let Some(out) = &self.out {
            model::check_writable(out)?;
        }
        let (device, _) = choose(self.device, 0)?;
        let data = DataSet::open(&self.data)?;
        let features = match &self.features {
            Some(file) => Features::from_file(file, self.feature_range, self.feature_size, device)?,
            None => Features::built_in(device)?,
        };
        let count = data.len().min(self.count.into());
        let Judged { step, sets } = self.images(&data, count, device)?;
        // As many of each: distances between sets of different sizes are not comparable with others.
        let count = sets.iter().map(|(_, images)| images.size()[0]).fold(count as i64, i64::min);
        if count < i64::from(self.count) {
            eprintln!("there are {count} images of each kind to compare, fewer than --count {}", self.count);
        }
        let real = of_data(&data, count as u64, self.seed)?;
        let judge = Judge::new(real, &features, self.seed, device, self.progress("features of real images", count))?;
        let (mut live, mut average) = (None, None);
        for (weights, images) in sets {
            let progress = self.progress("features of the judged images", count);
            let scores = judge.judge(&images.f_narrow(0, 0, count)?, progress)?;
            print(&self.what, step, weights, &scores);
            match weights {
                Weights::Live => live = Some(scores),
                Weights::Average => average = Some(scores),
            }
        }
        if let Some(out) = &self.out {
            let report = Report {
                what: self.what.display().to_string(),
                data: self.data.display().to_string(),
                data_digest: data.manifest().digest.clone(),
                step,
                scores: live,
                average_scores: average,
            };
            write_atomically(out, &serde_json::to_vec_pretty(&report)?)?;
        }
        Ok(())
    }

    fn images(&self, data: &DataSet, count: u64, device: Device) -> Result<Judged> {
        let size = data.size();
        if is_model(&self.what) {
            let folder = model::resolve(&self.what)?;
            let (state, about) = read_weights(&folder, device, self.accept_changed_checkpoint)?;
            ensure!(
                about.model.size == size,
                "{} draws images of {} px, {} holds images of {size} px",
                self.what.display(),
                about.model.size,
                self.data.display()
            );
            let draw = |generator: &Generator| {
                let mut progress = self.progress("images", count as i64);
                let told = |done| {
                    progress(done);
                    Ok(())
                };
                of_generator(generator, about.carry, count as i64, self.seed, told)
            };
            let mut sets = Vec::new();
            if self.weights != Some(Weights::Average) {
                sets.push((Weights::Live, draw(&state.generator)?));
            }
            if self.weights == Some(Weights::Average) || (self.weights.is_none() && state.average.is_some()) {
                let averaged = model::averaged_generator(&folder, &state, &about)?;
                sets.push((Weights::Average, draw(&averaged)?));
            }
            return Ok(Judged { step: Some(state.step.0), sets });
        }
        if let Some(weights) = self.weights {
            bail!("--weights {weights}: {} is no model, so it has no weights", self.what.display());
        }
        let images = if self.what.join("manifest.json").is_file() {
            let other = DataSet::open(&self.what)?;
            ensure!(
                other.size() == size,
                "{} holds images of {} px, {} of {size} px",
                self.what.display(),
                other.size(),
                self.data.display()
            );
            // With another seed, or a set would be compared with the very same images where it is compared with itself.
            of_data(&other, count, self.seed.wrapping_add(1))?
        } else {
            ensure!(
                self.what.is_dir(),
                "there is no checkpoint, run, data set or folder of images at {}",
                self.what.display()
            );
            of_folder(&self.what, size, count, self.seed).with_context(|| {
                format!("{} is no checkpoint, run or data set, so a folder of images", self.what.display())
            })?
        };
        Ok(Judged { step: None, sets: vec![(Weights::Live, images)] })
    }

    /// Says on a terminal's stderr how far something is.
    fn progress(&self, what: &'static str, total: i64) -> impl FnMut(i64) + use<> {
        let shown = !self.quiet && std::io::stderr().is_terminal();
        move |done| {
            if shown {
                eprint!("\r{what}: {done} of {total}   ");
                if done >= total {
                    eprintln!();
                }
            }
        }
    }
}

/// Whether a path is a checkpoint or a run.
fn is_model(path: &Path) -> bool {
    path.join("state.json").is_file() || path.join("run.toml").is_file()
}

fn print(what: &Path, step: Option<u64>, weights: Weights, scores: &Scores) {
    let mut step = step.map(|step| format!(", step {step}")).unwrap_or_default();
    if weights == Weights::Average {
        step += ", averaged weights";
    }
    println!(
        "{}{step}: {} images of {} px against as many real ones, seed {}",
        what.display(),
        scores.count,
        scores.size,
        scores.seed
    );
    let levels: Vec<String> = scores
        .sliced_wasserstein
        .levels
        .iter()
        .map(|level| format!("{} px {:.2}", level.size, level.distance))
        .collect();
    println!("  sliced Wasserstein  {:.2}  ({})", scores.sliced_wasserstein.mean, levels.join(", "));
    let similarity = &scores.similarity;
    println!(
        "  MS-SSIM over pairs  {:.4}, real {:.4}  (window {}, {} levels; above the real one: less diverse)",
        similarity.judged, similarity.real, similarity.window.side, similarity.window.levels
    );
    println!("  features: {}", scores.features);
    let near = &scores.neighbourhood;
    println!("  precision {:.4}  recall {:.4}  (k = {})", near.precision, near.recall, near.k);
    println!("  density   {:.4}  coverage {:.4}", near.density, near.coverage);
    let kid = &scores.kernel_distance;
    println!(
        "  KID {:.6}  ({:.6} with deviation {:.6} over {} subsets of {})",
        kid.all, kid.mean, kid.deviation, kid.subsets, kid.subset
    );
    println!(
        "  FID {:.4}  (depends on the number of images: compare only with {} each)",
        scores.frechet_distance, scores.count
    );
}
