//! Small images and sets for tests.
#![allow(dead_code, reason = "each test file uses its part")]

use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use began_data::prepare::{Options, prepare};
use image::{ImageFormat, Rgb, RgbImage};

pub type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// The colour that tells an image's number.
pub fn colour(image: usize) -> [u8; 3] {
    [image as u8, 200 - image as u8, 100]
}

pub fn flat(colour: [u8; 3], width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb(colour))
}

pub fn png(image: &RgbImage) -> TestResult<Vec<u8>> {
    encoded(image, ImageFormat::Png)
}

pub fn jpeg(image: &RgbImage) -> TestResult<Vec<u8>> {
    encoded(image, ImageFormat::Jpeg)
}

fn encoded(image: &RgbImage, format: ImageFormat) -> TestResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format)?;
    Ok(bytes.into_inner())
}

/// A folder `source` of this many images, some deeper than others.
pub fn folder_of(dir: &Path, images: usize) -> TestResult<PathBuf> {
    let source = dir.join("source");
    for image in 0..images {
        let folder = source.join(format!("part-{}", image % 3));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{image}.PNG")), png(&flat(colour(image), 40, 48))?)?;
    }
    Ok(source)
}

/// Quiet options at 32 px.
pub fn options(source: &Path, out: impl AsRef<Path>) -> Options {
    Options {
        source: source.display().to_string(),
        out: out.as_ref().to_owned(),
        size: 32,
        quiet: true,
        ..Options::default()
    }
}

/// What is said when these options are refused.
pub fn refusal(options: &Options) -> TestResult<String> {
    Ok(prepare(options).err().ok_or_else(|| format!("it was accepted: {options:?}"))?.to_string())
}
