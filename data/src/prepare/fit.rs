//! Crop and resize: from an image of any size to `[3,size,size]`.
//!
//! Filtered in the sRGB values as they are, as everyone's preparation of these data does: Lanczos with three lobes to
//! make smaller, Catmull-Rom to make larger (Lanczos would ring around what is enlarged). The filters must stay in
//! fixed-point numbers, so that the bytes are the same on every processor.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{RgbImage, imageops};

use super::options::Crop;
use super::source::{Fault, Unusable};

/// Width and height of CelebA's aligned images.
const CELEBA: (u32, u32) = (178, 218);

/// A square of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Square {
    left: u32,
    top: u32,
    side: u32,
}

/// Crops and resizes one image to `[3,size,size]`, red plane first.
pub(super) fn fit(picture: RgbImage, crop: Crop, size: u32, resizer: &mut Resizer) -> Result<Vec<u8>, Unusable> {
    let (width, height) = picture.dimensions();
    let square = square(crop, width, height)?;
    // Blown up eightfold, even a photograph is a blur.
    let least = (size / 8).max(8);
    if square.side < least {
        let Square { side, .. } = square;
        return Err(Unusable {
            fault: Fault::TooSmall,
            reason: format!("too small: {side}x{side} after the crop, and {size} px need at least {least}x{least}"),
        });
    }
    // Cut out first: the resizer's own crop lets the filter see what is outside.
    let picture = if width == height {
        picture
    } else {
        let Square { left, top, side } = square;
        imageops::crop_imm(&picture, left, top, side, side).to_image()
    };
    if square.side == size {
        return Ok(planes(picture.as_raw()));
    }
    let filter = if square.side >= size { FilterType::Lanczos3 } else { FilterType::CatmullRom };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let from = ImageRef::new(square.side, square.side, picture.as_raw(), PixelType::U8x3).map_err(Unusable::broken)?;
    let mut to = Image::new(size, size, PixelType::U8x3);
    resizer.resize(&from, &mut to, &options).map_err(Unusable::broken)?;
    Ok(planes(to.buffer()))
}

fn square(crop: Crop, width: u32, height: u32) -> Result<Square, Unusable> {
    let aligned = |top| {
        if (width, height) == CELEBA {
            return Ok(Square { left: 25, top, side: 128 });
        }
        let (w, h) = CELEBA;
        Err(Unusable {
            fault: Fault::WrongShape,
            reason: format!("--crop {crop} needs an image of {w}x{h}, and this one is {width}x{height}"),
        })
    };
    match crop {
        Crop::Began => aligned(50),
        Crop::Progan => aligned(57),
        Crop::None if width != height => Err(Unusable {
            fault: Fault::WrongShape,
            reason: format!("--crop none needs square images, and this one is {width}x{height}"),
        }),
        Crop::Auto | Crop::Center | Crop::None => {
            let side = width.min(height);
            Ok(Square { left: (width - side) / 2, top: (height - side) / 2, side })
        }
    }
}

/// From interleaved colours to one plane each.
fn planes(interleaved: &[u8]) -> Vec<u8> {
    let mut planes = Vec::with_capacity(interleaved.len());
    for channel in 0..3 {
        planes.extend(interleaved.iter().skip(channel).step_by(3));
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// Red tells the column, green the row.
    fn map(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 9]))
    }

    fn corners(crop: Crop, width: u32, height: u32, size: u32) -> Result<[u8; 4], Unusable> {
        let image = fit(map(width, height), crop, size, &mut Resizer::new())?;
        let plane = (size * size) as usize;
        assert!(image[2 * plane..].iter().all(|&blue| blue == 9));
        Ok([image[0], image[plane - 1], image[plane], image[2 * plane - 1]])
    }

    #[test]
    fn celebas_crops_take_the_rows_and_columns_of_the_papers() -> Result<(), Unusable> {
        assert_eq!(corners(Crop::Began, 178, 218, 128)?, [25, 152, 50, 177]);
        assert_eq!(corners(Crop::Progan, 178, 218, 128)?, [25, 152, 57, 184]);
        Ok(())
    }

    #[test]
    fn the_centre_is_the_largest_square_in_the_middle() -> Result<(), Unusable> {
        assert_eq!(corners(Crop::Center, 64, 100, 64)?, [0, 63, 18, 81]);
        assert_eq!(corners(Crop::Center, 101, 64, 64)?, [18, 81, 0, 63]);
        Ok(())
    }

    #[test]
    fn a_resized_edge_does_not_see_what_the_crop_left_out() -> Result<(), Unusable> {
        let bars = RgbImage::from_fn(200, 100, |x, _| Rgb(if (50..150).contains(&x) { [0; 3] } else { [255; 3] }));
        assert!(fit(bars, Crop::Center, 32, &mut Resizer::new())?.iter().all(|&value| value == 0));
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_with_both_sizes() {
        let refused = |crop, width, height, size| {
            fit(map(width, height), crop, size, &mut Resizer::new())
                .map_or_else(|e| (e.fault, e.reason), |_| (Fault::Broken, "accepted".into()))
        };
        let (fault, text) = refused(Crop::Began, 100, 100, 32);
        assert!(fault == Fault::WrongShape && text.contains("178x218") && text.contains("100x100"), "{text}");
        let (fault, text) = refused(Crop::None, 100, 99, 32);
        assert!(fault == Fault::WrongShape && text.contains("100x99"), "{text}");
        let (fault, text) = refused(Crop::Center, 31, 40, 256);
        assert!(fault == Fault::TooSmall && text.contains("31x31") && text.contains("32x32"), "{text}");
        assert_eq!(refused(Crop::Center, 7, 90, 16).0, Fault::TooSmall);
    }
}
