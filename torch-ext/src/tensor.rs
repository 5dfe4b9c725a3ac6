//! Tensor operations that tch does not expose.

use std::borrow::Borrow;
use std::ptr;

use tch::Tensor;

use crate::{TorchError, ffi};

fn pointers<T: Borrow<Tensor>>(tensors: &[T]) -> Vec<*const ffi::RawTensor> {
    tensors.iter().map(|tensor| tensor.borrow().as_ptr()).collect()
}

/// Gradients of `output` over each of `inputs`; `seed` is the gradient of `output` itself, 1 if it is a scalar and none
/// is given. Leaves no `.grad` behind; the graph is freed.
///
/// # Errors
/// If an input does not take part in `output`, or shapes do not fit.
pub fn grad<T: Borrow<Tensor>>(
    output: &Tensor,
    seed: Option<&Tensor>,
    inputs: &[T],
) -> Result<Vec<Tensor>, TorchError> {
    let inputs = pointers(inputs);
    let mut out = vec![ptr::null_mut(); inputs.len()];
    let seed = seed.map_or(ptr::null(), |seed| seed.as_ptr());
    // SAFETY: all pointers come from live tensors; `out` has room for one pointer an input.
    TorchError::check(unsafe {
        ffi::began_grad(output.as_ptr(), seed, inputs.as_ptr(), inputs.len(), out.as_mut_ptr())
    })?;
    // SAFETY: the shim allocated each tensor with `new`, and hands it over.
    Ok(out.into_iter().map(|raw| unsafe { Tensor::from_ptr(raw) }).collect())
}

/// Copies each of `from` into the one of `to` at the same place.
///
/// # Errors
/// If lengths or shapes differ.
pub fn foreach_copy_<T: Borrow<Tensor>, F: Borrow<Tensor>>(to: &[T], from: &[F]) -> Result<(), TorchError> {
    if to.len() != from.len() {
        return Err(TorchError(format!("cannot copy {} tensors into {}", from.len(), to.len())));
    }
    let (to, from) = (pointers(to), pointers(from));
    // SAFETY: all pointers come from live tensors, and both lists are as long as is said.
    TorchError::check(unsafe { ffi::began_foreach_copy(to.as_ptr(), from.as_ptr(), to.len()) })
}

/// `to += scale * from`.
///
/// # Errors
/// If shapes do not fit.
pub fn add_scaled_(to: &Tensor, from: &Tensor, scale: f64) -> Result<(), TorchError> {
    // SAFETY: both pointers come from live tensors.
    TorchError::check(unsafe { ffi::began_add_scaled(to.as_ptr(), from.as_ptr(), scale) })
}

/// One step of Adam (Kingma and Ba, 2015, algorithm 1) over flat tensors, in place. `step` is an f32 scalar that counts
/// from 1; `m` and `v` are the moments.
///
/// # Errors
/// If shapes or types do not fit.
#[allow(clippy::too_many_arguments)]
pub fn fused_adam_(
    weights: &Tensor,
    gradient: &Tensor,
    m: &Tensor,
    v: &Tensor,
    step: &Tensor,
    rate: f64,
    betas: (f64, f64),
    epsilon: f64,
) -> Result<(), TorchError> {
    // SAFETY: all pointers come from live tensors.
    TorchError::check(unsafe {
        ffi::began_fused_adam(
            weights.as_ptr(),
            gradient.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            step.as_ptr(),
            rate,
            betas.0,
            betas.1,
            epsilon,
        )
    })
}

/// `[B,C,H,W]` with the channels of a pixel beside each other in memory; the same tensor where it is so already.
///
/// # Errors
/// If the tensor has not four dimensions.
pub fn channels_last(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: the pointer comes from a live tensor; the shim hands a new one over, or null.
    unsafe { owned(ffi::began_channels_last(tensor.as_ptr())) }
}

/// A copy on the host that a GPU can read and write by itself, so that nobody waits for it.
///
/// # Errors
/// If there is no GPU.
pub fn pinned(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: the pointer comes from a live tensor; the shim hands a new one over, or null.
    unsafe { owned(ffi::began_pinned(tensor.as_ptr())) }
}

/// A GPU's tensor on the host, in memory as [`pinned`]'s. The values are there once this stream's work up to here is done, as an
/// event on it tells; nobody waits before.
///
/// # Errors
/// If there is no GPU.
pub fn to_host(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: the pointer comes from a live tensor; the shim hands a new one over, or null.
    unsafe { owned(ffi::began_to_host(tensor.as_ptr())) }
}

/// # Safety
/// `raw` is null with an error, or a tensor that the shim allocated with `new` and hands over.
pub(crate) unsafe fn owned(raw: *mut ffi::RawTensor) -> Result<Tensor, TorchError> {
    if raw.is_null() {
        return Err(TorchError::last());
    }
    // SAFETY: as promised above.
    Ok(unsafe { Tensor::from_ptr(raw) })
}
