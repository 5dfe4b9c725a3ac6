//! Precision and recall by nearest neighbours (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).
//!
//! Around each real image's features lies a ball that reaches to its k-th nearest neighbour. Precision is the share of
//! generated images inside any such ball: how many look real. Recall is the same with the roles changed: how much of the real
//! variety the generator reaches. Density counts the balls a generated image lies in, coverage the real images whose ball
//! holds one; both stand outliers better.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Rows of distances that are computed at a time.
const CHUNK: i64 = 512;

/// The four shares.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Neighbourhood {
    /// Which neighbour the balls reach to.
    pub k: i64,
    /// Generated images inside the real ones' balls.
    pub precision: f64,
    /// Real images inside the generated ones' balls.
    pub recall: f64,
    /// How many real balls hold a generated image, of k; may be over 1.
    pub density: f64,
    /// Real images whose ball holds a generated one.
    pub coverage: f64,
}

/// Of features `[N,d]` and `[M,d]`, in f64.
///
/// # Errors
/// If a set is not larger than k, or widths differ.
pub fn neighbourhood(real: &Tensor, other: &Tensor, k: i64) -> Result<Neighbourhood> {
    let (n, d) = real.size2()?;
    let (m, other_d) = other.size2()?;
    ensure!(d == other_d, "features of {d} and of {other_d} numbers cannot be compared");
    ensure!(n.min(m) > k, "k = {k} needs more than {k} images of each kind, there are {n} and {m}");
    let (real_radius, other_radius) = (radii(real, k)?, radii(other, k)?);
    let (mut precision, mut density, mut recall, mut coverage) = (0.0, 0.0, 0.0, 0.0);
    let sum = |flags: Tensor| -> Result<f64> { Ok(f64::try_from(flags.f_sum(Kind::Double)?)?) };
    for start in (0..m).step_by(CHUNK as usize) {
        let part = other.f_narrow(0, start, CHUNK.min(m - start))?;
        let inside = distances(&part, real)?.f_less_tensor(&real_radius.f_view([1, n])?)?;
        precision += sum(inside.f_any_dim(1, false)?)?;
        density += sum(inside)?;
    }
    for start in (0..n).step_by(CHUNK as usize) {
        let length = CHUNK.min(n - start);
        let apart = distances(&real.f_narrow(0, start, length)?, other)?;
        recall += sum(apart.f_less_tensor(&other_radius.f_view([1, m])?)?.f_any_dim(1, false)?)?;
        coverage += sum(apart.f_min_dim(1, false)?.0.f_less_tensor(&real_radius.f_narrow(0, start, length)?)?)?;
    }
    let (n, m) = (n as f64, m as f64);
    Ok(Neighbourhood {
        k,
        precision: precision / m,
        recall: recall / n,
        density: density / (k as f64 * m),
        coverage: coverage / n,
    })
}

/// How far each row's k-th nearest other row is, squared.
fn radii(rows: &Tensor, k: i64) -> Result<Tensor> {
    let count = rows.size()[0];
    let mut parts = Vec::new();
    for start in (0..count).step_by(CHUNK as usize) {
        let length = CHUNK.min(count - start);
        let apart = distances(&rows.f_narrow(0, start, length)?, rows)?;
        // A row is at no distance from itself, whatever rounding says.
        let _ = apart.f_narrow(1, start, length)?.f_diagonal(0, 0, 1)?.f_fill_(0.0)?;
        parts.push(apart.f_kthvalue(k + 1, 1, false)?.0);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// Squared Euclidean distances: `[n,m]`.
fn distances(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let squares = |x: &Tensor| x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
    let product = a.f_matmul(&b.f_transpose(0, 1)?)?.f_mul_scalar_(-2.0)?;
    Ok(product.f_add(&squares(a)?)?.f_add(&squares(b)?.f_transpose(0, 1)?)?.f_clamp_min_(0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn half_the_modes_have_full_precision_and_half_the_recall() -> Result<()> {
        let at = |centre: f64, seed| -> Result<Tensor> {
            let stream = crate::evaluation::draw::stream(seed, crate::evaluation::draw::Use::Kernels, 0);
            let cloud = crate::evaluation::draw::normal(&stream, &[200, 4], Device::Cpu)?;
            Ok(cloud.f_to_kind(Kind::Double)?.f_add_scalar(centre)?)
        };
        let real = Tensor::f_cat(&[at(0.0, 1)?, at(100.0, 2)?], 0)?;
        let found = neighbourhood(&real, &Tensor::f_cat(&[at(0.0, 3)?, at(0.0, 4)?], 0)?, 3)?;
        assert!(found.precision > 0.85 && (0.4..=0.5).contains(&found.recall), "{found:?}");
        assert!((0.4..=0.5).contains(&found.coverage) && (0.7..1.3).contains(&found.density), "{found:?}");
        let text = neighbourhood(&real.f_narrow(0, 0, 3)?, &real, 3).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("k = 3"), "{text}");
        Ok(())
    }
}
