//! What a model is scored by during a run, and which of its weights: the names under which scores travel, are kept and shown.

use std::fmt;
use std::str::FromStr;

/// Which weights of G a score, a picture or an export is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weights {
    /// Those that training moves.
    #[default]
    Live,
    /// Their average over the steps, `optimizer.average`.
    Average,
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Average => "average",
        })
    }
}

/// A name that names nothing there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} {name:?}; expected {expected}")]
pub struct UnknownName {
    what: &'static str,
    name: String,
    expected: &'static str,
}

impl FromStr for Weights {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "live" => Ok(Self::Live),
            "average" => Ok(Self::Average),
            _ => Err(UnknownName { what: "kind of weights", name: name.into(), expected: "live or average" }),
        }
    }
}

/// A score that needs no network but the model itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Sliced Wasserstein distance between patches, times 1,000: the mean over all levels. Lower is better.
    SlicedWasserstein,
    /// The same at the level of this many pixels.
    SlicedWassersteinAt(u32),
    /// MS-SSIM over pairs of generated images: above [`Metric::MsSsimReal`] they are less different than real ones.
    MsSsim,
    /// MS-SSIM over pairs of real images, to compare with.
    MsSsimReal,
}

/// The smallest level of the pyramid, and the largest image there is.
const LEVELS: std::ops::RangeInclusive<u32> = 16..=512;

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlicedWasserstein => f.pad("sliced_wasserstein"),
            Self::SlicedWassersteinAt(size) => f.pad(&format!("sliced_wasserstein_{size}")),
            Self::MsSsim => f.pad("ms_ssim"),
            Self::MsSsimReal => f.pad("ms_ssim_real"),
        }
    }
}

impl FromStr for Metric {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let expected = "sliced_wasserstein, sliced_wasserstein_16 to _512, ms_ssim or ms_ssim_real";
        let unknown = || UnknownName { what: "metric", name: name.chars().take(64).collect(), expected };
        match name {
            "sliced_wasserstein" => Ok(Self::SlicedWasserstein),
            "ms_ssim" => Ok(Self::MsSsim),
            "ms_ssim_real" => Ok(Self::MsSsimReal),
            _ => {
                let size: u32 =
                    name.strip_prefix("sliced_wasserstein_").and_then(|size| size.parse().ok()).ok_or_else(unknown)?;
                let metric = Self::SlicedWassersteinAt(size);
                let is_one = LEVELS.contains(&size) && size.is_power_of_two() && metric.to_string() == name;
                is_one.then_some(metric).ok_or_else(unknown)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_nothing_else_is_one() {
        use Metric::{MsSsim, MsSsimReal, SlicedWasserstein, SlicedWassersteinAt};
        for metric in [SlicedWasserstein, SlicedWassersteinAt(16), SlicedWassersteinAt(512), MsSsim, MsSsimReal] {
            assert_eq!(metric.to_string().parse(), Ok(metric));
        }
        for weights in [Weights::Live, Weights::Average] {
            assert_eq!(weights.to_string().parse(), Ok(weights));
        }
        for name in ["", "fid", "sliced_wasserstein_", "sliced_wasserstein_017", "sliced_wasserstein_48", "MS_SSIM"] {
            assert!(name.parse::<Metric>().is_err(), "{name}");
        }
        assert!("Live".parse::<Weights>().is_err_and(|error| error.to_string().contains("live or average")));
    }
}
