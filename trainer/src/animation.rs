//! Pictures that move: GIF, which everything shows but in 256 colours a frame, and WebP without loss.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::webp::WebPEncoder;
use image::{Delay, DynamicImage, ExtendedColorType, Frame, RgbImage};

/// Frames as a GIF that repeats for ever, each shown for so many milliseconds.
///
/// # Errors
/// If there is no frame or one cannot be encoded.
pub fn gif(frames: &[RgbImage], milliseconds: u32) -> Result<Vec<u8>> {
    ensure!(!frames.is_empty(), "an animation needs at least one frame");
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        encoder.set_repeat(Repeat::Infinite)?;
        for frame in frames {
            let rgba = DynamicImage::ImageRgb8(frame.clone()).into_rgba8();
            encoder.encode_frame(Frame::from_parts(rgba, 0, 0, Delay::from_numer_denom_ms(milliseconds, 1)))?;
        }
    }
    Ok(bytes)
}

/// The same as WebP without loss: still pictures, put together as its container format has it.
///
/// # Errors
/// If there is no frame, one is too large for the format, or cannot be encoded.
pub fn webp(frames: &[RgbImage], milliseconds: u32) -> Result<Vec<u8>> {
    let (width, height) = frames.first().context("an animation needs at least one frame")?.dimensions();
    ensure!(width.max(height) <= 16_383, "WebP holds at most 16383 x 16383 pixels, not {width} x {height}");
    let mut body = b"WEBP".to_vec();
    // Flags (an animation), and the size of the whole.
    let mut header = vec![0b10, 0, 0, 0];
    header.extend(three(width - 1));
    header.extend(three(height - 1));
    chunk(&mut body, *b"VP8X", &header);
    // Background, never seen; repeats: for ever.
    chunk(&mut body, *b"ANIM", &[0, 0, 0, 255, 0, 0]);
    for frame in frames {
        ensure!(frame.dimensions() == (width, height), "all frames of an animation are of one size");
        let mut content = [three(0), three(0), three(width - 1), three(height - 1), three(milliseconds)].concat();
        // Replaces what was shown before.
        content.push(0b10);
        chunk(&mut content, *b"VP8L", &still(frame)?);
        chunk(&mut body, *b"ANMF", &content);
    }
    let mut bytes = b"RIFF".to_vec();
    bytes.extend(u32::try_from(body.len()).context("more than WebP holds")?.to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// What is in the one chunk of a still picture without loss.
fn still(frame: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    WebPEncoder::new_lossless(&mut bytes).encode(
        frame.as_raw(),
        frame.width(),
        frame.height(),
        ExtendedColorType::Rgb8,
    )?;
    let bytes = bytes.into_inner();
    let mut at = 12;
    while let (Some(name), Some(length)) = (bytes.get(at..at + 4), bytes.get(at + 4..at + 8)) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if name == b"VP8L" {
            return Ok(bytes.get(at + 8..at + 8 + length).context("a WebP that ends early")?.to_vec());
        }
        at += 8 + length + length % 2;
    }
    anyhow::bail!("the WebP encoder gave no picture without loss")
}

fn three(value: u32) -> Vec<u8> {
    value.to_le_bytes()[..3].to_vec()
}

fn chunk(to: &mut Vec<u8>, name: [u8; 4], content: &[u8]) {
    to.extend(name);
    to.extend((content.len() as u32).to_le_bytes());
    to.extend(content);
    if content.len() % 2 == 1 {
        to.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::AnimationDecoder;
    use image::Rgb;

    fn frames() -> Vec<RgbImage> {
        (0..3).map(|n| RgbImage::from_fn(20, 11, |x, y| Rgb([x as u8 * 9, y as u8 * 20, n * 100]))).collect()
    }

    #[test]
    fn a_moving_webp_has_all_its_frames_to_the_bit_and_their_time() -> Result<()> {
        let bytes = webp(&frames(), 80)?;
        let decoder = image::codecs::webp::WebPDecoder::new(Cursor::new(bytes))?;
        let found = decoder.into_frames().collect_frames()?;
        assert_eq!(found.len(), 3);
        for (found, expected) in found.into_iter().zip(frames()) {
            assert_eq!(found.delay().numer_denom_ms().0, 80);
            assert_eq!(DynamicImage::ImageRgba8(found.into_buffer()).into_rgb8(), expected);
        }
        assert!(webp(&[], 80).is_err());
        Ok(())
    }

    #[test]
    fn a_moving_gif_has_all_its_frames() -> Result<()> {
        let bytes = gif(&frames(), 80)?;
        let found = image::codecs::gif::GifDecoder::new(Cursor::new(bytes))?.into_frames().collect_frames()?;
        assert_eq!((found.len(), found[0].delay().numer_denom_ms().0), (3, 80));
        Ok(())
    }
}
