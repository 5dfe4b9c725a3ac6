//! How far a result may lie from the exact one.

use std::fmt;

use tch::Kind;

/// The rounding unit of f32: the largest relative error of one operation.
pub const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Half the distance to the next number of this kind, at the size of `value`: what one rounding may change. It goes beside f32's own
/// errors, so it is nothing for f32.
fn half_a_step(kind: Kind, value: f64) -> f64 {
    if kind != Kind::BFloat16 || value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    // bfloat16 keeps 8 bits, fewer below 2^-126.
    (value.abs().log2().floor().max(-126.0) - 8.0).exp2()
}

/// A bound of the error around an exact value.
pub struct Bound {
    kind: Kind,
    /// Of what is computed in f32, before it is rounded to the kind.
    computed: f64,
}

impl Bound {
    /// Of ELU(x + bias), which is `exact`.
    pub fn of_value(kind: Kind, exact: f64) -> Self {
        let size = exact.abs();
        let computed = match kind {
            // The sum is rounded once; above 0 that is all.
            _ if exact > 0.0 => UNIT * size,
            // expm1f is within one step, which is two units at most.
            Kind::Float => 3.0 * UNIT * size,
            // The series leaves out x^3/6 and more, up to 1/64; two roundings and the sum's.
            _ if exact > (-1.0f64 / 64.0).exp_m1() => (1.0 / (6.0 * 64.0 * 64.0) * 1.02 + 3.0 * UNIT) * size,
            // __expf is within 2 + 1.2 |x| steps, e^x times that is below 2.4 steps of 1; the difference and the sum are rounded.
            _ => 2.4 * 2.0 * UNIT + 2.0 * UNIT,
        };
        Self { kind, computed }
    }

    /// Of gradient * (y + 1): two roundings.
    pub fn of_gradient(kind: Kind, exact: f64) -> Self {
        Self { kind, computed: 2.0 * UNIT * exact.abs() }
    }

    /// Of a sum whose terms are as above and go through `depth` additions each; `sizes`: the sum of the terms' sizes.
    pub fn of_sum(kind: Kind, depth: f64, sizes: f64) -> Self {
        Self { kind, computed: (depth + 2.0) * UNIT * sizes }
    }

    /// How much of the bound is used up: above 1 it does not hold.
    fn used(&self, found: f64, exact: f64) -> f64 {
        if found == exact || found.is_nan() && exact.is_nan() {
            return 0.0;
        }
        let bound = self.computed + half_a_step(self.kind, exact.abs().max(found.abs()));
        let used = (found - exact).abs() / bound;
        if used.is_nan() { f64::INFINITY } else { used }
    }

    /// Fails where the bound does not hold.
    pub fn check(&self, found: f64, exact: f64, worst: &mut f64) -> Result<(), String> {
        let used = self.used(found, exact);
        *worst = worst.max(used);
        if used <= 1.0 { Ok(()) } else { Err(format!("{found:e} for {exact:e}: {used:.3} of the bound")) }
    }
}

/// The largest parts of the bounds that were used up.
#[derive(Default)]
pub struct Worst {
    pub value: f64,
    pub gradient: f64,
    pub bias: f64,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, gradient, bias } = self;
        write!(
            f,
            "of the bounds, values use {value:.3}, gradients {gradient:.3}, the bias's gradients {bias:.4} at most"
        )
    }
}
