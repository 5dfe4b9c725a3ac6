//! A folder of images at any depth.
//!
//! The extension selects, the content decides. Hidden files are ignored, links are followed, and a loop of links ends
//! where it closes. Files are ordered by their path within the folder, never as the file system lists them.

use std::path::{Path, PathBuf};

use image::RgbImage;
use walkdir::WalkDir;

use super::decode;
use super::source::{Source, Unusable};
use crate::error::DataError;

/// The images of a folder.
pub(super) struct Folder {
    root: PathBuf,
    /// Paths within the folder, sorted.
    files: Vec<PathBuf>,
}

/// Whether a name is that of an image.
pub(super) fn is_image_name(name: &Path) -> bool {
    name.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| {
        ["jpg", "jpeg", "png", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Whether a name is hidden, as Unix has it.
pub(super) fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

impl Folder {
    /// Lists the images in `root`.
    ///
    /// # Errors
    /// If a folder cannot be listed.
    pub(super) fn list(root: &Path) -> Result<Self, DataError> {
        let mut files = Vec::new();
        let walk = WalkDir::new(root).follow_links(true).into_iter();
        for entry in walk.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name())) {
            match entry {
                Ok(entry) if entry.file_type().is_file() && is_image_name(entry.path()) => {
                    files.push(entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned());
                }
                Ok(_) => {}
                Err(error) if error.loop_ancestor().is_some() => {}
                // A link that leads nowhere: named and skipped later, if it is named like an image.
                Err(error) if error.path().is_some_and(Path::is_symlink) => {
                    let path = error.path().unwrap_or(root);
                    if is_image_name(path) {
                        files.push(path.strip_prefix(root).unwrap_or(path).to_owned());
                    }
                }
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    return Err(DataError::io("list", path)(error.into()));
                }
            }
        }
        files.sort_unstable();
        Ok(Self { root: root.to_owned(), files })
    }

    /// Keeps the images whose path within the folder satisfies `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        self.files.retain(|path| keep(path));
    }
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, index: usize) -> String {
        self.files[index].display().to_string()
    }

    fn picture(&self, index: usize) -> Result<RgbImage, Unusable> {
        let bytes = decode::bytes_of(&self.root.join(&self.files[index])).map_err(Unusable::broken)?;
        decode::decode(&bytes)
    }
}
