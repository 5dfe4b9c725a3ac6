//! Convolutions over enlarged images, without the arithmetic that enlarging brings.
//!
//! Nearest upsampling only repeats pixels, so a 3x3 convolution after it can be computed at the lower size from sums of
//! the kernel's taps ([`crate::kernels`]): 4/9 of the arithmetic after x2, next to nothing of it after x4 and more. It is the
//! same function, and through autograd the same gradient of the same 3x3 kernel, up to rounding.

use anyhow::Result;
use tch::Tensor;

use crate::activation::convolve_elu;
use crate::arithmetic::{Arithmetic, Upsampling};
use crate::kernels::TapSums;

/// Nearest-neighbour upsampling of `[B,C,H,W]` to twice the height and width.
///
/// # Errors
/// If memory is short.
pub fn twice(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    Ok(x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)
}

/// Nearest x2, a 3x3 convolution, ELU.
#[derive(Debug)]
pub struct UpsampledConvolution {
    /// `[O,C,3,3]`: in the networks' kind for the direct way, else in the master's.
    weight: Tensor,
    /// `[O]`, in the networks' kind.
    bias: Tensor,
    sums: Option<TapSums>,
    upsampling: Upsampling,
    fused: bool,
}

impl UpsampledConvolution {
    /// Over these parameters.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(weight: Tensor, bias: Tensor, arithmetic: Arithmetic) -> Result<Self> {
        let Arithmetic { upsampling, fused, .. } = arithmetic;
        let (kind, device) = (weight.kind(), weight.device());
        let sums = match upsampling {
            Upsampling::Direct => None,
            Upsampling::Phases => Some(TapSums::phases(kind, device)?),
            Upsampling::Transposed => Some(TapSums::strided(kind, device)?),
        };
        Ok(Self { weight, bias, sums, upsampling, fused })
    }

    /// `ELU(conv(twice(x)))`: `[B,C,H,W]` to `[B,O,2H,2W]`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn elu(&self, x: &Tensor) -> Result<Tensor> {
        match (&self.sums, self.upsampling) {
            (Some(sums), Upsampling::Phases) => Ok(self.phases(x, sums)?.f_elu()?),
            (Some(sums), _) => convolve_elu(&self.bias, self.fused, |bias| self.transposed(x, sums, bias)),
            (None, _) => convolve_elu(&self.bias, self.fused, |bias| {
                Ok(twice(x)?.f_conv2d(&self.weight, bias, [1, 1], [1, 1], [1, 1], 1)?)
            }),
        }
    }

    fn transposed(&self, x: &Tensor, sums: &TapSums, bias: Option<&Tensor>) -> Result<Tensor> {
        let (outputs, inputs, _, _) = self.weight.size4()?;
        let kernel = sums.of(&self.weight, x.kind())?.f_view([outputs, 4, 4, inputs])?.f_permute([3, 0, 1, 2])?;
        Ok(x.f_conv_transpose2d(&kernel, bias, [2, 2], [1, 1], [0, 0], 1, [1, 1])?)
    }

    fn phases(&self, x: &Tensor, sums: &TapSums) -> Result<Tensor> {
        let (outputs, inputs, _, _) = self.weight.size4()?;
        let (batch, _, height, width) = x.size4()?;
        // [O, 4 phases, 2, 2, C] to [4 O, C, 2, 2], the input channels innermost.
        let kernel = sums.of(&self.weight, x.kind())?.f_view([outputs, 4, 4 * inputs])?.f_transpose(0, 1)?;
        let kernel = kernel.f_reshape([4 * outputs, 2, 2, inputs])?.f_permute([0, 3, 1, 2])?;
        let bias = self.bias.f_repeat([4])?;
        // One position more than x in each direction: the last row's and column's second phases fall there.
        let y = x.f_conv2d(&kernel, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?;
        let y = y.f_permute([0, 2, 3, 1])?.f_reshape([batch, height + 1, width + 1, 2, 2, outputs])?;
        let y = y.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([batch, 2 * height + 2, 2 * width + 2, outputs])?;
        let y = y.f_narrow(1, 1, 2 * height)?.f_narrow(2, 1, 2 * width)?;
        Ok(y.f_permute([0, 3, 1, 2])?)
    }
}

/// The convolution of an image that was enlarged `factor` times (4 or more), without its bias.
#[derive(Debug)]
pub struct BlockConvolution {
    sums: TapSums,
    factor: i64,
}

impl BlockConvolution {
    /// For kernels of this kind.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(like: &Tensor, factor: i64) -> Result<Self> {
        Ok(Self { sums: TapSums::blocks(like.kind(), like.device())?, factor })
    }

    /// `conv(enlarged(x))` with the kernel `weight`, `[O,C,3,3]`: `[B,C,H,W]` to `[B,O,factor*H,factor*W]`.
    ///
    /// # Errors
    /// If shapes do not fit or memory is short.
    pub fn apply(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (outputs, inputs, _, _) = weight.size4()?;
        let (batch, _, height, width) = x.size4()?;
        let kernel = self.sums.of(weight, x.kind())?.f_view([outputs, 9, 9 * inputs])?.f_transpose(0, 1)?;
        let kernel = kernel.f_reshape([9 * outputs, 3, 3, inputs])?.f_permute([0, 3, 1, 2])?;
        let cases = x.f_conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
        let cases = cases.f_permute([0, 2, 3, 1])?.f_reshape([batch, height, width, 3, 3, outputs])?;
        // The rows first, while they are few; then the columns, which writes the result.
        let cases = cases.f_permute([0, 1, 3, 2, 4, 5])?;
        let rows = self.spread(&cases, 2)?.f_reshape([batch, height * self.factor, width, 3, outputs])?;
        let whole = self.spread(&rows, 3)?.f_reshape([batch, height * self.factor, width * self.factor, outputs])?;
        Ok(whole.f_permute([0, 3, 1, 2])?)
    }

    /// First, middle and last along `dim` to a whole block. A sum carries the gradient back: the same every time.
    fn spread(&self, cases: &Tensor, dim: i64) -> Result<Tensor> {
        let case = |index: i64| cases.f_narrow(dim, index, 1);
        let mut shape = cases.size();
        shape[dim as usize] = self.factor - 2;
        let middle = case(1)?.f_expand(&shape, false)?;
        Ok(Tensor::f_cat(&[case(0)?, middle, case(2)?], dim)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::config::Precision;
    use tch::{Device, Kind};

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).norm() / b.norm()).unwrap_or(f64::NAN)
    }

    /// Value, and gradients over image, kernel and bias.
    fn ups(
        way: Upsampling,
        fused: bool,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        seed: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let arithmetic = Arithmetic { upsampling: way, fused, ..Arithmetic::new(Precision::F64, Device::Cpu)? };
        let layer = UpsampledConvolution::new(weight.shallow_clone(), bias.shallow_clone(), arithmetic)?;
        let y = layer.elu(x)?;
        let mut all = vec![y.detach()];
        all.extend(torch_ext::grad(&y, Some(seed), &[x, weight, bias])?);
        Ok(all)
    }

    #[test]
    fn all_ways_to_upsample_and_convolve_are_one_function_with_one_gradient() -> Result<()> {
        let leaf = |shape: &[i64]| Tensor::randn(shape, DOUBLE).set_requires_grad(true);
        let (weight, bias) = (leaf(&[5, 3, 3, 3]), leaf(&[5]));
        for shape in [[2, 3, 4, 4], [1, 3, 1, 7]] {
            let x = leaf(&shape);
            let seed = Tensor::randn([shape[0], 5, 2 * shape[2], 2 * shape[3]], DOUBLE);
            let direct = ups(Upsampling::Direct, false, &x, &weight, &bias, &seed)?;
            let ways = [Upsampling::Direct, Upsampling::Phases, Upsampling::Transposed];
            for (way, fused) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
                for (found, expected) in ups(way, fused, &x, &weight, &bias, &seed)?.iter().zip(&direct) {
                    assert!(distance(found, expected) < 1e-13, "{way:?}, fused {fused}, of {shape:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn convolving_blocks_is_convolving_the_enlarged_image() -> Result<()> {
        let (x, weight) = (Tensor::randn([2, 3, 4, 2], DOUBLE), Tensor::randn([5, 3, 3, 3], DOUBLE));
        let (x, weight) = (x.set_requires_grad(true), weight.set_requires_grad(true));
        for factor in [4, 8] {
            let enlarged = x.f_upsample_nearest2d([4 * factor, 2 * factor], None, None)?;
            let expected = enlarged.f_conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
            let found = BlockConvolution::new(&weight, factor)?.apply(&x, &weight)?;
            assert!(distance(&found, &expected) < 1e-13);
            let seed = found.f_randn_like()?;
            let found = torch_ext::grad(&found, Some(&seed), &[&x, &weight])?;
            for (found, expected) in found.iter().zip(torch_ext::grad(&expected, Some(&seed), &[&x, &weight])?) {
                assert!(distance(found, &expected) < 1e-13);
            }
        }
        Ok(())
    }
}
