//! From the bytes of a file to 8-bit RGB: JPEG, PNG and WebP, told apart by their content.
//!
//! It must never trust a file: dimensions and memory are bounded before anything is decoded, a torn file is refused
//! even where the decoder would fill the rest with grey, and a decoder that panics costs one image.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::source::Unusable;

/// The longest file that is read as one image.
pub(super) const LONGEST_FILE: u64 = 256 << 20;

/// The most memory one decoded image may take, and its longest side.
const LARGEST_IMAGE: u64 = 256 << 20;
const LONGEST_SIDE: u32 = 32_768;

/// The bytes of a file that is to be one image: no more than it takes to see that the file is too long.
pub(super) fn bytes_of(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Decodes one image. Transparency is laid on white; EXIF orientation is applied.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Unusable> {
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(Unusable::broken(format!("the file is longer than {} MiB", LONGEST_FILE >> 20)));
    }
    // The image is this call's own, so a panic leaves nothing half done behind.
    catch_unwind(AssertUnwindSafe(|| decode_trusting(bytes)))
        .unwrap_or_else(|_| Err(Unusable::broken("the decoder failed on it")))
}

fn decode_trusting(bytes: &[u8]) -> Result<RgbImage, Unusable> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(Unusable::broken)?;
    let Some(format) = reader.format() else {
        let reason = if bytes.is_empty() { "the file is empty" } else { "it is no JPEG, PNG or WebP" };
        return Err(Unusable::broken(reason));
    };
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Unusable::broken("the JPEG ends before its image does"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(LARGEST_IMAGE);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(Unusable::broken)?;
    // Not every decoder keeps the limit on memory itself.
    if decoder.total_bytes() > LARGEST_IMAGE {
        let (width, height) = decoder.dimensions();
        return Err(Unusable::broken(format!("{width}x{height} is more than is decoded")));
    }
    let orientation = decoder.orientation().map_err(Unusable::broken)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(Unusable::broken)?;
    image.apply_orientation(orientation);
    Ok(if image.color().has_alpha() { on_white(&image) } else { image.into_rgb8() })
}

fn on_white(image: &DynamicImage) -> RgbImage {
    let image = image.to_rgba8();
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0;
        let alpha = u32::from(alpha);
        image::Rgb([red, green, blue].map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Whether a JPEG reaches its end-of-image marker. The markers are walked: a thumbnail in a header has an end of its
/// own, which proves nothing.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    let mut in_scan = false;
    while let Some(&[lead, marker]) = bytes.get(at..at + 2).and_then(|pair| pair.first_chunk()) {
        match (lead, marker) {
            // Inside a scan, everything up to the next marker is coded pixels.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd7) => at += 2,
            (0xff, 0xff) => at += 1,
            (0xff, 0xd9) => return true,
            (0xff, _) => {
                let Some(length) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                in_scan = marker == 0xda;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
            _ if in_scan => at += 1,
            // Between segments something that is no marker: let the decoder judge.
            _ => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageEncoder, Luma, Rgb, Rgba, RgbaImage};
    use std::error::Error;

    fn gradient() -> RgbImage {
        RgbImage::from_fn(40, 24, |x, y| Rgb([x as u8 * 6, y as u8 * 10, 128]))
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Result<Vec<u8>, image::ImageError> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format)?;
        Ok(bytes.into_inner())
    }

    #[test]
    fn png_and_webp_come_back_exactly_and_jpeg_nearly() -> Result<(), Box<dyn Error>> {
        let image = gradient();
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Jpeg] {
            let decoded = decode(&encoded(&image.clone().into(), format)?).map_err(|e| e.reason)?;
            let worst = image.iter().zip(decoded.iter()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(if format == ImageFormat::Jpeg { 12 } else { 0 }), "{format:?} {worst:?}");
        }
        Ok(())
    }

    #[test]
    fn a_jpeg_or_png_torn_anywhere_is_refused() -> Result<(), Box<dyn Error>> {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let bytes = encoded(&gradient().into(), format)?;
            // A PNG's last chunk holds no pixels: without it nothing is missing.
            let end = bytes.len() - if format == ImageFormat::Png { 16 } else { 1 };
            for end in 0..end {
                assert!(decode(&bytes[..end]).is_err(), "{format:?} cut at {end} of {}", bytes.len());
            }
        }
        Ok(())
    }

    #[test]
    fn grey_deep_and_transparent_images_become_rgb_on_white() -> Result<(), Box<dyn Error>> {
        let pixel = |image: DynamicImage| -> Result<[u8; 3], Box<dyn Error>> {
            let decoded = decode(&encoded(&image, ImageFormat::Png)?).map_err(|e| e.reason)?;
            Ok(decoded.get_pixel(0, 0).0)
        };
        assert_eq!(pixel(GrayImage::from_pixel(9, 9, Luma([77])).into())?, [77; 3]);
        assert_eq!(pixel(image::ImageBuffer::from_pixel(9, 9, Luma([0x4d4du16])).into())?, [77; 3]);
        assert_eq!(pixel(RgbaImage::from_pixel(9, 9, Rgba([10, 20, 30, 0])).into())?, [255; 3]);
        assert_eq!(pixel(RgbaImage::from_pixel(9, 9, Rgba([0, 255, 100, 51])).into())?, [204, 255, 224]);
        Ok(())
    }

    #[test]
    fn a_small_file_of_a_huge_image_is_not_decoded() -> Result<(), Box<dyn Error>> {
        let huge = GrayImage::new(20_000, 20_000);
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new_with_quality(
            &mut bytes,
            image::codecs::png::CompressionType::Fast,
            image::codecs::png::FilterType::NoFilter,
        )
        .write_image(&huge, 20_000, 20_000, image::ExtendedColorType::L8)?;
        assert!(bytes.len() < 4_000_000 && decode(&bytes).is_err());
        Ok(())
    }

    #[test]
    fn random_bytes_after_a_signature_never_panic() -> Result<(), Box<dyn Error>> {
        let mut state = 1u32;
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let whole = encoded(&gradient().into(), format)?;
            for _ in 0..200 {
                let mut bytes = whole.clone();
                for _ in 0..4 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let at = state as usize % bytes.len();
                    bytes[at] = (state >> 24) as u8;
                }
                let _ = decode(&bytes);
            }
        }
        Ok(())
    }
}
