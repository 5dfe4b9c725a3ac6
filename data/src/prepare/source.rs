//! What a SOURCE is: found by looking at it, opened, and its images numbered in the order of their names.
//!
//! Listing must never depend on the order in which a file system or an archive keeps its entries.

use std::fs;
use std::io::Read;
use std::path::Path;

use image::RgbImage;

use super::archive::ZipSource;
use super::folder::Folder;
use super::idx::IdxSource;
use super::options::{Crop, Options, Split};
use super::{celeba, idx};
use crate::error::DataError;
use crate::faces;
use crate::manifest;

/// What SOURCE may be, for whoever gave something else.
const ACCEPTED: &str = "accepted are a folder of JPEG, PNG or WebP images (also CelebA's, with img_align_celeba/), a zip \
    archive of such images, IDX files (train-images-idx3-ubyte, also .gz, or a folder of them), and synthetic:faces";

/// Numbered candidates for images.
pub(super) trait Source: Sync {
    /// How many there are.
    fn len(&self) -> usize;
    /// The name of one, within the source.
    fn name(&self, index: usize) -> String;
    /// One of them, decoded. Called from many threads.
    fn picture(&self, index: usize) -> Result<RgbImage, Unusable>;
}

/// Why a candidate is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    pub(super) fault: Fault,
    pub(super) reason: String,
}

/// The kinds of reasons that the manifest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Broken,
    TooSmall,
    WrongShape,
}

impl Unusable {
    pub(super) fn broken(reason: impl ToString) -> Self {
        Self { fault: Fault::Broken, reason: reason.to_string() }
    }
}

/// A source, and what was found out about it.
pub(super) struct Opened {
    pub(super) source: Box<dyn Source>,
    /// For the manifest.
    pub(super) kind: &'static str,
    /// The crop in force; never `Auto`.
    pub(super) crop: Crop,
    /// Whether the order is drawn; made-up images come in order.
    pub(super) shuffled: bool,
    /// A sentence for people.
    pub(super) found: String,
}

/// Finds out what the options' source is and opens it.
pub(super) fn open(options: &Options) -> Result<Opened, DataError> {
    let opened = match options.source.strip_prefix("synthetic:") {
        Some(what) => open_synthetic(options, what)?,
        None => open_files(options)?,
    };
    if opened.source.len() == 0 {
        return Err(refuse(options, format!("it holds no image; {ACCEPTED}")));
    }
    Ok(opened)
}

/// An error about the source.
pub(super) fn refuse(options: &Options, reason: impl Into<String>) -> DataError {
    DataError::Source { source_name: options.source.clone(), reason: reason.into() }
}

fn open_synthetic(options: &Options, what: &str) -> Result<Opened, DataError> {
    if what != "faces" {
        return Err(refuse(options, format!("there is no synthetic:{what}, only synthetic:faces")));
    }
    if options.count == 0 {
        return Err(DataError::Flag {
            flag: "--count",
            found: "0".into(),
            expected: "synthetic:faces needs to be told how many, for example --count 10000".into(),
        });
    }
    if matches!(options.crop, Crop::Began | Crop::Progan) {
        return Err(DataError::Flag {
            flag: "--crop",
            found: options.crop.to_string(),
            expected: "made-up faces are square already; leave it out".into(),
        });
    }
    no_splits(options)?;
    let count = usize::try_from(options.count).map_err(|_| refuse(options, "that many do not fit in memory"))?;
    let source = Box::new(Faces { seed: options.seed, size: options.size, count });
    let found = format!("{count} made-up faces");
    Ok(Opened { source, kind: "synthetic:faces", crop: Crop::None, shuffled: false, found })
}

fn open_files(options: &Options) -> Result<Opened, DataError> {
    let path = Path::new(&options.source);
    let found = fs::metadata(path).map_err(|error| refuse(options, format!("{error}; {ACCEPTED}")))?;
    let crop = if options.crop == Crop::Auto { Crop::Center } else { options.crop };
    if found.is_dir() {
        if path.join(manifest::FILE).is_file() && manifest::Manifest::load(path).is_ok() {
            return Err(refuse(options, "it is a prepared data set already; train on it with --data"));
        }
        if let Some(opened) = celeba::open_folder(options, path)? {
            return Ok(opened);
        }
        if idx::is_folder(path)? {
            return idx_opened(IdxSource::open_folder(options, path)?, crop);
        }
        no_splits(options)?;
        let source = Box::new(Folder::list(path)?);
        let found = format!("a folder of {} images", source.len());
        return Ok(Opened { source, kind: "folder", crop, shuffled: true, found });
    }
    match kind_of_file(path)? {
        FileKind::Zip => {
            let archive = ZipSource::open(path)?;
            if let Some(opened) = celeba::open_archive(options, path, &archive)? {
                return Ok(opened);
            }
            no_splits(options)?;
            let found = format!("a zip archive of {} images", archive.len());
            Ok(Opened { source: Box::new(archive), kind: "zip", crop, shuffled: true, found })
        }
        FileKind::Idx => idx_opened(IdxSource::open_file(options, path)?, crop),
        FileKind::Image => Err(refuse(options, format!("it is a single image; {ACCEPTED}"))),
        FileKind::Other => Err(refuse(options, format!("its kind is not known; {ACCEPTED}"))),
    }
}

fn idx_opened(source: IdxSource, crop: Crop) -> Result<Opened, DataError> {
    let found = format!("IDX files with {} images", source.len());
    Ok(Opened { source: Box::new(source), kind: "idx", crop, shuffled: true, found })
}

/// Refuses `--split` where there are no parts.
fn no_splits(options: &Options) -> Result<(), DataError> {
    if options.split == Split::All {
        return Ok(());
    }
    Err(DataError::Flag {
        flag: "--split",
        found: options.split.to_string(),
        expected: format!("{} has no parts; only CelebA and IDX files have", options.source),
    })
}

enum FileKind {
    Zip,
    Idx,
    Image,
    Other,
}

/// What a file is by its first bytes; names lie.
fn kind_of_file(path: &Path) -> Result<FileKind, DataError> {
    let mut start = Vec::new();
    let mut file = fs::File::open(path).map_err(DataError::io("open", path))?;
    file.by_ref().take(16).read_to_end(&mut start).map_err(DataError::io("read", path))?;
    Ok(match start.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => FileKind::Zip,
        [0, 0, 8, 1..=4, ..] | [0x1f, 0x8b, ..] => FileKind::Idx,
        bytes if image::guess_format(bytes).is_ok() => FileKind::Image,
        _ => FileKind::Other,
    })
}

/// Made-up faces.
struct Faces {
    seed: u64,
    size: u32,
    count: usize,
}

impl Source for Faces {
    fn len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> String {
        format!("face {index}")
    }

    fn picture(&self, index: usize) -> Result<RgbImage, Unusable> {
        Ok(faces::face(self.seed, index as u64, self.size))
    }
}
