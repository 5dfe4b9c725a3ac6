//! The paper's networks over parameters that are views into a flat tensor.
//!
//! Layers and names are those of `began::network`; this file only says how they are applied. Activations are
//! channels-last throughout.

use anyhow::{Context, Result, bail};
use began::config::Model;
use began::network::{self, Kind as LayerKind, Layer};
use tch::{Device, Kind, Tensor};

use crate::flat::Layout;

/// One network's parameters: the flat tensor and, as leaves for autograd, its views.
#[derive(Debug)]
pub struct Parameters {
    /// Where each parameter lies.
    pub layout: Layout,
    /// All of them.
    pub flat: Tensor,
    /// Each of them, sharing memory with `flat`.
    pub leaves: Vec<Tensor>,
}

impl Parameters {
    /// Wraps a flat tensor that has this layout.
    ///
    /// # Errors
    /// If it is too short.
    pub fn new(layout: Layout, flat: Tensor) -> Result<Self> {
        let leaves = layout.views(&flat)?.into_iter().map(|view| view.f_detach()?.f_set_requires_grad(true));
        let leaves = leaves.collect::<Result<_, _>>()?;
        Ok(Self { layout, flat, leaves })
    }

    /// Number type.
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

#[derive(Debug)]
struct Weights {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
}

impl Weights {
    fn convolve(&self, input: &Tensor) -> Result<Tensor> {
        let stride = [self.stride, self.stride];
        Ok(input.f_conv2d(&self.weight, Some(&self.bias), stride, [1, 1], [1, 1], 1)?)
    }

    /// Convolution, then ELU in the place of its result: ELU's backward needs only what it gave.
    fn convolve_elu(&self, input: &Tensor) -> Result<Tensor> {
        Ok(self.convolve(input)?.f_elu_()?)
    }

    fn linear(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// A carried layer (vanishing residual): `carry * input + (1 - carry) * ELU(conv(input))`.
    fn carried(&self, input: &Tensor, carry: f64) -> Result<Tensor> {
        let output = self.convolve_elu(input)?;
        if carry == 0.0 { Ok(output) } else { Ok(output.f_lerp(input, carry)?) }
    }
}

/// Takes each layer's weights in the order of the list.
struct Supply<'a> {
    layers: std::slice::Iter<'a, Layer>,
    leaves: std::slice::Iter<'a, Tensor>,
}

impl Supply<'_> {
    fn next(&mut self) -> Result<Weights> {
        let layer = self.layers.next().context("the network has fewer layers than its decoder or encoder")?;
        let (Some(weight), Some(bias)) = (self.leaves.next(), self.leaves.next()) else {
            bail!("no parameters for layer {}", layer.name);
        };
        let stride = match layer.kind {
            LayerKind::Conv { stride } => i64::from(stride),
            LayerKind::Linear => 1,
        };
        Ok(Weights { weight: weight.shallow_clone(), bias: bias.shallow_clone(), stride })
    }
}

#[derive(Debug)]
struct DecoderScale {
    conv: Weights,
    refine: Weights,
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
            scales.push(DecoderScale { conv: supply.next()?, refine: supply.next()? });
        }
        Ok(Self { filters: model.filters.into(), cube, scales, image: supply.next()? })
    }

    fn forward(&self, latent: &Tensor, carry: f64) -> Result<Tensor> {
        let cube = self.cube.linear(latent)?.f_view([-1, self.filters, 8, 8])?;
        let mut skip = torch_ext::channels_last(&cube)?;
        let mut x = skip.shallow_clone();
        for (i, scale) in self.scales.iter().enumerate() {
            if i > 0 {
                x = Tensor::f_cat(&[&x, &skip], 1)?;
            }
            x = twice(&scale.conv.convolve_elu(&x)?)?;
            // The last scale's skip has no reader.
            if i + 1 < self.scales.len() {
                skip = twice(&skip)?;
            }
            x = scale.refine.carried(&x, carry)?;
        }
        self.image.convolve(&x)
    }
}

/// Nearest-neighbour upsampling to twice the height and width.
fn twice(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    Ok(x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)
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
}

/// `D`: an autoencoder of images `[B,3,size,size]`.
#[derive(Debug)]
pub struct Discriminator {
    /// Its parameters.
    pub parameters: Parameters,
    encoder: Encoder,
    decoder: Decoder,
}

impl Generator {
    /// Over a flat tensor with the layout of `began::network::generator`.
    ///
    /// # Errors
    /// If the tensor is too short.
    pub fn new(model: &Model, flat: Tensor) -> Result<Self> {
        let layers = network::generator(model);
        let parameters = Parameters::new(Layout::new(&layers), flat)?;
        let mut supply = Supply { layers: layers.iter(), leaves: parameters.leaves.iter() };
        let decoder = Decoder::new(model, &mut supply)?;
        Ok(Self { parameters, decoder })
    }

    /// `G(z)`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn forward(&self, noise: &Tensor, carry: f64) -> Result<Tensor> {
        self.decoder.forward(noise, carry)
    }
}

impl Discriminator {
    /// Over a flat tensor with the layout of `began::network::discriminator`.
    ///
    /// # Errors
    /// If the tensor is too short.
    pub fn new(model: &Model, flat: Tensor) -> Result<Self> {
        let layers = network::discriminator(model);
        let parameters = Parameters::new(Layout::new(&layers), flat)?;
        let mut supply = Supply { layers: layers.iter(), leaves: parameters.leaves.iter() };
        let encoder = Encoder::new(model, &mut supply)?;
        let decoder = Decoder::new(model, &mut supply)?;
        Ok(Self { parameters, encoder, decoder })
    }

    /// `D(v)`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn forward(&self, image: &Tensor, carry: f64) -> Result<Tensor> {
        self.decoder.forward(&self.encoder.forward(image, carry)?, carry)
    }
}
