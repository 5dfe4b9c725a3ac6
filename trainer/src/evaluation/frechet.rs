//! FID, the Fréchet inception distance (Heusel et al., 2017): `|m1-m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` between the means
//! and covariances of two sets of features.
//!
//! It is biased by the number of images, so values of different numbers cannot be compared.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Of features `[N,d]` and `[M,d]`, in f64.
///
/// # Errors
/// If a set has fewer than two rows, widths differ, or a number is not finite.
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let ((n, d), (m, other)) = (a.size2()?, b.size2()?);
    ensure!(d == other, "features of {d} and of {other} numbers cannot be compared");
    ensure!(n.min(m) >= 2, "FID needs two images of each kind, there are {n} and {m}");
    let ((mean_a, rows_a), (mean_b, rows_b)) = (centred(a)?, centred(b)?);
    let apart = sum(&mean_a.f_sub(&mean_b)?.f_square()?)?;
    let traces = sum(&rows_a.f_square()?)? + sum(&rows_b.f_square()?)?;
    Ok(apart + traces - 2.0 * root_trace(&rows_a, &rows_b)?)
}

/// The mean, and rows R with `R^T R` the covariance.
fn centred(rows: &Tensor) -> Result<(Tensor, Tensor)> {
    let mean = rows.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    let scale = 1.0 / ((rows.size()[0] - 1) as f64).sqrt();
    Ok((mean.shallow_clone(), rows.f_sub(&mean)?.f_mul_scalar_(scale)?))
}

/// `tr (C1 C2)^(1/2)`: the sum of the singular values of `A B^T`, where `C1 = A^T A` and `C2 = B^T B`. With fewer numbers than
/// images `A` and `B` are first brought to square roots of their covariances. No square root of a matrix that
/// is not symmetric is taken, and what is singular, as with fewer images than numbers, needs no special care.
fn root_trace(a: &Tensor, b: &Tensor) -> Result<f64> {
    let product = square_root(a)?.f_matmul(&square_root(b)?.f_transpose(0, 1)?)?;
    // Of the smaller of the two Gram matrices: singular values by themselves take several times as long.
    let (rows, columns) = product.size2()?;
    let across = product.f_transpose(0, 1)?;
    let gram = if rows <= columns { product.f_matmul(&across)? } else { across.f_matmul(&product)? };
    let values = gram.f_linalg_eigvalsh("L")?;
    sum(&values.f_clamp_min(0.0)?.f_sqrt()?)
}

/// Rows whose product with themselves is that of `rows`, at most as many as there are columns.
fn square_root(rows: &Tensor) -> Result<Tensor> {
    let (count, width) = rows.size2()?;
    if count <= width {
        return Ok(rows.shallow_clone());
    }
    let (values, vectors) = rows.f_transpose(0, 1)?.f_matmul(rows)?.f_linalg_eigh("L")?;
    Ok(vectors.f_mul(&values.f_clamp_min(0.0)?.f_sqrt()?)?.f_transpose(0, 1)?)
}

fn sum(values: &Tensor) -> Result<f64> {
    let sum = f64::try_from(values.f_sum(Kind::Double)?)?;
    ensure!(sum.is_finite(), "a feature is infinite or not a number");
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::draw::{Use, normal, stream};
    use tch::Device;

    fn cloud(seed: u64, rows: i64, columns: i64) -> Result<Tensor> {
        Ok(normal(&stream(seed, Use::Kernels, 0), &[rows, columns], Device::Cpu)?.f_to_kind(Kind::Double)?)
    }

    #[test]
    fn a_set_is_at_no_distance_from_itself_and_moved_at_the_square_of_how_far() -> Result<()> {
        for (rows, columns) in [(50, 8), (8, 50)] {
            let a = cloud(1, rows, columns)?;
            assert!(frechet_distance(&a, &a)?.abs() < 1e-6);
            let moved = frechet_distance(&a, &a.f_add_scalar(2.0)?)?;
            assert!((moved - 4.0 * columns as f64).abs() < 1e-5, "{moved}");
        }
        Ok(())
    }

    #[test]
    fn a_scaled_set_is_at_the_distance_the_formula_gives() -> Result<()> {
        let a = cloud(1, 3000, 6)?;
        let (mean, rows) = centred(&a)?;
        let trace = sum(&rows.f_square()?)?;
        let expected = 4.0 * sum(&mean.f_square()?)? + 4.0 * trace;
        assert!((frechet_distance(&a, &a.f_mul_scalar(3.0)?)? / expected - 1.0).abs() < 1e-9);
        let broken = a.f_mul_scalar(f64::NAN)?;
        assert!(frechet_distance(&a, &broken).is_err());
        Ok(())
    }
}
