//! Bias and ELU in one pass over memory, forward and backward.
//!
//! On a GPU by kernels that are compiled when they are first needed, where NVRTC is there (`libnvrtc.so.13`: loaded already, beside
//! libtorch's wheel, or the system's; `BEGAN_NVRTC` names another) and the tensors are as they want them: bfloat16 or f32,
//! channels-last, channels a multiple of 8 or 4. Everywhere else, and with `BEGAN_FUSED=off`, by libtorch's own operations: the same
//! values but for rounding. All trainers of a run must have it one way.

use tch::{Device, Kind, Tensor};

use crate::tensor::owned;
use crate::{TorchError, ffi};

/// `ELU(y + bias)`, in the place of `y`: `[B,C,H,W]`, bias `[C]` of the same kind. Autograd knows it.
///
/// # Errors
/// If shapes do not fit.
pub fn bias_elu(y: &Tensor, bias: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: both pointers come from live tensors; the shim hands a new one over, or null.
    unsafe { owned(ffi::began_bias_elu(y.as_ptr(), bias.as_ptr())) }
}

/// Whether the device has the kernels for tensors of this kind; compiles them.
///
/// # Errors
/// If the device is not there.
pub fn has_kernels(device: Device, kind: Kind) -> Result<bool, TorchError> {
    let (Device::Cuda(index), Kind::BFloat16 | Kind::Float) = (device, kind) else { return Ok(false) };
    let index = i32::try_from(index).map_err(|_| TorchError(format!("no GPU {index}")))?;
    // SAFETY: plain numbers; exceptions are caught.
    match unsafe { ffi::began_has_kernels(index, i32::from(kind == Kind::BFloat16)) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(TorchError::last()),
    }
}

/// Compiles the kernels for a GPU of this compute capability, which need not be here; the bytes of machine code.
///
/// # Errors
/// If NVRTC is not there, or refuses.
pub fn compile(major: i32, minor: i32, kind: Kind) -> Result<i64, TorchError> {
    // SAFETY: plain numbers; exceptions are caught.
    let size = unsafe { ffi::began_compile_kernels(major, minor, i32::from(kind == Kind::BFloat16)) };
    if size < 0 { Err(TorchError::last()) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).norm() / b.norm()).unwrap_or(f64::NAN)
    }

    /// Both ways over one convolution: values, and gradients over image, kernel and bias.
    fn compare(kind: Kind, device: Device, channels: i64) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let leaf = |shape: &[i64]| Tensor::randn(shape, (kind, device)).set_requires_grad(true);
        let (x, weight, bias) = (leaf(&[2, 8, 6, 5]), leaf(&[channels, 8, 3, 3]), leaf(&[channels]));
        let y = crate::channels_last(&x)?.f_conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
        let found = bias_elu(&crate::channels_last(&y)?.f_mul_scalar(1.0)?, &bias)?;
        let expected = x.f_conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?.f_elu()?;
        let seed = expected.f_randn_like()?;
        let mut distances = vec![distance(&found.detach(), &expected.detach())];
        let found = crate::grad(&found, Some(&seed), &[&x, &weight, &bias])?;
        let expected = crate::grad(&expected, Some(&seed), &[&x, &weight, &bias])?;
        distances.extend(found.iter().zip(&expected).map(|(found, expected)| distance(found, expected)));
        Ok(distances)
    }

    #[test]
    fn bias_and_elu_in_one_are_bias_and_elu_one_after_the_other() -> Result<(), Box<dyn std::error::Error>> {
        let distances = compare(Kind::Double, Device::Cpu, 8)?;
        assert!(distances.iter().all(|distance| *distance < 1e-13), "{distances:?}");
        Ok(())
    }

    #[test]
    fn the_kernels_do_what_libtorch_does() -> Result<(), Box<dyn std::error::Error>> {
        if crate::load_cuda().is_err() || !tch::Cuda::is_available() {
            println!("skipped: there is no GPU here");
            return Ok(());
        }
        let device = Device::Cuda(0);
        for (kind, bound) in [(Kind::BFloat16, 1e-2), (Kind::Float, 1e-5)] {
            assert!(has_kernels(device, kind)?, "no kernels for {kind:?}");
            // 12 channels fit f32's kernel only; 6 none.
            for channels in [8, 12, 6, 384] {
                let distances = compare(kind, device, channels)?;
                assert!(distances.iter().all(|distance| *distance < bound), "{kind:?}, {channels}: {distances:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_kernels_compile_for_a_hopper_where_nvrtc_is() {
        for kind in [Kind::BFloat16, Kind::Float] {
            match compile(9, 0, kind) {
                Ok(size) => assert!(size > 1000, "{size} bytes"),
                Err(error) if error.0.contains("none of these loads") => println!("skipped: no NVRTC here: {error}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
