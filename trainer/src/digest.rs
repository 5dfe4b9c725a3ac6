//! The digest: BLAKE3 over everything that decides how training goes on. Two runs are the same run if their digests are.

use anyhow::Result;
use began::Equilibrium;
use tch::Tensor;

use crate::state::State;

/// A state's digest, whole and by tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Over everything, in hex.
    pub whole: String,
    /// Over each tensor's values, in hex, by name.
    pub tensors: Vec<(String, String)>,
}

/// The digest of a state and the equilibrium that belongs to it.
///
/// It covers the name and the values of every parameter, moment and average, where averages are kept (little-endian, in the order of the shape, whatever the
/// order in memory), and step, k, rate and the watch over M_global; the step decides the position in the data.
///
/// # Errors
/// If a tensor cannot be read.
pub fn digest(state: &State, equilibrium: &Equilibrium) -> Result<Digest> {
    let mut whole = blake3::Hasher::new();
    let mut tensors = Vec::new();
    for (name, tensor) in state.named()? {
        let hash = blake3::hash(&bytes(&tensor)?);
        whole.update(&(name.len() as u64).to_le_bytes());
        whole.update(name.as_bytes());
        whole.update(hash.as_bytes());
        tensors.push((name, hash.to_hex().to_string()));
    }
    let Equilibrium { step, k, rate, stall } = equilibrium;
    whole.update(&step.0.to_le_bytes());
    for value in [*k, *rate, stall.sum, stall.best.unwrap_or(f64::NEG_INFINITY)] {
        whole.update(&value.to_le_bytes());
    }
    whole.update(&stall.count.to_le_bytes());
    Ok(Digest { whole: whole.finalize().to_hex().to_string(), tensors })
}

/// A tensor's values, little-endian, in the order of its shape.
///
/// # Errors
/// If it cannot be read.
pub fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let count = tensor.numel();
    let mut out = vec![0; count * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut out, count)?;
    Ok(out)
}
