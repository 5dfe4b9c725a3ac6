//! A test's fault: `BEGAN_TEST_FLIP=TENSOR@STEP@NODE@LOCAL_RANK` flips one bit of one tensor of this trainer, once, right after
//! that many steps are committed. Nothing else reads or sets it.

use anyhow::{Context, Result};
use tch::Kind;

use crate::state::State;

/// The flip that this process is to do, if it is to do one.
#[derive(Clone, Debug)]
pub struct Flip {
    tensor: String,
    step: u64,
}

impl Flip {
    /// What the environment says for this trainer.
    #[must_use]
    pub fn for_trainer(node: u32, local_rank: u32) -> Option<Self> {
        let text = std::env::var("BEGAN_TEST_FLIP").ok()?;
        let [tensor, step, at_node, at_rank] = text.split('@').collect::<Vec<_>>().try_into().ok()?;
        let here = at_node.parse() == Ok(node) && at_rank.parse() == Ok(local_rank);
        here.then_some(Self { tensor: tensor.into(), step: step.parse().ok()? })
    }

    /// Whether its time has come.
    #[must_use]
    pub fn is_due(&self, state: &State) -> bool {
        state.step.0 == self.step
    }

    /// Does it.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn strike(&self, state: &State) -> Result<()> {
        let named = state.named()?;
        let (_, tensor) = named
            .iter()
            .find(|(name, _)| *name == self.tensor)
            .with_context(|| format!("BEGAN_TEST_FLIP: there is no tensor {}", self.tensor))?;
        // The lowest bit of the first element: as little as can be wrong.
        let mut first = tensor.shallow_clone();
        while first.dim() > 0 {
            first = first.f_select(0, 0)?;
        }
        let bits = if tensor.kind() == Kind::Double { Kind::Int64 } else { Kind::Int };
        let flipped = first
            .f_view_dtype(bits)?
            .f_bitwise_xor_tensor(&tch::Tensor::from(1i32).f_to_kind(bits)?)?
            .f_view_dtype(tensor.kind())?;
        tch::no_grad(|| first.shallow_clone().f_copy_(&flipped))?;
        state.refresh()?;
        tracing::warn!(tensor = self.tensor, step = self.step, "a bit was flipped, as a test asked for");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::RunConfig;
    use began::config::{Model, Precision};
    use tch::Device;

    #[test]
    fn exactly_one_bit_of_the_named_tensor_changes() -> Result<()> {
        for precision in [Precision::F32, Precision::Bf16, Precision::F64] {
            let mut config = RunConfig { model: Model { size: 16, filters: 2, latent: 3 }, ..RunConfig::default() };
            config.run.precision = precision;
            let (sound, struck) = (State::initial(&config, Device::Cpu)?, State::initial(&config, Device::Cpu)?);
            let (name, _) = sound.named()?.swap_remove(2);
            Flip { tensor: name.clone(), step: 0 }.strike(&struck)?;
            let mut bits = 0;
            for ((at, before), (_, after)) in sound.named()?.into_iter().zip(struck.named()?) {
                let (before, after) = (crate::digest::bytes(&before)?, crate::digest::bytes(&after)?);
                let flipped: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
                assert!(flipped == 0 || at == name);
                bits += flipped;
            }
            assert_eq!(bits, 1);
        }
        Ok(())
    }
}
