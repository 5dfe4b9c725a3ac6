//! Quantities as Kubernetes writes them: `16Gi`, `500m`, `1.5`.
//!
//! One that Kubernetes would refuse, or take for something nobody means (16 bytes of memory), can never be built.

use std::fmt;

use anyhow::{Result, bail};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

/// What a quantity is a quantity of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Bytes.
    Bytes,
    /// CPUs.
    Cpus,
}

/// A checked quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    text: String,
    value: f64,
}

/// The suffixes, with what each multiplies by. Exponents (`1e3`) are left out: nobody writes them.
const SUFFIXES: [(&str, f64); 14] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// Less memory or storage than this is a unit that was forgotten.
const LEAST_BYTES: f64 = 64.0 * 1_048_576.0;
/// Kubernetes keeps quantities in 64 bits.
const MOST: f64 = 9e18;

impl Quantity {
    /// Reads one; `flag` is named in errors.
    ///
    /// # Errors
    /// If it is none, or none that can be meant.
    pub fn parse(flag: &str, text: &str, of: Of) -> Result<Self> {
        let example = match of {
            Of::Bytes => "16Gi or 500M",
            Of::Cpus => "4, 1.5 or 500m",
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let whole = number.split('.').all(|part| !part.is_empty()) && number.matches('.').count() <= 1;
        let factor = SUFFIXES.iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor);
        let (Some(factor), true, Ok(number)) = (factor, whole, number.parse::<f64>()) else {
            bail!("{flag} {text:?} is not a quantity, as in {example}");
        };
        let value = number * factor;
        if value > MOST {
            bail!("{flag} {text} is more than Kubernetes can count");
        }
        match of {
            Of::Bytes if suffix == "m" => bail!("{flag} {text}: bytes come in no thousandths; say {example}"),
            Of::Bytes if value < LEAST_BYTES => {
                bail!("{flag} {text} is {value} bytes, too little to run on (64Mi at least); say {example}")
            }
            Of::Cpus if value < 0.001 => bail!("{flag} {text} is no CPU at all; say {example}"),
            Of::Cpus if (value * 1000.0).fract() > 1e-6 && (value * 1000.0).fract() < 1.0 - 1e-6 => {
                bail!("{flag} {text} is finer than a thousandth of a CPU, which Kubernetes does not take")
            }
            Of::Cpus if value > 1e6 => bail!("{flag} {text} is more CPUs than any machine has; say {example}"),
            _ => Ok(Self { text: text.into(), value }),
        }
    }

    /// So many mebibytes, written in the largest unit that divides them.
    #[must_use]
    pub fn mebibytes(count: u64) -> Self {
        let value = count as f64 * 1_048_576.0;
        let text = if count.is_multiple_of(1024) { format!("{}Gi", count / 1024) } else { format!("{count}Mi") };
        Self { text, value }
    }

    /// So many CPUs.
    #[must_use]
    pub fn cpus(count: u64) -> Self {
        Self { text: count.to_string(), value: count as f64 }
    }

    /// In bytes, or CPUs.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// As the manifests have it.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire(self.text.clone())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_takes_is_taken_as_it_was_written() -> Result<()> {
        for (text, of, value) in [
            ("16Gi", Of::Bytes, 17_179_869_184.0),
            ("1.5Ti", Of::Bytes, 1_649_267_441_664.0),
            ("500M", Of::Bytes, 5e8),
            ("107374182400", Of::Bytes, 107_374_182_400.0),
            ("4", Of::Cpus, 4.0),
            ("500m", Of::Cpus, 0.5),
            ("1.5", Of::Cpus, 1.5),
        ] {
            let quantity = Quantity::parse("--q", text, of)?;
            assert_eq!((quantity.to_string().as_str(), quantity.value()), (text, value));
        }
        assert_eq!(Quantity::mebibytes(2048).to_string(), "2Gi");
        assert_eq!(Quantity::mebibytes(512).to_string(), "512Mi");
        Ok(())
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_one_that_is() {
        for (text, of) in [
            ("", Of::Bytes),
            ("Gi", Of::Bytes),
            ("lots", Of::Bytes),
            ("16GB", Of::Bytes),
            ("16gi", Of::Bytes),
            ("16 Gi", Of::Bytes),
            ("-1Gi", Of::Bytes),
            ("1..5Gi", Of::Bytes),
            (".Gi", Of::Bytes),
            ("16", Of::Bytes),
            ("16m", Of::Bytes),
            ("0Gi", Of::Bytes),
            ("99999Ei", Of::Bytes),
            ("0", Of::Cpus),
            ("1.00001", Of::Cpus),
            ("4 CPUs", Of::Cpus),
            ("nan", Of::Cpus),
            ("1e3", Of::Cpus),
            ("9000000", Of::Cpus),
            ("٣", Of::Cpus),
        ] {
            let error = Quantity::parse("--memory", text, of).map(|q| q.to_string()).expect_err(text).to_string();
            assert!(error.starts_with("--memory"), "{text}: {error}");
        }
    }
}
