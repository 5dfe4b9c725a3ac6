//! ELU after a convolution, with the convolution's bias: two ways that give the same values but for rounding.

use anyhow::Result;
use tch::Tensor;

/// `ELU(convolve(bias))`, in the place of the convolution's result: ELU's backward needs only what it gave. `fused`: the convolution
/// goes without its bias, and both are one pass over memory where the device has a kernel for it.
///
/// # Errors
/// If shapes do not fit or memory is short.
pub fn convolve_elu(
    bias: &Tensor,
    fused: bool,
    convolve: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
) -> Result<Tensor> {
    if fused { Ok(torch_ext::fused::bias_elu(&convolve(None)?, bias)?) } else { Ok(convolve(Some(bias))?.f_elu_()?) }
}
