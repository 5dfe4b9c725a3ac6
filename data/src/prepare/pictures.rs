//! Single pictures as a prepared set would hold them: decoded, cropped to the square in the middle, resized.
//!
//! For what looks at images without preparing a set: scores over a folder, photographs whose noise is looked for.

use std::path::{Path, PathBuf};

use fast_image_resize::Resizer;

use super::decode;
use super::fit::fit;
use super::folder::Folder;
use super::options::Crop;
use super::source::Source;
use crate::error::DataError;

/// The images below a folder, at any depth, by their paths.
///
/// # Errors
/// If the folder cannot be listed.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let found = Folder::list(folder)?;
    Ok((0..found.len()).map(|index| folder.join(found.name(index))).collect())
}

/// One image file as `[3,size,size]`, red plane first, exactly as `prepare` with the centre crop makes it.
///
/// # Errors
/// If the file cannot be read, is no image, is torn, or is too small; it is named.
pub fn read(file: &Path, size: u32) -> Result<Vec<u8>, DataError> {
    let unusable = |reason: String| DataError::Picture { path: file.to_owned(), reason };
    let bytes = decode::bytes_of(file).map_err(DataError::io("read", file))?;
    let picture = decode::decode(&bytes).map_err(|error| unusable(error.reason))?;
    fit(picture, Crop::Center, size, &mut Resizer::new()).map_err(|error| unusable(error.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    #[test]
    fn a_picture_is_read_as_prepare_reads_it_and_a_bad_one_is_named() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("b/wide.png");
        std::fs::create_dir_all(folder.path().join("b"))?;
        RgbImage::from_fn(48, 32, |x, y| Rgb([x as u8, y as u8, 7])).save(&file)?;
        let pixels = read(&file, 32)?;
        assert_eq!((pixels.len(), pixels[0], pixels[31], pixels[1024], pixels[2048]), (3 * 1024, 8, 39, 0, 7));
        assert_eq!(list(folder.path())?, [file]);
        let torn = folder.path().join("torn.png");
        std::fs::write(&torn, b"\x89PNG\r\n\x1a\n")?;
        let text = read(&torn, 32).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("torn.png"), "{text}");
        let text = read(&folder.path().join("none.png"), 32).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("none.png"), "{text}");
        Ok(())
    }
}
