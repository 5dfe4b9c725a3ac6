//! What was compared, and how near to its bound it came.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use began::config::Precision;
use tch::{Device, Kind, Tensor};

/// What a tensor of a fixture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Losses, k and M_global.
    Losses,
    /// `D(x)` and `G(z)`.
    Images,
    /// Of L_D over D, of L_G over G.
    Gradients,
    /// After Adam.
    Weights,
}

impl Quantity {
    /// By a tensor's name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name.split('/').nth(1) {
            Some("scalars") => Self::Losses,
            Some("grad") => Self::Gradients,
            Some("weights") => Self::Weights,
            _ => Self::Images,
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Losses => "losses and equilibrium",
            Self::Images => "images",
            Self::Gradients => "gradients",
            Self::Weights => "weights after Adam",
        })
    }
}

/// The unit of rounding of f32: sums are kept in it, whatever their terms are in.
const SUM: f64 = 1.0 / (1 << 24) as f64;

/// The largest relative differences that pass; docs/performance.md has the reasons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    losses: f64,
    images: f64,
    gradients: f64,
    weights: f64,
    /// For each position that a bias's gradient is summed over: libraries may add them one after the other.
    position: f64,
}

impl Bounds {
    /// One for everything.
    #[must_use]
    pub fn all(bound: f64) -> Self {
        Self { losses: bound, images: bound, gradients: bound, weights: bound, position: 0.0 }
    }

    /// Of one step in fewer bits against the same step in f64. Adam is f32 in all of them.
    #[must_use]
    pub fn of_rounding(precision: Precision) -> Self {
        let (losses, images, gradients) = match precision {
            Precision::F64 => return Self::all(1e-9),
            Precision::F32 => (2e-6, 5e-6, 3e-4),
            Precision::Tf32 => (5e-3, 1.2e-2, 5e-2),
            Precision::Bf16 => (2e-2, 5e-2, 2e-1),
        };
        Self { losses, images, gradients, weights: 5e-7, position: SUM }
    }

    fn of(&self, quantity: Quantity, positions: u64) -> f64 {
        match quantity {
            Quantity::Losses => self.losses,
            Quantity::Images => self.images,
            Quantity::Gradients => self.gradients + self.position * positions as f64,
            Quantity::Weights => self.weights,
        }
    }
}

/// What a tensor is compared with.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Its values.
    pub values: &'a Tensor,
    /// Added to its size when the difference is taken relative to it: what is nearly nothing beside its like need not be right to
    /// as many digits.
    pub beside: f64,
    /// How many positions of an image its numbers are summed over, where they are such sums.
    pub positions: u64,
}

impl<'a> From<&'a Tensor> for Expected<'a> {
    fn from(values: &'a Tensor) -> Self {
        Self { values, beside: 0.0, positions: 0 }
    }
}

/// A difference beside its bound.
#[derive(Clone, Debug)]
struct Difference {
    relative: f64,
    bound: f64,
    name: String,
}

impl Difference {
    fn passes(&self) -> bool {
        // Written so that NaN fails.
        self.relative <= self.bound
    }

    /// How much of its bound it takes; NaN is more than all.
    fn share(&self) -> f64 {
        let share = if self.bound > 0.0 { self.relative / self.bound } else { self.relative };
        if share.is_nan() { f64::INFINITY } else { share }
    }
}

/// Compares, and prints as it goes.
pub struct Report {
    bounds: Bounds,
    /// Prints only what is over its bound.
    quiet: bool,
    compared: usize,
    failed: usize,
    worst: BTreeMap<Quantity, Difference>,
}

impl Report {
    /// Nothing compared yet.
    #[must_use]
    pub fn new(bounds: Bounds, quiet: bool) -> Self {
        Self { bounds, quiet, compared: 0, failed: 0, worst: BTreeMap::new() }
    }

    /// Compares two tensors, whatever their kinds and devices.
    ///
    /// # Errors
    /// If their shapes differ.
    pub fn compare<'a>(&mut self, name: &str, found: &Tensor, expected: impl Into<Expected<'a>>) -> Result<()> {
        let Expected { values, beside, positions } = expected.into();
        let on_host = |tensor: &Tensor| tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
        let (a, b) = (on_host(found)?, on_host(values)?);
        let difference = f64::try_from((&a - &b).f_norm()?)?;
        let size = f64::try_from(b.f_norm()?)? + beside;
        let relative = if size > 0.0 { difference / size } else { difference };
        let quantity = Quantity::of(name);
        let difference = Difference { relative, bound: self.bounds.of(quantity, positions), name: name.to_owned() };
        self.compared += 1;
        self.failed += usize::from(!difference.passes());
        if !difference.passes() || !self.quiet {
            let Difference { relative, bound, .. } = difference;
            println!("{relative:9.2e} of {}  {name}{}", short(bound), if difference.passes() { "" } else { "  OVER" });
        }
        let worst = self.worst.entry(quantity).or_insert_with(|| difference.clone());
        if difference.share() > worst.share() {
            *worst = difference;
        }
        Ok(())
    }

    /// As [`Report::compare`], two numbers.
    ///
    /// # Errors
    /// If memory is short.
    pub fn compare_numbers(&mut self, name: &str, found: f64, expected: f64) -> Result<()> {
        self.compare(name, &Tensor::f_from_slice(&[found])?, &Tensor::f_from_slice(&[expected])?)
    }

    /// Whether everything is within its bound.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failed == 0
    }

    /// Prints how many passed, and the worst of each quantity; `against` is what all was compared with.
    pub fn print(&self, against: &str) {
        println!("{} of {} tensors within their bounds of {against}", self.compared - self.failed, self.compared);
        for (quantity, Difference { relative, bound, name }) in &self.worst {
            println!("{relative:9.2e} of {}  the worst of {quantity}: {name}", short(*bound));
        }
    }
}

/// A bound in as few digits as it has, two at most.
fn short(bound: f64) -> String {
    let (whole, rounded) = (format!("{bound:e}"), format!("{bound:.1e}"));
    if whole.len() < rounded.len() { whole } else { rounded }
}
