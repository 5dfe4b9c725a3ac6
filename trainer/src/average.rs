//! The average of G's weights, kept beside the live ones: `average = d average + (1 - d) G` after every step.
//!
//! Training never reads it. It is a part of the state all the same: in the digest, in checkpoints, in what is handed to whoever
//! joins, so that it is the same to the bit on every trainer and through every fault.

use anyhow::Result;
use tch::Tensor;

/// What its tensors have behind their names where G's own stand beside them: in digests.
pub const SUFFIX: &str = ".average";

/// The averaged weights.
#[derive(Debug)]
pub struct Average {
    /// Flat, with the layout and in the numbers of G's master weights.
    pub flat: Tensor,
}

impl Average {
    /// Before the first step: a copy of G's weights.
    ///
    /// # Errors
    /// If memory is short.
    pub fn of(weights: &Tensor) -> Result<Self> {
        Ok(Self { flat: tch::no_grad(|| weights.f_detach())?.copy() })
    }

    /// Takes G's weights after update number `count` in. `most` is `optimizer.average`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn follow(&self, weights: &Tensor, count: u64, most: f64) -> Result<()> {
        let decay = began::average::decay(most, count);
        // One pass over each element by itself: nothing here depends on who computes it.
        let _ = tch::no_grad(|| self.flat.shallow_clone().f_lerp_(weights, 1.0 - decay))?;
        Ok(())
    }
}
