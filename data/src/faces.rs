//! Made-up faces.
/// One face.
#[must_use]
pub fn face(seed: u64, index: u64, size: u32) -> image::RgbImage {
    image::RgbImage::from_pixel(size, size, image::Rgb([seed as u8, index as u8, 0]))
}
