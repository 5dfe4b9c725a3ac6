//! A zip archive of images, such as the StyleGAN tools write; nothing is unpacked to disk.
//!
//! Every thread reads members through a position of its own in one shared file. Members are ordered by name; what is
//! no image, hidden, or the bookkeeping of another system (`__MACOSX`) is left out.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use zip::ZipArchive;

use super::decode::{self, LONGEST_FILE};
use super::folder::{is_hidden, is_image_name};
use super::source::{Source, Unusable};
use crate::error::DataError;

/// The images of a zip archive.
#[derive(Clone)]
pub(super) struct ZipSource {
    archive: ZipArchive<SharedFile>,
    /// Name and index within the archive, sorted.
    members: Vec<(String, usize)>,
}

impl ZipSource {
    /// Lists the images in the archive at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or is no whole archive.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let length = file.metadata().map_err(DataError::io("look at", path))?.len();
        let archive = ZipArchive::new(SharedFile { file: Arc::new(file), position: 0, length }).map_err(|error| {
            let reason = format!("it is no whole zip archive ({error})");
            DataError::Source { source_name: path.display().to_string(), reason }
        })?;
        let mut members: Vec<_> = (0..archive.len())
            .filter_map(|index| Some((archive.name_for_index(index)?.ok()?.into_owned(), index)))
            .filter(|(name, _)| is_wanted(Path::new(name)))
            .collect();
        members.sort_unstable();
        Ok(Self { archive, members })
    }

    /// The names of the images.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// Keeps the images whose name satisfies `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        self.members.retain(|(name, _)| keep(Path::new(name)));
    }

    /// The text of the first member with this file name, if there is one, up to `longest` bytes.
    pub(super) fn text(&self, file_name: &str, longest: u64) -> Option<Result<String, Unusable>> {
        let index = (0..self.archive.len()).find(|&index| {
            let name = self.archive.name_for_index(index);
            matches!(name, Some(Ok(name)) if Path::new(&*name).file_name().is_some_and(|name| name == file_name))
        })?;
        let text = self.read(index, longest).and_then(|bytes| String::from_utf8(bytes).map_err(Unusable::broken));
        Some(text)
    }

    fn read(&self, index: usize, longest: u64) -> Result<Vec<u8>, Unusable> {
        // A clone shares the list of members and the file, and has a position of its own.
        let mut archive = self.archive.clone();
        let member = archive.by_index(index).map_err(Unusable::broken)?;
        let mut bytes = Vec::new();
        // What a member announces of its size is not to be trusted; what comes out is counted.
        member.take(longest + 1).read_to_end(&mut bytes).map_err(Unusable::broken)?;
        if bytes.len() as u64 > longest {
            return Err(Unusable::broken(format!("it unpacks to more than {} MiB", longest >> 20)));
        }
        Ok(bytes)
    }
}

fn is_wanted(name: &Path) -> bool {
    is_image_name(name) && !name.iter().any(|part| is_hidden(part) || part == "__MACOSX")
}

impl Source for ZipSource {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn name(&self, index: usize) -> String {
        self.members[index].0.clone()
    }

    fn picture(&self, index: usize) -> Result<RgbImage, Unusable> {
        decode::decode(&self.read(self.members[index].1, LONGEST_FILE)?)
    }
}

/// A file read from many threads, each with a position of its own.
#[derive(Clone)]
struct SharedFile {
    file: Arc<File>,
    position: u64,
    length: u64,
}

impl Read for SharedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for SharedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position =
            position.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a position before the start"))?;
        Ok(self.position)
    }
}
