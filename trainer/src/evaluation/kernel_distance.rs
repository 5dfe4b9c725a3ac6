//! KID, the kernel inception distance (Bińkowski et al., 2018): the unbiased estimate of the squared maximum mean
//! discrepancy between two sets of features, with the kernel `(x.y/d + 1)^3`.
//!
//! Two samples of one distribution have a KID of 0 in the mean, whatever their number, so it may be below 0.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::draw::{Use, choice, stream};

/// The distance over everything, and over random subsets.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct KernelDistance {
    /// Over all features at once.
    pub all: f64,
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets.
    pub deviation: f64,
    /// How many subsets.
    pub subsets: u32,
    /// Images of each kind in a subset.
    pub subset: u64,
}

/// Of features `[N,d]` and `[M,d]`, in f64.
///
/// # Errors
/// If a set has fewer than two rows, or widths differ.
pub fn kernel_distance(real: &Tensor, other: &Tensor, subsets: u32, seed: u64) -> Result<KernelDistance> {
    let (n, m) = (real.size()[0] as u64, other.size()[0] as u64);
    // Not everything, or all subsets would be the same.
    let subset = (n.min(m) / 2).clamp(2, 1000);
    let mut found = Vec::new();
    for index in 0..subsets {
        let part = |rows: &Tensor, count: u64, side: u32| -> Result<Tensor> {
            let drawn = choice(stream(seed, Use::Subsets, 2 * index + side), count, subset);
            let drawn: Vec<i64> = drawn.iter().map(|&row| row as i64).collect();
            Ok(rows.f_index_select(0, &Tensor::f_from_slice(&drawn)?.f_to_device(rows.device())?)?)
        };
        found.push(discrepancy(&part(real, n, 0)?, &part(other, m, 1)?)?);
    }
    let count = found.len().max(1) as f64;
    let mean = found.iter().sum::<f64>() / count;
    let deviation = (found.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    Ok(KernelDistance { all: discrepancy(real, other)?, mean, deviation, subsets, subset })
}

/// The unbiased estimate over all pairs.
///
/// # Errors
/// If a set has fewer than two rows, or widths differ.
pub fn discrepancy(x: &Tensor, y: &Tensor) -> Result<f64> {
    let ((n, d), (m, other)) = (x.size2()?, y.size2()?);
    ensure!(d == other, "features of {d} and of {other} numbers cannot be compared");
    ensure!(n.min(m) >= 2, "KID needs two images of each kind, there are {n} and {m}");
    let kernel = |product: Tensor| -> Result<Tensor> {
        Ok(product.f_div_scalar(d as f64)?.f_add_scalar(1.0)?.f_pow_tensor_scalar(3)?)
    };
    let sum = |a: &Tensor, b: &Tensor| -> Result<f64> {
        Ok(f64::try_from(kernel(a.f_matmul(&b.f_transpose(0, 1)?)?)?.f_sum(Kind::Double)?)?)
    };
    let own = |a: &Tensor| -> Result<f64> {
        let squares = a.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        Ok(f64::try_from(kernel(squares)?.f_sum(Kind::Double)?)?)
    };
    let (n, m) = (n as f64, m as f64);
    let (within_x, within_y) = (sum(x, x)? - own(x)?, sum(y, y)? - own(y)?);
    Ok(within_x / (n * (n - 1.0)) + within_y / (m * (m - 1.0)) - 2.0 * sum(x, y)? / (n * m))
}
