//! The same step in f64 on the CPU, from the very weights, moments and inputs of a step in fewer bits: what that step should have
//! given but for its rounding.
//!
//! With the norm 1, gradients begin with the signs of `v - D(v)`. Where a residual is nearer to zero than its rounding, its sign
//! is chance, and no bound of rounding holds for sums of signs. So the signs are taken from the step in fewer bits, and what
//! is left between the two gradients is rounding alone.

use anyhow::Result;
use began::config::{Precision, RunConfig};
use began::equilibrium::LaneLosses;
use began::network::{self, Layer};
use tch::{Device, Kind, Tensor};

use super::course::Computed;
use super::report::Expected;
use crate::arithmetic::{Arithmetic, Skip, Upsampling};
use crate::reduce::Gradient;
use crate::state::State;
use crate::step::reconstruction_loss;

/// A step in f64.
pub struct Exact {
    state: State,
    /// `D(x)`.
    pub recon_real: Tensor,
    /// `G(z)`.
    pub fake: Tensor,
    /// `L(x)` and `L(G(z))`.
    pub losses: LaneLosses,
    /// Each gradient, D's before G's.
    pub gradients: Vec<ExactGradient>,
}

/// A gradient in f64, and what its difference from another is measured by.
pub struct ExactGradient {
    values: Tensor,
    /// Size of the whole network's gradient.
    network: f64,
    /// Positions that it is summed over.
    positions: u64,
}

/// A gradient may be off by as much as one of a hundredth of its network's size.
const BESIDE: f64 = 0.01;

impl ExactGradient {
    /// For a comparison.
    #[must_use]
    pub fn expected(&self) -> Expected<'_> {
        Expected { values: &self.values, beside: BESIDE * self.network, positions: self.positions }
    }

    /// Those of one network, in the order of its layers' parameters.
    fn of(layers: &[Layer], gradients: Vec<Tensor>, batch: u32) -> Result<Vec<Self>> {
        let mut sum = 0.0;
        for gradient in &gradients {
            sum += f64::try_from(gradient.f_norm()?)?.powi(2);
        }
        let positions = layers.iter().flat_map(|layer| {
            let places: u64 = layer.output_shape().iter().skip(1).product();
            // A weight's gradient is a product of matrices, a bias's a plain sum.
            [0, u64::from(batch) * places]
        });
        let found = gradients.into_iter().zip(positions);
        Ok(found.map(|(values, positions)| Self { values, network: sum.sqrt(), positions }).collect())
    }
}

fn widened(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_detach_copy()?)
}

impl Exact {
    /// The step that `computed` took from `state`, which has not moved yet.
    ///
    /// # Errors
    /// If memory is short.
    pub fn compute(state: &State, computed: &Computed, config: &RunConfig) -> Result<Self> {
        let plain = Arithmetic {
            upsampling: Upsampling::Direct,
            skip: Skip::Concat,
            fused: false,
            ..Arithmetic::new(Precision::F64, Device::Cpu)?
        };
        let (d_flat, g_flat) = (&state.discriminator.parameters.flat, &state.generator.parameters.flat);
        let mut exact = State::from_flat(&config.model, widened(d_flat)?, widened(g_flat)?, plain)?;
        exact.step = state.step;
        for (to, from) in [
            (&mut exact.discriminator_adam, &state.discriminator_adam),
            (&mut exact.generator_adam, &state.generator_adam),
        ] {
            (to.m, to.v) = (widened(&from.m)?, widened(&from.v)?);
        }

        let (norm, carry) = (computed.settings.norm, computed.settings.carry);
        let (x, z) = (torch_ext::channels_last(&widened(&computed.x)?)?, widened(&computed.z)?);
        // The signs that the step in fewer bits saw.
        let found_again = tch::no_grad(|| state.discriminator.forward(&computed.fake, carry))?;
        let signs = |v: &Tensor, again: &Tensor| -> Result<Tensor> { Ok((widened(v)? - widened(again)?).f_sign()?) };
        let real_signs = signs(&computed.x, &computed.recon_real)?;
        let fake_signs = signs(&computed.fake, &found_again)?;
        let functional = |v: &Tensor, again: &Tensor, signs: &Tensor| -> Result<Tensor> {
            if norm == 2 {
                return reconstruction_loss(v, again, norm);
            }
            Ok(((v - again) * signs).f_mean(Kind::Double)?)
        };
        let (d, g) = (&exact.discriminator, &exact.generator);
        let again = d.forward(&x, carry)?;
        let real = reconstruction_loss(&x, &again, norm)?;
        let g_real = torch_ext::grad(&functional(&x, &again, &real_signs)?, None, &d.parameters.leaves)?;
        let image = g.forward(&z, carry)?;
        let leaf = image.f_detach()?.f_set_requires_grad(true)?;
        let again_fake = d.forward(&leaf, carry)?;
        let fake = reconstruction_loss(&leaf, &again_fake, norm)?;
        let inputs: Vec<&Tensor> = d.parameters.leaves.iter().chain([&leaf]).collect();
        let mut g_fake = torch_ext::grad(&functional(&leaf, &again_fake, &fake_signs)?, None, &inputs)?;
        let image_gradient = g_fake.pop().ok_or_else(|| anyhow::anyhow!("no gradient for the generated images"))?;
        let g_gradient = torch_ext::grad(&image, Some(&image_gradient), &g.parameters.leaves)?;

        let d_gradient = g_real.iter().zip(&g_fake).map(|(real, fake)| real - fake * computed.now.k).collect();
        let mut gradients = ExactGradient::of(&network::discriminator(&config.model), d_gradient, config.run.batch)?;
        gradients.extend(ExactGradient::of(&network::generator(&config.model), g_gradient, config.run.batch)?);
        let value = |tensor: &Tensor| tensor.f_double_value(&[]);
        let losses = LaneLosses { real: value(&real)?, fake: value(&fake)?, drawn: 0 };
        let (recon_real, fake) = (again.f_detach()?, image.f_detach()?);
        Ok(Self { state: exact, recon_real, fake, losses, gradients })
    }

    /// Adam's update by the gradients of the step in fewer bits: each weight after it, by name.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn weights_after(mut self, computed: &Computed, config: &RunConfig) -> Result<Vec<(String, Tensor)>> {
        let gradient = |gradient: &Gradient| -> Result<Gradient> { Ok(Gradient(widened(&gradient.0)?)) };
        let (d, g) = (gradient(&computed.d_gradient)?, gradient(&computed.g_gradient)?);
        self.state.commit(&d, &g, computed.now.rate, config)?;
        self.state.weights()
    }
}
