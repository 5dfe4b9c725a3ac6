//! IDX files, as MNIST and Fashion-MNIST come: `train-images-idx3-ubyte`, plain or gzipped, or a folder of them.
//!
//! Grey becomes three equal channels. The whole file is held in memory (55 MB for 70,000 images of 28x28): that is
//! bounded, and a file that is not as long as its header says is an error, not a skipped image.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use image::RgbImage;

use super::options::{Options, Split};
use super::source::{Source, Unusable, refuse};
use crate::error::DataError;

/// The most that is unpacked of one file.
const LONGEST: u64 = 4 << 30;

/// Zero, zero, bytes, three dimensions: count, rows, columns.
const MAGIC: [u8; 4] = [0, 0, 8, 3];

/// The images of some IDX files, one file after the other.
pub(super) struct IdxSource {
    files: Vec<IdxFile>,
}

struct IdxFile {
    name: String,
    rows: u32,
    columns: u32,
    /// `[count, rows, columns]`
    pixels: Vec<u8>,
}

/// Whether a file is named like one of images. Labels are `idx1`.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.ends_with("idx3-ubyte") || name.ends_with(".idx3")
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Whether a file belongs to a part.
fn is_in(split: Split, name: &str) -> bool {
    match split {
        Split::All => true,
        Split::Train => name.starts_with("train"),
        Split::Test => name.starts_with("t10k") || name.starts_with("test"),
        Split::Valid => name.starts_with("valid"),
    }
}

/// The files of images in a folder, sorted.
fn list(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<_> = entries
        .map_err(DataError::io("list", dir))?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| is_name(&file_name(path)) && path.is_file())
        .collect();
    files.sort_unstable();
    // Someone who unpacked a file and kept the packed one has it twice.
    let plain = files.clone();
    files.retain(|path| path.extension().is_none_or(|e| e != "gz") || !plain.contains(&path.with_extension("")));
    Ok(files)
}

/// Whether a folder holds IDX files.
pub(super) fn is_folder(dir: &Path) -> Result<bool, DataError> {
    Ok(!list(dir)?.is_empty())
}

impl IdxSource {
    /// Reads the files of a folder that belong to the options' split.
    pub(super) fn open_folder(options: &Options, dir: &Path) -> Result<Self, DataError> {
        let files = list(dir)?;
        let names: Vec<_> = files.iter().map(|path| file_name(path)).collect();
        let chosen: Vec<_> = files.into_iter().filter(|path| is_in(options.split, &file_name(path))).collect();
        if chosen.is_empty() {
            let reason = format!("--split {} fits none of its IDX files: {}", options.split, names.join(", "));
            return Err(refuse(options, reason));
        }
        Ok(Self { files: chosen.iter().map(|path| read(path)).collect::<Result<_, _>>()? })
    }

    /// Reads one file.
    pub(super) fn open_file(options: &Options, path: &Path) -> Result<Self, DataError> {
        if !is_in(options.split, &file_name(path)) {
            return Err(refuse(options, format!("--split {} does not fit the file's name", options.split)));
        }
        Ok(Self { files: vec![read(path)?] })
    }

    fn find(&self, mut index: usize) -> Option<(&IdxFile, usize)> {
        for file in &self.files {
            let count = file.count();
            if index < count {
                return Some((file, index));
            }
            index -= count;
        }
        None
    }
}

impl IdxFile {
    fn count(&self) -> usize {
        self.pixels.len() / (self.rows as usize * self.columns as usize)
    }
}

fn read(path: &Path) -> Result<IdxFile, DataError> {
    let refuse = |reason: String| DataError::Source { source_name: path.display().to_string(), reason };
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    let mut first = Vec::new();
    file.by_ref().take(2).read_to_end(&mut first).map_err(DataError::io("read", path))?;
    let packed = first == [0x1f, 0x8b];
    let whole = first.as_slice().chain(file);
    let mut reader: Box<dyn Read> = if packed { Box::new(GzDecoder::new(whole)) } else { Box::new(whole) };
    let torn = |error: std::io::Error| refuse(format!("it cannot be unpacked ({error}); is it cut short?"));

    let mut header = [0; 16];
    reader.read_exact(&mut header).map_err(torn)?;
    let field = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..4] != MAGIC {
        return Err(refuse(format!(
            "it is no IDX file of images: it should begin with the bytes {MAGIC:?} and begins with {:?}",
            &header[..4]
        )));
    }
    let (count, rows, columns) = (field(4), field(8), field(12));
    let expected = u128::from(count) * u128::from(rows) * u128::from(columns);
    if expected == 0 || expected > u128::from(LONGEST) {
        return Err(refuse(format!("its header announces {count} images of {columns}x{rows}")));
    }
    let expected = expected as u64;
    let mut pixels = Vec::new();
    reader.take(expected + 1).read_to_end(&mut pixels).map_err(torn)?;
    if pixels.len() as u64 != expected {
        let more = if pixels.len() as u64 > expected { "more than " } else { "" };
        let found = expected.min(pixels.len() as u64);
        return Err(refuse(format!(
            "{count} images of {columns}x{rows} take {expected} bytes after the header, and {more}{found} are there"
        )));
    }
    Ok(IdxFile { name: file_name(path), rows, columns, pixels })
}

impl Source for IdxSource {
    fn len(&self) -> usize {
        self.files.iter().map(IdxFile::count).sum()
    }

    fn name(&self, index: usize) -> String {
        self.find(index).map_or_else(String::new, |(file, index)| format!("{} image {index}", file.name))
    }

    fn picture(&self, index: usize) -> Result<RgbImage, Unusable> {
        let (file, index) = self.find(index).ok_or_else(|| Unusable::broken("there is no such image"))?;
        let bytes = file.rows as usize * file.columns as usize;
        let grey = &file.pixels[index * bytes..(index + 1) * bytes];
        let pixels = grey.iter().flat_map(|&value| [value; 3]).collect();
        RgbImage::from_raw(file.columns, file.rows, pixels).ok_or_else(|| Unusable::broken("its size does not hold"))
    }
}
