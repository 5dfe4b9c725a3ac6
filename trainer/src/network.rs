//! The paper's networks over parameters that are views into a flat tensor.
//!
//! Layers and names are those of `began::network`; this file only says how they are applied, and in what numbers: images,
//! noise and results are in the master's kind, everything in between in the arithmetic's. Activations are channels-last throughout.

use anyhow::{Context, Result, bail};
use began::config::Model;
use began::network::{self, Input, Kind as LayerKind, Layer};
use tch::{Device, Kind, Tensor};

use crate::activation;
use crate::arithmetic::{Arithmetic, Skip, Upsampling};
use crate::flat::Layout;
use crate::upsampled::{BlockConvolution, UpsampledConvolution, twice};

/// One network's parameters: the flat tensor and, as leaves for autograd, its views.
#[derive(Debug)]
pub struct Parameters {
    /// Where each parameter lies.
    pub layout: Layout,
    /// All of them: the master weights.
    pub flat: Tensor,
    /// Each of them as the network takes it: sharing memory with `flat`, or with its copy in fewer bits.
    pub leaves: Vec<Tensor>,
    /// All of them in fewer bits, where the arithmetic is mixed.
    copy: Option<Tensor>,
}

impl Parameters {
    /// Wraps a flat tensor that has the layout of these layers.
    ///
    /// # Errors
    /// If it is too short.
    pub fn new(layers: &[Layer], flat: Tensor, arithmetic: Arithmetic) -> Result<Self> {
        let layout = Layout::new(layers);
        let copy = arithmetic.is_mixed().then(|| flat.f_to_kind(arithmetic.compute)).transpose()?;
        let mut views = layout.views(&flat)?;
        if let Some(copy) = &copy {
            // A kernel whose taps are summed first is taken as it is: it is rounded once, after that.
            let summed = layers.iter().flat_map(|layer| [is_summed(layer, arithmetic), false]);
            for ((view, rounded), summed) in views.iter_mut().zip(layout.views(copy)?).zip(summed) {
                if !summed {
                    *view = rounded;
                }
            }
        }
        let leaves = views.into_iter().map(|view| view.f_detach()?.f_set_requires_grad(true));
        let leaves = leaves.collect::<Result<_, _>>()?;
        Ok(Self { layout, flat, leaves, copy })
    }

    /// Brings the copy in fewer bits up to date: after every change of the flat tensor, before anything is computed with it.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn refresh(&self) -> Result<()> {
        if let Some(copy) = &self.copy {
            tch::no_grad(|| copy.shallow_clone().f_copy_(&self.flat))?;
        }
        Ok(())
    }

    /// Number type of the master weights, and of what goes in and comes out.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.flat.kind()
    }

    /// Where they live.
    #[must_use]
    pub fn device(&self) -> Device {
        self.flat.device()
    }
}

/// Whether sums of this layer's taps are taken rather than its kernel.
fn is_summed(layer: &Layer, arithmetic: Arithmetic) -> bool {
    (layer.input == Input::Upsampled && arithmetic.upsampling != Upsampling::Direct) || folds_skip(layer, arithmetic)
}

/// Whether the second half of this layer's inputs is the skip, and is computed at 8x8.
fn folds_skip(layer: &Layer, arithmetic: Arithmetic) -> bool {
    // Below 32 pixels the nine kernels cost as much as they save.
    arithmetic.skip == Skip::Folded && layer.input == Input::WithSkip && layer.resolution >= 32
}

#[derive(Debug)]
struct Weights {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    fused: bool,
}

impl Weights {
    fn convolve(&self, input: &Tensor) -> Result<Tensor> {
        self.convolve_with(input, Some(&self.bias))
    }

    fn convolve_with(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let stride = [self.stride, self.stride];
        Ok(input.f_conv2d(&self.weight, bias, stride, [1, 1], [1, 1], 1)?)
    }

    fn convolve_elu(&self, input: &Tensor) -> Result<Tensor> {
        activation::convolve_elu(&self.bias, self.fused, |bias| self.convolve_with(input, bias))
    }

    fn linear(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// A carried layer: see [`carried`].
    fn carried(&self, input: &Tensor, carry: f64) -> Result<Tensor> {
        carried(self.convolve_elu(input)?, || Ok(input.shallow_clone()), carry)
    }
}

/// The vanishing residual: `carry * input + (1 - carry) * output`.
fn carried(output: Tensor, input: impl FnOnce() -> Result<Tensor>, carry: f64) -> Result<Tensor> {
    if carry == 0.0 { Ok(output) } else { Ok(output.f_lerp(&input()?, carry)?) }
}

/// Takes each layer's weights in the order of the list.
struct Supply<'a> {
    layers: std::slice::Iter<'a, Layer>,
    leaves: std::slice::Iter<'a, Tensor>,
    arithmetic: Arithmetic,
}

impl<'a> Supply<'a> {
    fn new(layers: &'a [Layer], parameters: &'a Parameters, arithmetic: Arithmetic) -> Self {
        Self { layers: layers.iter(), leaves: parameters.leaves.iter(), arithmetic }
    }

    fn next(&mut self) -> Result<Weights> {
        Ok(self.next_with_layer()?.0)
    }

    fn next_with_layer(&mut self) -> Result<(Weights, &'a Layer)> {
        let layer = self.layers.next().context("the network has fewer layers than its decoder or encoder")?;
        let (Some(weight), Some(bias)) = (self.leaves.next(), self.leaves.next()) else {
            bail!("no parameters for layer {}", layer.name);
        };
        let stride = match layer.kind {
            LayerKind::Conv { stride } => i64::from(stride),
            LayerKind::Linear => 1,
        };
        let (weight, bias) = (weight.shallow_clone(), bias.shallow_clone());
        Ok((Weights { weight, bias, stride, fused: self.arithmetic.fused }, layer))
    }
}

/// A decoder scale's first convolution.
#[derive(Debug)]
struct SkipConvolution {
    weights: Weights,
    /// Where the skip's part is computed at 8x8.
    folded: Option<BlockConvolution>,
}

impl SkipConvolution {
    fn new(supply: &mut Supply<'_>) -> Result<Self> {
        let arithmetic = supply.arithmetic;
        let (weights, layer) = supply.next_with_layer()?;
        let factor = layer.resolution as i64 / 8;
        let folded = folds_skip(layer, arithmetic).then(|| BlockConvolution::new(&weights.weight, factor));
        Ok(Self { weights, folded: folded.transpose()? })
    }

    /// ELU of the convolution over `x` and the skip, which is `[B,n,8,8]` (`cube`) or as large as x (`skip`).
    fn elu(&self, x: &Tensor, skip: Option<&Tensor>, cube: &Tensor) -> Result<Tensor> {
        let (Some(folded), Weights { weight, bias, fused, .. }) = (&self.folded, &self.weights) else {
            return match skip {
                Some(skip) => self.weights.convolve_elu(&Tensor::f_cat(&[x, skip], 1)?),
                None => self.weights.convolve_elu(x),
            };
        };
        let filters = weight.size4()?.0;
        let of_x = weight.f_narrow(1, 0, filters)?.f_to_kind(x.kind())?;
        let of_skip = weight.f_narrow(1, filters, filters)?;
        activation::convolve_elu(bias, *fused, |bias| {
            let y = x.f_conv2d(&of_x, bias, [1, 1], [1, 1], [1, 1], 1)?;
            // In its place: the convolution's backward does not ask for what it gave.
            Ok(y.shallow_clone().f_add_(&folded.apply(cube, &of_skip)?)?)
        })
    }
}

#[derive(Debug)]
struct DecoderScale {
    conv: SkipConvolution,
    refine: UpsampledConvolution,
}

/// Latent `[B,h]` to image `[B,3,size,size]`: the generator, and the discriminator's second half.
#[derive(Debug)]
struct Decoder {
    filters: i64,
    cube: Weights,
    scales: Vec<DecoderScale>,
    image: Weights,
}

impl Decoder {
    fn new(model: &Model, supply: &mut Supply<'_>) -> Result<Self> {
        let cube = supply.next()?;
        let mut scales = Vec::new();
        for _ in 0..network::scales(model.size) {
            let conv = SkipConvolution::new(supply)?;
            let Weights { weight, bias, .. } = supply.next()?;
            let refine = UpsampledConvolution::new(weight, bias, supply.arithmetic)?;
            scales.push(DecoderScale { conv, refine });
        }
        Ok(Self { filters: model.filters.into(), cube, scales, image: supply.next()? })
    }

    fn forward(&self, latent: &Tensor, carry: f64) -> Result<Tensor> {
        let cube = self.cube.linear(latent)?.f_view([-1, self.filters, 8, 8])?;
        let cube = torch_ext::channels_last(&cube)?;
        let mut x = cube.shallow_clone();
        let mut skip: Option<Tensor> = None;
        for (i, scale) in self.scales.iter().enumerate() {
            let low = scale.conv.elu(&x, skip.as_ref(), &cube)?;
            // As large as the next scale's input, if that takes it so.
            skip = match self.scales.get(i + 1) {
                Some(next) if next.conv.folded.is_none() => Some(twice(skip.as_ref().unwrap_or(&cube))?),
                _ => None,
            };
            x = carried(scale.refine.elu(&low)?, || twice(&low), carry)?;
        }
        self.image.convolve(&x)
    }
}

#[derive(Debug)]
struct EncoderScale {
    conv: Weights,
    down: Weights,
}

/// Image `[B,3,size,size]` to latent `[B,h]`.
#[derive(Debug)]
struct Encoder {
    input: Weights,
    scales: Vec<EncoderScale>,
    latent: Weights,
}

impl Encoder {
    fn new(model: &Model, supply: &mut Supply<'_>) -> Result<Self> {
        let input = supply.next()?;
        let mut scales = Vec::new();
        for _ in 0..network::scales(model.size) {
            scales.push(EncoderScale { conv: supply.next()?, down: supply.next()? });
        }
        Ok(Self { input, scales, latent: supply.next()? })
    }

    fn forward(&self, image: &Tensor, carry: f64) -> Result<Tensor> {
        let mut x = self.input.convolve_elu(image)?;
        for scale in &self.scales {
            x = scale.conv.carried(&x, carry)?;
            x = scale.down.convolve_elu(&x)?;
        }
        self.latent.linear(&x.f_flatten(1, -1)?)
    }
}

/// `G`: noise `[B,h]` to images `[B,3,size,size]`.
#[derive(Debug)]
pub struct Generator {
    /// Its parameters.
    pub parameters: Parameters,
    decoder: Decoder,
    compute: Kind,
}

/// `D`: an autoencoder of images `[B,3,size,size]`.
#[derive(Debug)]
pub struct Discriminator {
    /// Its parameters.
    pub parameters: Parameters,
    encoder: Encoder,
    decoder: Decoder,
    compute: Kind,
}

impl Generator {
    /// Over a flat tensor with the layout of `began::network::generator`.
    ///
    /// # Errors
    /// If the tensor is too short.
    pub fn new(model: &Model, flat: Tensor, arithmetic: Arithmetic) -> Result<Self> {
        let layers = network::generator(model);
        let parameters = Parameters::new(&layers, flat, arithmetic)?;
        let decoder = Decoder::new(model, &mut Supply::new(&layers, &parameters, arithmetic))?;
        Ok(Self { parameters, decoder, compute: arithmetic.compute })
    }

    /// `G(z)`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn forward(&self, noise: &Tensor, carry: f64) -> Result<Tensor> {
        Ok(self.decoder.forward(&noise.f_to_kind(self.compute)?, carry)?.f_to_kind(noise.kind())?)
    }
}

impl Discriminator {
    /// Over a flat tensor with the layout of `began::network::discriminator`.
    ///
    /// # Errors
    /// If the tensor is too short.
    pub fn new(model: &Model, flat: Tensor, arithmetic: Arithmetic) -> Result<Self> {
        let layers = network::discriminator(model);
        let parameters = Parameters::new(&layers, flat, arithmetic)?;
        let mut supply = Supply::new(&layers, &parameters, arithmetic);
        let encoder = Encoder::new(model, &mut supply)?;
        let decoder = Decoder::new(model, &mut supply)?;
        Ok(Self { parameters, encoder, decoder, compute: arithmetic.compute })
    }

    /// `D(v)`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn forward(&self, image: &Tensor, carry: f64) -> Result<Tensor> {
        let latent = self.encoder.forward(&image.f_to_kind(self.compute)?, carry)?;
        Ok(self.decoder.forward(&latent, carry)?.f_to_kind(image.kind())?)
    }
}
