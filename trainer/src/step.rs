//! One lane's part of a step (BEGAN, section 3.4), in the order of the paper's sums:
//!
//! 1. `L_real = L(x)`; one backward gives `g_real` over D.
//! 2. `fake = G(z)`, `L_fake = L(fake)`, the target not detached; one backward gives `g_fake` over D and, through `fake`,
//!    what G's backward starts from. D is never run a second time.
//! 3. `g_D = g_real - k g_fake`: the first place that needs k.
//! 4. G's backward, while D's gradients are already on their way to the other trainers.
//!
//! It reads the networks and writes gradients; it never changes a weight.

use anyhow::Result;
use tch::Tensor;

use crate::images::{Measure, Measured};
use crate::network::Parameters;
use crate::state::State;
use crate::transfer::PendingLosses;

/// What the step is computed with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// 1 or 2: the power of `|v - D(v)|`.
    pub norm: u32,
    /// The vanishing residual's carry in this step.
    pub carry: f64,
    /// What is measured of single images beside the losses.
    pub measure: Measure,
}

/// Flat gradients and their views, one set a network; used again step after step.
#[derive(Debug)]
pub struct GradientBuffer {
    /// `[len]`, with room behind for a padded reduction.
    pub flat: Tensor,
    views: Vec<Tensor>,
}

impl GradientBuffer {
    /// A zeroed buffer for these parameters, at least `capacity` elements long.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(parameters: &Parameters, capacity: i64) -> Result<Self> {
        let len = capacity.max(parameters.layout.len());
        let flat = Tensor::f_zeros([len], (parameters.kind(), parameters.device()))?;
        Ok(Self { views: parameters.layout.views(&flat)?, flat })
    }

    fn store(&self, gradients: &[Tensor]) -> Result<()> {
        Ok(torch_ext::foreach_copy_(&self.views, gradients)?)
    }
}

/// `L(v) = mean |v - recon|^norm`, a scalar.
///
/// # Errors
/// If shapes differ.
pub fn reconstruction_loss(v: &Tensor, recon: &Tensor, norm: u32) -> Result<Tensor> {
    let mean = tch::Reduction::Mean;
    Ok(if norm == 2 { v.f_mse_loss(recon, mean)? } else { v.f_l1_loss(recon, mean)? })
}

/// Steps 1 and 2 of one lane, with what is left to do for G.
#[derive(Debug)]
pub struct LanePass {
    real: Tensor,
    fake: Tensor,
    /// `G(z)`, with its graph.
    image: Tensor,
    /// Gradient of `L_fake` over `image`.
    image_gradient: Tensor,
    /// What was measured of single images.
    images: Option<Measured>,
}

impl LanePass {
    /// Runs D over the real images and over G's, and leaves `g_real` and `g_fake` in the buffers.
    /// `x` is `[B,3,size,size]` in [-1,1], channels-last; `z` is `[B,h]`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn run(
        state: &State,
        x: &Tensor,
        z: &Tensor,
        settings: Settings,
        g_real: &GradientBuffer,
        g_fake: &GradientBuffer,
    ) -> Result<Self> {
        Self::run_marked(state, x, z, settings, g_real, g_fake, &mut |_| Ok(()))
    }

    /// As [`LanePass::run`]; `mark` is told each stage when it has been given to the device.
    ///
    /// # Errors
    /// If shapes do not fit, memory is short, or `mark` fails.
    pub fn run_marked(
        state: &State,
        x: &Tensor,
        z: &Tensor,
        settings: Settings,
        g_real: &GradientBuffer,
        g_fake: &GradientBuffer,
        mark: &mut dyn FnMut(&'static str) -> Result<()>,
    ) -> Result<Self> {
        let Settings { norm, carry, measure } = settings;
        let d = &state.discriminator;

        let again = d.forward(x, carry)?;
        let real = reconstruction_loss(x, &again, norm)?;
        mark("D forward, real")?;
        g_real.store(&torch_ext::grad(&real, None, &d.parameters.leaves)?)?;
        mark("D backward, real")?;

        let image = state.generator.forward(z, carry)?;
        mark("G forward")?;
        // A leaf of its own, so that D's backward stops here and D's gradients can leave before G's are begun.
        let leaf = image.f_detach()?.f_set_requires_grad(true)?;
        let fake_again = d.forward(&leaf, carry)?;
        let fake = reconstruction_loss(&leaf, &fake_again, norm)?;
        mark("D forward, fake")?;
        let inputs: Vec<&Tensor> = d.parameters.leaves.iter().chain([&leaf]).collect();
        let mut gradients = torch_ext::grad(&fake, None, &inputs)?;
        let image_gradient = gradients.pop().ok_or_else(|| anyhow::anyhow!("no gradient for the generated images"))?;
        g_fake.store(&gradients)?;
        mark("D backward, fake")?;
        let images = measure.images((x, &again), (&leaf, &fake_again), norm)?;
        Ok(Self { real: real.f_detach()?, fake: fake.f_detach()?, image, image_gradient, images })
    }

    /// The lane's losses on their way to the host, with which samples it `drawn`; nothing waits for them here.
    ///
    /// # Errors
    /// If memory is short.
    pub fn losses(&self, drawn: u64) -> Result<PendingLosses> {
        PendingLosses::start(&self.real, &self.fake, self.images.as_ref(), drawn)
    }

    /// G's backward, into its buffer.
    ///
    /// # Errors
    /// If memory is short.
    pub fn generator_gradient(self, state: &State, into: &GradientBuffer) -> Result<()> {
        let leaves = &state.generator.parameters.leaves;
        into.store(&torch_ext::grad(&self.image, Some(&self.image_gradient), leaves)?)
    }

    /// `G(z)`, `[B,3,size,size]`.
    pub fn image(&self) -> Tensor {
        self.image.detach()
    }
}

/// `g_real - k g_fake`, in the place of `g_real`.
///
/// # Errors
/// If the buffers are of different lengths.
pub fn combine(g_real: &GradientBuffer, g_fake: &GradientBuffer, k: f64) -> Result<()> {
    Ok(torch_ext::add_scaled_(&g_real.flat, &g_fake.flat, -k)?)
}
