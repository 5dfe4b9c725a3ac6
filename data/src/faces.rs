//! Made-up faces: cartoon portraits, each a pure function of (seed, index, size).
//!
//! Data for trying things out: no download, no licence, any number. They lie as CelebA's crops do, the eyes just above
//! the middle and the face over most of the frame, and they differ mostly in what a small network learns first: colours,
//! the shape of the hair, the shape of the face; then eyes, mouth, glasses, beards.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `person` | who it is: every trait, drawn from the numbers of (seed, index) |
//! | `palette` | the colours there are |
//! | `canvas` | shapes and colours on a square of 100 by 100 units |
//! | `backdrop`, `head`, `hair`, `features` | how each part is painted |
//!
//! A face must never depend on anything but its three numbers: no clock, no thread, no global generator, and no function
//! of the mathematics library whose last bit differs between systems.

mod backdrop;
mod canvas;
mod features;
mod hair;
mod head;
mod palette;
mod person;

use image::RgbImage;

use canvas::Canvas;
use person::Person;

/// The face with this index among those of `seed`, `size` by `size` pixels. Sizes outside 1 to 4096 are taken as the
/// nearest inside.
#[must_use]
pub fn face(seed: u64, index: u64, size: u32) -> RgbImage {
    let size = size.clamp(1, 4096);
    let person = Person::draw(seed, index);
    // Painted larger and reduced: edges are smooth, and features of a pixel or two keep their shape.
    let factor = if size < 32 { 4 } else { 2 };
    let mut canvas = Canvas::new(size, factor, person.pose());
    backdrop::paint(&mut canvas, &person);
    hair::paint_behind(&mut canvas, &person);
    head::paint_shoulders(&mut canvas, &person);
    head::paint_ears(&mut canvas, &person);
    head::paint(&mut canvas, &person);
    features::paint_beard(&mut canvas, &person);
    features::paint_nose(&mut canvas, &person);
    features::paint_mouth(&mut canvas, &person);
    features::paint_eyes(&mut canvas, &person);
    hair::paint_front(&mut canvas, &person);
    features::paint_brows(&mut canvas, &person);
    features::paint_glasses(&mut canvas, &person);
    canvas.reduced()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn a_face_is_a_function_of_its_seed_index_and_size() {
        let alone: Vec<_> = (0..40).map(|index| face(7, index, 32)).collect();
        let together: Vec<_> = (0..40u32).into_par_iter().rev().map(|index| face(7, index.into(), 32)).collect();
        assert!(alone.iter().eq(together.iter().rev()));
        assert_ne!(face(7, 3, 32), face(7, 4, 32));
        assert_ne!(face(7, 3, 32), face(8, 3, 32));
        assert_ne!(face(7, 3, 32), face(7, 3 + (1 << 40), 32));
    }

    #[test]
    fn every_size_shows_the_same_person() {
        for size in [16, 32, 128, 512] {
            let (small, large) = (face(1, 5, 16), face(1, 5, size));
            let step = size / 16;
            let mut apart = 0u32;
            for (x, y, pixel) in small.enumerate_pixels() {
                let other = large.get_pixel(x * step + step / 2, y * step + step / 2);
                apart += pixel.0.iter().zip(other.0).map(|(a, b)| u32::from(a.abs_diff(b))).sum::<u32>();
            }
            assert!(apart / (16 * 16 * 3) < 24, "{size} px: {}", apart / (16 * 16 * 3));
        }
    }

    #[test]
    fn a_thousand_faces_are_a_thousand_faces() {
        let mut faces: Vec<_> = (0..1000u64).into_par_iter().map(|index| face(0, index, 16).into_raw()).collect();
        faces.sort_unstable();
        faces.dedup();
        assert_eq!(faces.len(), 1000);
    }
}
