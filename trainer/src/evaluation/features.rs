//! What turns images into features: the numbers that FID, KID, precision and recall compare.
//!
//! A score depends on them as much as on the images, so each has a name that says what it is, and goes with every score.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{CModule, Device, Kind, Tensor};

use super::draw::{Use, normal, stream};
use super::efficientnet::EfficientNet;
use crate::drawing::all_finite;

/// In which numbers a TorchScript file takes its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Range {
    /// From -1 to 1.
    Signed,
    /// From 0 to 1.
    Unit,
    /// From 0 to 255, as f32.
    Bytes,
    /// From 0 to 1, then less ImageNet's mean and over its deviation, by channel.
    Imagenet,
}

/// Images in, features out.
#[derive(Debug)]
pub struct Features {
    /// What they are, in words.
    pub name: String,
    /// Images taken at a time.
    batch: i64,
    /// Height and width they are brought to, unless they stay as they are.
    size: Option<i64>,
    range: Range,
    source: Source,
    device: Device,
}

#[derive(Debug)]
enum Source {
    Random(Vec<Tensor>),
    EfficientNet(Box<EfficientNet>),
    TorchScript { module: CModule, file: String },
}

/// Channels of each stage of the built-in features.
const CHANNELS: [i64; 5] = [3, 64, 64, 64, 64];
/// How much stronger kernels are that see edges.
const EDGES: f64 = 3.0;
/// Channels of each stage that see areas; the last stage's channels that are kept with their place, on a grid of this many fields a side.
const PLACED: i64 = 16;
const FIELDS: i64 = 4;
/// Height and width that EfficientNet-Lite0 was trained on.
const EFFICIENTNET_SIZE: i64 = 224;

impl Features {
    /// The built-in ones, the same everywhere and for ever: four stages of random 3x3 convolutions, the mean of each channel of
    /// each stage, and the last stage on a grid of 4x4. They see colours, shapes and their places, and know nothing of the
    /// world: enough to tell sets apart, not to say what a person would.
    ///
    /// # Errors
    /// If memory is short.
    pub fn built_in(device: Device) -> Result<Self> {
        let kernels = CHANNELS.windows(2).enumerate().map(|(stage, channels)| {
            let stream = stream(0, Use::Kernels, stage as u32);
            let kernel = normal(&stream, &[channels[1], channels[0], 3, 3], device)?;
            // Most of them add up to 0 and so see edges and texture alone, which are weaker than areas of colour.
            let edges = kernel.f_narrow(0, PLACED, channels[1] - PLACED)?;
            let mean = edges.f_mean_dim([2i64, 3].as_slice(), true, Kind::Float)?;
            let _ = edges.shallow_clone().f_sub_(&mean)?.f_mul_scalar_(EDGES)?;
            Ok(kernel.f_mul_scalar((2.0 / (9.0 * channels[0] as f64)).sqrt())?)
        });
        let source = Source::Random(kernels.collect::<Result<_>>()?);
        let name = "built-in random convolutions, 512 numbers".into();
        Ok(Self { name, batch: 64, size: None, range: Range::Signed, source, device })
    }

    /// Those of a file: `.safetensors` as `trainer features` writes it, or TorchScript. `range` and `size` tell how a TorchScript
    /// file takes its images: `[B,3,size,size]` in f32, from -1 to 1 in their own size unless told otherwise.
    ///
    /// # Errors
    /// If the file is missing or neither; it is named.
    pub fn from_file(path: &Path, range: Option<Range>, size: Option<i64>, device: Device) -> Result<Self> {
        let file = path.display().to_string();
        ensure!(path.is_file(), "there is no features file {file}");
        let hash = began_record::hash(path)?;
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            ensure!(
                range.is_none() && size.is_none(),
                "--feature-range and --feature-size belong to TorchScript files; {file} knows its own"
            );
            let source = Source::EfficientNet(Box::new(EfficientNet::load(path, device)?));
            let name = format!("EfficientNet-Lite0 (BLAKE3 {}), 1280 numbers", &hash[..16]);
            return Ok(Self { name, batch: 16, size: Some(EFFICIENTNET_SIZE), range: Range::Imagenet, source, device });
        }
        let mut module = CModule::load_on_device(path, device).map_err(|error| {
            let error = first_line(&error.to_string());
            anyhow::anyhow!("{file} is no TorchScript file that libtorch reads: {error}")
        })?;
        module.f_set_eval().with_context(|| file.clone())?;
        let range = range.unwrap_or(Range::Signed);
        let name = format!("TorchScript {file} (BLAKE3 {}), images {range:?}", &hash[..16]);
        Ok(Self { name, batch: 16, size, range, source: Source::TorchScript { module, file }, device })
    }

    /// Features of `[N,3,H,W]` bytes: `[N,d]` in f64. `progress` hears how many are done.
    ///
    /// # Errors
    /// If the network refuses the images or gives anything else than `[N,d]` finite numbers; the shapes are named.
    pub fn of(&self, images: &Tensor, mut progress: impl FnMut(i64)) -> Result<Tensor> {
        let count = images.size()[0];
        ensure!(count > 0, "there are no images to take features of");
        let mut parts = Vec::new();
        for start in (0..count).step_by(self.batch as usize) {
            let length = self.batch.min(count - start);
            let input = self.prepared(&images.f_narrow(0, start, length)?)?;
            let found = tch::no_grad(|| self.apply(&input))?;
            ensure!(all_finite(&found)?, "{} gives features that are not finite", self.name);
            parts.push(found.f_to_kind(Kind::Double)?);
            progress(start + length);
        }
        Tensor::f_cat(&parts, 0).with_context(|| format!("{} gives features of different widths", self.name))
    }

    fn prepared(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = images.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        if let Some(size) = self.size.filter(|&size| x.size()[2..] != [size, size]) {
            // Averages where it makes smaller; the plain bilinear filter where it enlarges.
            x = x.f_internal_upsample_bilinear2d_aa([size, size], false, None, None)?;
        }
        Ok(match self.range {
            Range::Signed => x.f_div_scalar_(127.5)?.f_sub_scalar_(1.0)?,
            Range::Unit => x.f_div_scalar_(255.0)?,
            Range::Bytes => x,
            Range::Imagenet => {
                let channel = |values: [f32; 3]| -> Result<Tensor> {
                    Ok(Tensor::f_from_slice(&values)?.f_view([1, 3, 1, 1])?.f_to_device(self.device)?)
                };
                let (mean, deviation) = (channel([0.485, 0.456, 0.406])?, channel([0.229, 0.224, 0.225])?);
                x.f_div_scalar_(255.0)?.f_sub_(&mean)?.f_div_(&deviation)?
            }
        })
    }

    fn apply(&self, input: &Tensor) -> Result<Tensor> {
        match &self.source {
            Source::Random(kernels) => random(input, kernels),
            Source::EfficientNet(network) => network.features(input),
            Source::TorchScript { module, file } => {
                let given = input.size();
                let found = module.forward_ts(&[input]).map_err(|error| {
                    let error = last_line(&error.to_string());
                    anyhow::anyhow!("{file} does not take images of shape {given:?} (f32, {:?}): {error}", self.range)
                })?;
                match *found.size() {
                    [n, d] if n == given[0] && d > 0 => Ok(found),
                    ref other => {
                        bail!("{file} gives {other:?} for images of shape {given:?}, expected [{}, d]", given[0])
                    }
                }
            }
        }
    }
}

fn random(input: &Tensor, kernels: &[Tensor]) -> Result<Tensor> {
    let mut x = input.shallow_clone();
    let mut found = Vec::new();
    for kernel in kernels {
        x = x.f_conv2d(kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?.f_leaky_relu()?;
        found.push(x.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?);
        if x.size()[2] > FIELDS {
            x = x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
        }
    }
    let placed = x.f_narrow(1, 0, PLACED)?.f_adaptive_avg_pool2d([FIELDS, FIELDS])?;
    found.push(placed.f_flatten(1, -1)?);
    Ok(Tensor::f_cat(&found, 1)?)
}

/// libtorch's errors carry its own stack along.
fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("an unknown error").to_owned()
}

fn last_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Exception raised"));
    let lines = lines.take_while(|line| !line.starts_with("frame #"));
    lines.last().unwrap_or("an unknown error").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::testing::faces;

    #[test]
    fn built_in_features_are_512_finite_numbers_at_every_size_and_the_same_twice() -> Result<()> {
        for size in [16, 64] {
            let images = faces(3, 1, size)?;
            let found = Features::built_in(Device::Cpu)?.of(&images, |_| {})?;
            assert_eq!(found.size(), [3, 512]);
            assert_eq!(found, Features::built_in(Device::Cpu)?.of(&images, |_| {})?);
        }
        Ok(())
    }

    #[test]
    fn a_torchscript_file_is_held_to_its_shape_and_named_in_errors() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let traced = |name: &str, closure: fn(&Tensor) -> Tensor| -> Result<std::path::PathBuf> {
            let mut closure = |inputs: &[Tensor]| vec![closure(&inputs[0])];
            let example = Tensor::zeros([2, 3, 16, 16], (Kind::Float, Device::Cpu));
            let module = CModule::create_by_tracing("Features", "forward", &[example], &mut closure)?;
            let path = folder.path().join(name);
            module.save(&path)?;
            Ok(path)
        };
        let good = traced("good.pt", |x| x.mean_dim([2i64, 3].as_slice(), false, Kind::Float))?;
        let images = faces(5, 1, 16)?;
        let unit = Features::from_file(&good, Some(Range::Unit), None, Device::Cpu)?.of(&images, |_| {})?;
        let signed = Features::from_file(&good, None, Some(32), Device::Cpu)?.of(&images, |_| {})?;
        assert_eq!(unit.size(), [5, 3]);
        let apart = f64::try_from((unit * 2.0 - 1.0 - signed).abs().max())?;
        assert!(apart < 0.05, "{apart}");

        let flat = traced("flat.pt", |x| x.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float))?;
        let text = Features::from_file(&flat, None, None, Device::Cpu)?.of(&images, |_| {}).unwrap_err().to_string();
        assert!(text.contains("flat.pt") && text.contains("[5]") && text.contains("[5, 3, 16, 16]"), "{text}");
        let none = Features::from_file(&folder.path().join("none.pt"), None, None, Device::Cpu).unwrap_err();
        assert!(none.to_string().contains("none.pt"), "{none}");
        let torn = folder.path().join("torn.pt");
        std::fs::write(&torn, b"PK\x03\x04nothing")?;
        let text = Features::from_file(&torn, None, None, Device::Cpu).unwrap_err().to_string();
        assert!(text.contains("torn.pt") && text.lines().count() == 1, "{text}");
        Ok(())
    }
}
