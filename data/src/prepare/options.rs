//! What `trainer prepare` can be told, and what cannot be. Nothing here touches a file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::manifest::is_size;

/// Options of a preparation.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder, a zip archive, an IDX file, or `synthetic:faces`.
    pub source: String,
    /// The folder to write.
    pub out: PathBuf,
    /// Width and height of the images, a power of two from 16 to 512.
    pub size: u32,
    /// Which square of each image is taken.
    pub crop: Crop,
    /// Which part of the source is taken, where it has parts.
    pub split: Split,
    /// How many images, drawn from the source by the seed; 0 takes all. Made-up faces need a number.
    pub count: u64,
    /// Seed of the order, or of the faces.
    pub seed: u64,
    /// Whether an image that would be skipped is an error.
    pub strict: bool,
    /// Whether a finished set in `out` is replaced.
    pub force: bool,
    /// Images a shard; 0 for about 64 MiB.
    pub samples_per_shard: u64,
    /// Whether to say nothing on stderr.
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: String::new(),
            out: PathBuf::new(),
            size: 64,
            crop: Crop::Auto,
            split: Split::All,
            count: 0,
            seed: 0,
            strict: false,
            force: false,
            samples_per_shard: 0,
            quiet: false,
        }
    }
}

impl Options {
    /// Refuses what no source could satisfy.
    pub(super) fn check(&self) -> Result<(), DataError> {
        if !is_size(self.size) {
            return Err(DataError::Flag {
                flag: "--size",
                found: self.size.to_string(),
                expected: "the size must be 16, 32, 64, 128, 256 or 512".into(),
            });
        }
        if self.samples_per_shard > 1 << 32 {
            return Err(DataError::Flag {
                flag: "--samples-per-shard",
                found: self.samples_per_shard.to_string(),
                expected: "a shard is held in memory while it is made; choose a number that fits".into(),
            });
        }
        Ok(())
    }
}

/// Which square of an image is taken before it is resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// `began` for CelebA's layout, `center` for everything else.
    #[default]
    Auto,
    /// Rows 50..178, columns 25..153 of a 178x218 image: the face, as BEGAN work crops CelebA.
    Began,
    /// Rows 57..185, columns 25..153 of a 178x218 image, as ProGAN does.
    Progan,
    /// The largest square in the middle.
    Center,
    /// The whole image; one that is not square is skipped.
    None,
}

/// Which part of a source is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Everything.
    #[default]
    All,
    /// CelebA's partition 0; `train-*` of a folder of IDX files.
    Train,
    /// CelebA's partition 1.
    Valid,
    /// CelebA's partition 2; `t10k-*` and `test-*` of a folder of IDX files.
    Test,
}

const CROPS: [(&str, Crop); 5] = [
    ("auto", Crop::Auto),
    ("began", Crop::Began),
    ("progan", Crop::Progan),
    ("center", Crop::Center),
    ("none", Crop::None),
];

const SPLITS: [(&str, Split); 4] =
    [("all", Split::All), ("train", Split::Train), ("valid", Split::Valid), ("test", Split::Test)];

fn parse<T: Copy>(flag: &'static str, names: &[(&str, T)], text: &str) -> Result<T, DataError> {
    names.iter().find(|(name, _)| *name == text).map(|&(_, value)| value).ok_or_else(|| DataError::Flag {
        flag,
        found: text.to_owned(),
        expected: format!("expected one of {}", names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")),
    })
}

fn name<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, named)| named == value).map_or("", |(name, _)| name)
}

impl FromStr for Crop {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        parse("--crop", &CROPS, text)
    }
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&CROPS, self))
    }
}

impl FromStr for Split {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        parse("--split", &SPLITS, text)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(&SPLITS, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_and_splits_are_read_as_they_are_shown() -> Result<(), DataError> {
        for (text, crop) in CROPS {
            assert_eq!((text.parse::<Crop>()?, crop.to_string()), (crop, text.to_owned()));
        }
        for (text, split) in SPLITS {
            assert_eq!((text.parse::<Split>()?, split.to_string()), (split, text.to_owned()));
        }
        Ok(())
    }

    #[test]
    fn a_wrong_crop_is_told_which_there_are() {
        let error = "centre".parse::<Crop>().map_or_else(|e| e.to_string(), |_| String::new());
        assert_eq!(error, "--crop centre: expected one of auto, began, progan, center, none");
    }
}
