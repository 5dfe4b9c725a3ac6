//! The paper's network as a list of layers: names, shapes, counts and arithmetic, without a tensor in sight.
//!
//! Trainers build their modules from this list, checkpoints take their names from it, and `trainer describe` prints it.

use crate::config::Model;

/// What a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[B, inputs] -> [B, outputs]`, with bias.
    Linear,
    /// 3x3, padding 1, with bias: `[B, inputs, s, s] -> [B, outputs, s/stride, s/stride]`.
    Conv {
        /// 1 or 2.
        stride: u32,
    },
}

/// What goes into a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// What the layer before it gave; for a network's first layer, its input.
    Plain,
    /// That, enlarged x2 by repeating pixels.
    Upsampled,
    /// That in the first half of the channels, the decoder's skip in the second.
    WithSkip,
}

/// One layer with weight and bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name in every weights file, without `.weight` or `.bias`.
    pub name: String,
    /// What it computes.
    pub kind: Kind,
    /// What it computes it from.
    pub input: Input,
    /// Features or channels in.
    pub inputs: u64,
    /// Features or channels out.
    pub outputs: u64,
    /// Height and width of what goes in (1 for a linear layer).
    pub resolution: u64,
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in every weights file.
    pub name: String,
    /// Its shape: `[out, in]`, `[out, in, 3, 3]` or `[out]`.
    pub shape: Vec<u64>,
    /// Inputs that each output sums over; the initial values are uniform in ±1/sqrt(fan_in).
    pub fan_in: u64,
}

impl Layer {
    /// Weight, then bias.
    #[must_use]
    pub fn parameters(&self) -> [Parameter; 2] {
        let (shape, fan_in) = match self.kind {
            Kind::Linear => (vec![self.outputs, self.inputs], self.inputs),
            Kind::Conv { .. } => (vec![self.outputs, self.inputs, 3, 3], self.inputs * 9),
        };
        [
            Parameter { name: format!("{}.weight", self.name), shape, fan_in },
            Parameter { name: format!("{}.bias", self.name), shape: vec![self.outputs], fan_in },
        ]
    }

    /// How many numbers its parameters are.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        self.parameters().iter().map(Parameter::count).sum()
    }

    /// Shape of what comes out for one image, without the batch.
    #[must_use]
    pub fn output_shape(&self) -> Vec<u64> {
        match self.kind {
            Kind::Linear => vec![self.outputs],
            Kind::Conv { stride } => {
                let side = self.resolution / u64::from(stride);
                vec![self.outputs, side, side]
            }
        }
    }

    /// Floating-point operations of one forward pass over one image (a multiply-add counts as two).
    #[must_use]
    pub fn forward_flops(&self) -> u64 {
        let positions: u64 = self.output_shape().iter().skip(1).product();
        let taps = match self.kind {
            Kind::Linear => 1,
            Kind::Conv { .. } => 9,
        };
        2 * taps * self.inputs * self.outputs * positions
    }
}

impl Parameter {
    /// How many numbers it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Up- or down-samplings between 8 pixels and the image: log2(size / 8).
#[must_use]
pub fn scales(size: u32) -> u32 {
    (size / 8).ilog2()
}

/// The generator's layers, first to last.
#[must_use]
pub fn generator(model: &Model) -> Vec<Layer> {
    decoder("generator", model)
}

/// The discriminator's layers: encoder, then decoder.
#[must_use]
pub fn discriminator(model: &Model) -> Vec<Layer> {
    let mut layers = encoder("discriminator.encoder", model);
    layers.extend(decoder("discriminator.decoder", model));
    layers
}

fn encoder(prefix: &str, model: &Model) -> Vec<Layer> {
    let n = u64::from(model.filters);
    let conv = |name: String, inputs, outputs, stride, resolution| Layer {
        name: format!("{prefix}.{name}"),
        kind: Kind::Conv { stride },
        input: Input::Plain,
        inputs,
        outputs,
        resolution,
    };
    let mut resolution = u64::from(model.size);
    let mut layers = vec![conv("input".into(), 3, n, 1, resolution)];
    let scales = u64::from(scales(model.size));
    for i in 0..scales {
        let channels = n * (i + 1);
        layers.push(conv(format!("scale{i}.conv"), channels, channels, 1, resolution));
        layers.push(conv(format!("scale{i}.down"), channels, channels + n, 2, resolution));
        resolution /= 2;
    }
    layers.push(Layer {
        name: format!("{prefix}.latent"),
        kind: Kind::Linear,
        input: Input::Plain,
        inputs: n * (scales + 1) * 64,
        outputs: model.latent.into(),
        resolution: 1,
    });
    layers
}

fn decoder(prefix: &str, model: &Model) -> Vec<Layer> {
    let n = u64::from(model.filters);
    let mut layers = vec![Layer {
        name: format!("{prefix}.cube"),
        kind: Kind::Linear,
        input: Input::Plain,
        inputs: model.latent.into(),
        outputs: n * 64,
        resolution: 1,
    }];
    let mut conv = |name: String, input, outputs, resolution| {
        let (kind, inputs) = (Kind::Conv { stride: 1 }, if input == Input::WithSkip { 2 * n } else { n });
        layers.push(Layer { name: format!("{prefix}.{name}"), kind, input, inputs, outputs, resolution });
    };
    let mut resolution = 8;
    for i in 0..scales(model.size) {
        conv(format!("scale{i}.conv"), if i == 0 { Input::Plain } else { Input::WithSkip }, n, resolution);
        resolution *= 2;
        conv(format!("scale{i}.refine"), Input::Upsampled, n, resolution);
    }
    conv("image".into(), Input::Plain, 3, resolution);
    layers
}

/// Numbers in all parameters of these layers.
#[must_use]
pub fn parameter_count(layers: &[Layer]) -> u64 {
    layers.iter().map(Layer::parameter_count).sum()
}

/// Operations of one training step over one image: D and G forward, one backward over D on real images and one through D
/// and G on generated ones, a backward counting as two forwards: 6 D + 3 G.
#[must_use]
pub fn step_flops(model: &Model) -> u64 {
    let forward = |layers: &[Layer]| layers.iter().map(Layer::forward_flops).sum::<u64>();
    6 * forward(&discriminator(model)) + 3 * forward(&generator(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_the_papers() {
        for (size, filters, d, g) in [
            (32, 128, 4_768_195, 1_273_731),
            (64, 64, 2_868_035, 563_267),
            (64, 128, 8_832_579, 1_716_355),
            (128, 64, 4_568_579, 673_987),
            (128, 128, 15_109_059, 2_158_979),
            (256, 128, 24_187_459, 2_601_603),
        ] {
            let model = Model { size, filters, latent: 64 };
            assert_eq!(parameter_count(&discriminator(&model)), d, "D at {size} px, n = {filters}");
            assert_eq!(parameter_count(&generator(&model)), g, "G at {size} px, n = {filters}");
        }
    }

    #[test]
    fn the_skip_goes_into_a_decoders_first_convolutions_but_the_first_scales_whatever_their_shapes() {
        // With 6 channels the convolution that makes the image has as many inputs for its outputs as one that takes the skip.
        let layers = discriminator(&Model { size: 64, filters: 6, latent: 8 });
        let names = |input| -> Vec<&str> {
            layers.iter().filter(|layer| layer.input == input).map(|layer| layer.name.as_str()).collect()
        };
        let decoder = |name: &str| format!("discriminator.decoder.{name}");
        assert_eq!(names(Input::WithSkip), [decoder("scale1.conv"), decoder("scale2.conv")]);
        assert_eq!(names(Input::Upsampled), ["scale0.refine", "scale1.refine", "scale2.refine"].map(decoder));
    }

    #[test]
    fn a_step_at_128_px_costs_what_was_counted_by_hand() {
        let giga = step_flops(&Model { size: 128, filters: 128, latent: 64 }) as f64 / 1e9;
        assert!((giga - 202.0).abs() < 1.0, "{giga}");
    }
}
