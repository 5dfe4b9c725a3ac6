//! Bias and ELU in one pass over memory, forward and backward.
//!
//! On a GPU by kernels that are compiled when they are first needed, where NVRTC is there (`libnvrtc.so.13`: loaded already, beside
//! libtorch's wheel, or the system's; `BEGAN_NVRTC` names another) and the tensors are as they want them: bfloat16 or f32,
//! channels-last, channels a multiple of 8 or 4. Everywhere else by libtorch's own operations: the same values but for rounding. All
//! trainers of a run must have it one way.
//!
//! `BEGAN_FUSED` says where kernels run: `on`, as if it were not set: on GPUs; `off`: nowhere; `host`: on CPUs too, the same source
//! compiled for the host, each of a GPU's threads run for real. That is for checking the kernels where there is no GPU: it is slow.

use tch::{Device, Kind, Tensor};

use crate::tensor::owned;
use crate::{TorchError, ffi};

/// `ELU(y + bias)`, in the place of `y`: `[B,C,H,W]`, bias `[C]` of the same kind. Autograd knows it.
///
/// # Errors
/// If shapes do not fit, or `BEGAN_FUSED` is none of its words.
pub fn bias_elu(y: &Tensor, bias: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: both pointers come from live tensors; the shim hands a new one over, or null.
    unsafe { owned(ffi::began_bias_elu(y.as_ptr(), bias.as_ptr())) }
}

/// Whether the device has the kernels for tensors of this kind; compiles them.
///
/// # Errors
/// If the device is not there, or `BEGAN_FUSED` is none of its words.
pub fn has_kernels(device: Device, kind: Kind) -> Result<bool, TorchError> {
    let index = match (device, kind) {
        (Device::Cuda(index), Kind::BFloat16 | Kind::Float) => {
            i32::try_from(index).map_err(|_| TorchError(format!("no GPU {index}")))?
        }
        (Device::Cpu, Kind::BFloat16 | Kind::Float) => -1,
        _ => return Ok(false),
    };
    // SAFETY: a plain number; exceptions are caught.
    match unsafe { ffi::began_has_kernels(index) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(TorchError::last()),
    }
}

/// The kernels' machine code for a GPU of this compute capability, which need not be here: a cubin.
///
/// # Errors
/// If NVRTC is not there, or refuses.
pub fn compile(major: i32, minor: i32) -> Result<Vec<u8>, TorchError> {
    // SAFETY: plain numbers; the shim hands a new tensor over, or null.
    let code = unsafe { owned(ffi::began_compile_kernels(major, minor)) }?;
    Vec::try_from(&code).map_err(|error: tch::TchError| TorchError(error.to_string()))
}

/// In which order the host runs the blocks of a kernel, and the threads of a block between two barriers. A GPU promises none: a
/// kernel whose bits depend on it has a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First to last.
    Ascending,
    /// Last to first.
    Descending,
}

/// Does the work with the kernels on the host for CPU tensors, whatever `BEGAN_FUSED` says, as far as this thread does it; what it
/// gave, and how many kernels ran. For tests of the kernels.
pub fn on_host<T>(order: Order, work: impl FnOnce() -> T) -> (T, u64) {
    struct Restore(i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: sets a number of this thread.
            unsafe { ffi::began_order_on_host(self.0) };
        }
    }
    let order = match order {
        Order::Ascending => 0,
        Order::Descending => 1,
    };
    // SAFETY: sets and reads numbers of this thread, here and below.
    let (_restore, before) = unsafe { (Restore(ffi::began_order_on_host(order)), ffi::began_launches_on_host()) };
    let out = work();
    // SAFETY: as above.
    (out, unsafe { ffi::began_launches_on_host() } - before)
}
