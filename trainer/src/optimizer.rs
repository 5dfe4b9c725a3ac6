//! Adam over one network's flat tensor.

use anyhow::Result;
use began::config::Optimizer;
use tch::{Kind, Tensor};

/// Adam's moments for one network, flat like its parameters.
#[derive(Debug)]
pub struct Adam {
    /// First moment.
    pub m: Tensor,
    /// Second moment.
    pub v: Tensor,
}

impl Adam {
    /// Before the first step.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(parameters: &Tensor) -> Result<Self> {
        Ok(Self { m: parameters.f_zeros_like()?, v: parameters.f_zeros_like()? })
    }

    /// Moves `weights` against `gradient`. `count` is how many updates this makes, itself included.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn update(
        &self,
        weights: &Tensor,
        gradient: &Tensor,
        count: u64,
        rate: f64,
        settings: &Optimizer,
    ) -> Result<()> {
        let count = Tensor::f_full([] as [i64; 0], count as f64, (Kind::Float, weights.device()))?;
        let betas = (settings.beta1, settings.beta2);
        Ok(torch_ext::fused_adam_(weights, gradient, &self.m, &self.v, &count, rate, betas, settings.epsilon)?)
    }
}
