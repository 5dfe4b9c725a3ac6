//! What the device can do at most, measured on the spot: a large matrix product in the step's own numbers, and a large copy.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::stages::Clock;
use super::{median, round3};

/// Measured ceilings.
#[derive(Debug, serde::Serialize)]
pub struct Ceilings {
    /// Side of the square matrices.
    pub matrix_side: i64,
    /// Rate of their product.
    pub matrix_gflop_per_s: f64,
    /// Rate of a copy on the device: bytes read and bytes written.
    pub copy_gb_per_s: f64,
}

/// Times each is measured, beyond a first time.
const TIMES: usize = 7;

impl Ceilings {
    /// Measures both; about a second.
    ///
    /// # Errors
    /// If memory is short.
    pub fn measure(kind: Kind, device: Device) -> Result<Self> {
        let (side, bytes) = if device.is_cuda() { (8192, 1i64 << 30) } else { (1024, 1 << 26) };
        // Random numbers: on zeros a GPU is faster than it will ever be.
        let matrix = || Tensor::f_randn([side, side], (Kind::Float, device))?.f_to_kind(kind);
        let (a, b) = (matrix()?, matrix()?);
        let product = seconds(device, || Ok(a.f_matmul(&b)?))?;
        let from = Tensor::f_randn([bytes / 4], (Kind::Float, device))?;
        let to = from.f_empty_like()?;
        let copy = seconds(device, || {
            to.shallow_clone().f_copy_(&from)?;
            Ok(to.shallow_clone())
        })?;
        Ok(Self {
            matrix_side: side,
            matrix_gflop_per_s: round3(2.0 * (side as f64).powi(3) / product / 1e9),
            copy_gb_per_s: round3(2.0 * bytes as f64 / copy / 1e9),
        })
    }
}

/// Median of several runs of the work.
fn seconds(device: Device, work: impl Fn() -> Result<Tensor>) -> Result<f64> {
    drop(work()?);
    let mut clock = Clock::start(device)?;
    for _ in 0..TIMES {
        drop(work()?);
        clock.mark("work")?;
    }
    let all: Vec<f64> = clock.finish()?.into_iter().map(|(_, milliseconds)| milliseconds / 1e3).collect();
    Ok(median(&all))
}
