//! Ways between points of the generator's input space.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// How to get from one noise vector to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// Straight: stays inside the cube that noise is drawn from.
    Linear,
    /// Along the great circle, the length changing evenly: keeps away from the middle, where noise is rare.
    Spherical,
}

/// Between `a` and `b`, both `[h]`, at `t` from 0 to 1.
///
/// # Errors
/// If shapes differ.
pub fn between(a: &Tensor, b: &Tensor, t: f64, way: Way) -> Result<Tensor> {
    let straight = || a.f_lerp(b, t);
    if way == Way::Linear {
        return Ok(straight()?);
    }
    let length = |x: &Tensor| -> Result<f64> { Ok(f64::try_from(x.f_square()?.f_sum(Kind::Double)?)?.sqrt()) };
    let (from, to) = (length(a)?, length(b)?);
    if from * to == 0.0 {
        return Ok(straight()?);
    }
    let cosine = f64::try_from(a.f_mul(b)?.f_sum(Kind::Double)?)? / (from * to);
    let angle = cosine.clamp(-1.0, 1.0).acos();
    // In one line, the same way or opposite ways, there is no one circle.
    if angle.sin() < 1e-6 {
        return Ok(straight()?);
    }
    let long = (1.0 - t) * from + t * to;
    let (of_a, of_b) = (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin());
    Ok(a.f_mul_scalar(of_a * long / from)?.f_add(&b.f_mul_scalar(of_b * long / to)?)?)
}

/// `count` points on the way through all rows of `points`, `[P,h]`, evenly spread, ends included. A closed way goes back to
/// the first row and leaves its end out, so that it can go round and round.
///
/// # Errors
/// If there are fewer than two rows or than two points are asked for.
pub fn path(points: &Tensor, count: i64, way: Way, closed: bool) -> Result<Tensor> {
    let stops = points.size()[0];
    ensure!(stops >= 2 && count >= 2, "a way leads through at least two points in at least two steps");
    let legs = if closed { stops } else { stops - 1 };
    let divisions = if closed { count } else { count - 1 };
    let mut along = Vec::new();
    for index in 0..count {
        let place = (index * legs) as f64 / divisions as f64;
        let leg = (place as i64).min(legs - 1);
        let (a, b) = (points.f_select(0, leg)?, points.f_select(0, (leg + 1) % stops)?);
        along.push(between(&a, &b, place - leg as f64, way)?);
    }
    Ok(Tensor::f_stack(&along, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: &Tensor, b: &[f64]) -> bool {
        Vec::<f64>::try_from(a.to_kind(Kind::Double)).is_ok_and(|a| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9))
    }

    #[test]
    fn both_ways_begin_and_end_where_they_should_and_the_spherical_one_keeps_its_length() -> Result<()> {
        let (a, b) = (Tensor::from_slice(&[1.0, 0.0]), Tensor::from_slice(&[0.0, 1.0]));
        for way in [Way::Linear, Way::Spherical] {
            assert!(near(&between(&a, &b, 0.0, way)?, &[1.0, 0.0]) && near(&between(&a, &b, 1.0, way)?, &[0.0, 1.0]));
        }
        let half = 0.5f64.sqrt();
        assert!(near(&between(&a, &b, 0.5, Way::Linear)?, &[0.5, 0.5]));
        assert!(near(&between(&a, &b, 0.5, Way::Spherical)?, &[half, half]));
        assert!(near(&between(&a, &-&a, 0.5, Way::Spherical)?, &[0.0, 0.0]));
        Ok(())
    }

    #[test]
    fn a_path_passes_through_all_points_and_a_closed_one_comes_back() -> Result<()> {
        let points = Tensor::from_slice(&[0.0, 1.0, 5.0]).view([3, 1]);
        assert!(near(&path(&points, 5, Way::Linear, false)?.view(-1), &[0.0, 0.5, 1.0, 3.0, 5.0]));
        assert!(near(&path(&points, 6, Way::Linear, true)?.view(-1), &[0.0, 0.5, 1.0, 3.0, 5.0, 2.5]));
        assert!(path(&points, 1, Way::Linear, false).is_err());
        Ok(())
    }
}
