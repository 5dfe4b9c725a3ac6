//! What a step costs, counted from shapes alone: operations, bytes through memory, activations that are kept.
//!
//! Counts are the least that the step needs, not what some way to compute it does: they are what measured times are held
//! against, and must never depend on how the trainer goes about it.

use crate::config::Model;
use crate::network::{Input, Kind, Layer, discriminator, generator, parameter_count};

/// Bytes of an f32.
const SINGLE: u64 = 4;

/// What one step of training costs; per image where it grows with the batch, per lane or step where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepCost {
    /// Operations an image, every convolution as written in the paper: 6 D + 3 G (a backward is two forwards).
    pub flops: u64,
    /// Operations an image with nearest x2 and the convolution after it as one: 4/9 of that convolution's.
    pub least_flops: u64,
    /// Bytes an image: every layer's input and output once a pass, ELU, bias and carry for nothing.
    pub activation_bytes: u64,
    /// Bytes a lane: weights read and gradients written once a pass, and their combination.
    pub gradient_bytes: u64,
    /// Bytes a step: Adam over both networks, and the copy of the weights in fewer bits.
    pub update_bytes: u64,
    /// Bytes an image that the backwards need: the inputs and results of all layers of D, and of D and G together.
    pub kept_bytes: u64,
}

/// Counts for a network whose activations are of `width` bytes an element (4 in f32, 2 in bf16).
#[must_use]
pub fn step_cost(model: &Model, width: u64) -> StepCost {
    let (d, g) = (discriminator(model), generator(model));
    let sum = |layers: &[Layer], of: &dyn Fn(&Layer) -> u64| layers.iter().map(of).sum::<u64>();
    let flops = |layers: &[Layer]| sum(layers, &Layer::forward_flops);
    let least = |layers: &[Layer]| sum(layers, &least_forward_flops);
    // Forward: input and output. Backward: the result and its gradient, the input and its gradient.
    let elements = |layers: &[Layer]| sum(layers, &|layer| inputs(layer) + outputs(layer));
    let traffic = |layers: &[Layer]| 3 * elements(layers);
    let kept = |layers: &[Layer]| sum(layers, &outputs) + 3 * u64::from(model.size).pow(2);
    let (d_count, g_count) = (parameter_count(&d), parameter_count(&g));
    let copy = if width == SINGLE { 0 } else { width };
    StepCost {
        flops: 6 * flops(&d) + 3 * flops(&g),
        least_flops: 6 * least(&d) + 3 * least(&g),
        activation_bytes: width * (2 * traffic(&d) + traffic(&g)),
        // D twice and G once: weights forward and backward, the gradient once; then g_real - k g_fake.
        gradient_bytes: (2 * width + SINGLE) * (2 * d_count + g_count) + 3 * SINGLE * d_count,
        // Weights, both moments: read and written; the gradient read.
        update_bytes: (7 * SINGLE + copy) * (d_count + g_count),
        kept_bytes: width * (kept(&d) + kept(&g)),
    }
}

/// As [`Layer::forward_flops`], a convolution after nearest x2 as four 2x2 ones at the lower size.
#[must_use]
pub fn least_forward_flops(layer: &Layer) -> u64 {
    if layer.input == Input::Upsampled { layer.forward_flops() / 9 * 4 } else { layer.forward_flops() }
}

fn outputs(layer: &Layer) -> u64 {
    layer.output_shape().iter().product()
}

/// Distinct numbers that go in for one image.
fn inputs(layer: &Layer) -> u64 {
    match layer.kind {
        Kind::Linear => layer.inputs,
        Kind::Conv { .. } => {
            let side = if layer.input == Input::Upsampled { layer.resolution / 2 } else { layer.resolution };
            layer.inputs * side * side
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: Model = Model { size: 128, filters: 128, latent: 64 };

    #[test]
    fn the_papers_step_at_128_px_costs_202_gflop_an_image_and_171_with_upsampling_folded_in() {
        let cost = step_cost(&PAPER, 4);
        assert!((cost.flops as f64 / 1e9 - 202.0).abs() < 1.0, "{cost:?}");
        assert!((cost.least_flops as f64 / 1e9 - 171.0).abs() < 1.0, "{cost:?}");
        assert_eq!(cost.flops, crate::network::step_flops(&PAPER));
    }

    #[test]
    fn half_the_bits_are_half_the_activations() {
        let (f32, bf16) = (step_cost(&PAPER, 4), step_cost(&PAPER, 2));
        assert_eq!(f32.activation_bytes, 2 * bf16.activation_bytes);
        assert_eq!(f32.kept_bytes, 2 * bf16.kept_bytes);
        assert_eq!(f32.least_flops, bf16.least_flops);
        assert!(bf16.update_bytes > f32.update_bytes);
    }
}
