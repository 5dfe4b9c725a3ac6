//! In what numbers the networks are computed, and by which of several ways that give the same function.
//!
//! A run's precision decides the numbers. The ways ([`Upsampling`], [`Skip`]) are this process's choice: they differ in
//! rounding and in speed, so all trainers of a run must make the same one.

use std::env;

use anyhow::{Context, Result, bail};
use began::config::Precision;
use clap::ValueEnum;
use tch::{Device, Kind};

/// How a convolution after nearest x2 upsampling is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Upsampling {
    /// Upsample, then a 3x3 convolution.
    Direct,
    /// Four 2x2 convolutions at the lower size, as one with four times the outputs, interleaved.
    Phases,
    /// One transposed convolution, 4x4 with stride 2: the same 2x2 sums, written where they belong.
    Transposed,
}

/// How the decoder's skip takes part in a scale's first convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Skip {
    /// Upsampled and concatenated, as the paper draws it.
    Concat,
    /// From 32 pixels on, the skip's part is computed at 8x8, where all of it that differs is, and added.
    Folded,
}

/// The arithmetic of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Of master weights, Adam, losses, gradients and reductions.
    pub master: Kind,
    /// Of weights and activations inside the networks.
    pub compute: Kind,
    /// Whether a GPU's matrix units may take f32 as TF32.
    pub tf32: bool,
    /// How upsampling and convolution go together.
    pub upsampling: Upsampling,
    /// What becomes of the skip.
    pub skip: Skip,
    /// Whether bias and ELU are one pass, where the device has a kernel for it.
    pub fused: bool,
}

/// libtorch's number type of master weights, optimizer and gradients.
#[must_use]
pub fn master_kind(precision: Precision) -> Kind {
    match precision {
        Precision::F32 | Precision::Tf32 | Precision::Bf16 => Kind::Float,
        Precision::F64 => Kind::Double,
    }
}

impl Arithmetic {
    /// The arithmetic of a run's precision on a device. `BEGAN_UPSAMPLING` and `BEGAN_SKIP` choose other ways than the
    /// device's own.
    ///
    /// # Errors
    /// If the device has no such arithmetic, or a variable names no way there is.
    pub fn new(precision: Precision, device: Device) -> Result<Self> {
        if precision == Precision::Tf32 && !device.is_cuda() {
            bail!(
                "run.precision = \"tf32\" needs a GPU: TF32 is a mode of NVIDIA's matrix units; on a CPU take \"f32\""
            );
        }
        let (upsampling, skip) = if device.is_cuda() { ON_GPU } else { ON_CPU };
        Ok(Self {
            master: master_kind(precision),
            compute: if precision == Precision::Bf16 { Kind::BFloat16 } else { master_kind(precision) },
            tf32: precision == Precision::Tf32,
            upsampling: chosen("BEGAN_UPSAMPLING")?.unwrap_or(upsampling),
            skip: chosen("BEGAN_SKIP")?.unwrap_or(skip),
            // On a CPU the convolution adds its bias itself.
            fused: device.is_cuda(),
        })
    }

    /// Sets libtorch's switches for this process accordingly.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn switch(self) -> Result<Self> {
        torch_ext::tf32(self.tf32).context("TF32")?;
        Ok(self)
    }

    /// Whether weights and activations are in fewer bits than the master weights.
    #[must_use]
    pub fn is_mixed(self) -> bool {
        self.compute != self.master
    }
}

/// Counted, not measured: the least arithmetic and the fewest passes over memory.
const ON_GPU: (Upsampling, Skip) = (Upsampling::Transposed, Skip::Folded);
/// Measured: docs/performance.md.
const ON_CPU: (Upsampling, Skip) = (Upsampling::Transposed, Skip::Concat);

fn chosen<T: ValueEnum>(variable: &str) -> Result<Option<T>> {
    let Some(value) = env::var_os(variable) else { return Ok(None) };
    let value = value.to_string_lossy();
    match T::from_str(&value, true) {
        Ok(found) => Ok(Some(found)),
        Err(_) => {
            let names: Vec<_> =
                T::value_variants().iter().filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned())).collect();
            bail!("{variable} must be one of {}, got {value:?}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_on_a_cpu_is_refused_with_a_reason() {
        let error = Arithmetic::new(Precision::Tf32, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("tf32") && error.contains("GPU"), "{error}");
    }

    #[test]
    fn bf16_keeps_f32_beside_it() -> Result<()> {
        let bf16 = Arithmetic::new(Precision::Bf16, Device::Cpu)?;
        assert_eq!((bf16.master, bf16.compute, bf16.is_mixed()), (Kind::Float, Kind::BFloat16, true));
        assert!(!Arithmetic::new(Precision::F64, Device::Cpu)?.is_mixed());
        Ok(())
    }
}
