//! What a reduction needs of a group of trainers, whoever provides it: Gloo on CPUs, NCCL on GPUs.

use std::time::Duration;

use anyhow::Result;
use tch::Tensor;

mod gloo;
#[cfg(test)]
pub(crate) mod in_process;
mod nccl;

pub use gloo::Gloo;

/// Collective operations over all trainers of a generation.
///
/// Every trainer must call the same operations in the same order. What an operation gives is there for whatever the calling
/// thread's stream does next; the host may touch it after [`Collective::settle`].
pub trait Collective: Send + std::fmt::Debug {
    /// Sends `input_splits[r]` elements of `input` to each rank `r` and receives `output_splits[r]` from it into `output`.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<()>;
    /// Lays every rank's `input` end to end in every rank's `output`.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<()>;
    /// Sums in place, in an order that depends on the size of the world, which divides the tensor's length.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn all_reduce(&mut self, tensor: &Tensor) -> Result<()>;
    /// Waits until the device has done what was asked for, in a wait that can be called off. `what` names it in errors.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn settle(&mut self, what: &str) -> Result<()>;
    /// Leaves in good order, as every trainer does: what the others still need of this one is sent first, within `bound`. One that is
    /// dropped instead leaves at once.
    fn leave(self: Box<Self>, bound: Duration);
}

/// Says when to give up a wait: the coordinator's word, not a time-out.
pub type CalledOff = nccl_rs::StopFlag;
