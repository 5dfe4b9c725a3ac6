//! The generator's images, a few at a time, for whatever is made of them: pictures, scores, a search.
//!
//! What it hands over is finite: weights that are broken are an error here and never a picture.

use anyhow::{Result, ensure};
use began::random::Stream;
use tch::Tensor;

use crate::feed::uniform;
use crate::network::Generator;

/// Rows that go through a network at a time.
pub const CHUNK: i64 = 16;

/// `count` rows of the noise that `stream` names, as this generator takes it.
///
/// # Errors
/// If memory is short.
pub fn noise(generator: &Generator, stream: Stream, count: i64) -> Result<Tensor> {
    let parameters = &generator.parameters;
    uniform(stream, count, parameters.leaves[0].size()[1], parameters.kind(), parameters.device())
}

/// Images for rows of noise: `each` is given `[B,3,size,size]` after `[B,3,size,size]`.
///
/// # Errors
/// If the generator gives numbers that are not finite, memory is short, or `each` fails.
pub fn draw(
    generator: &Generator,
    noise: &Tensor,
    carry: f64,
    mut each: impl FnMut(Tensor) -> Result<()>,
) -> Result<()> {
    in_chunks(noise, |part| {
        let images = generator.forward(part, carry)?;
        ensure!(
            all_finite(&images)?,
            "the generator gives numbers that are not finite: its weights are broken (NaN or infinite)"
        );
        each(images)
    })
}

/// Gives `each` a few rows after the other; no gradients are kept.
///
/// # Errors
/// If `each` fails.
pub fn in_chunks(rows: &Tensor, mut each: impl FnMut(&Tensor) -> Result<()>) -> Result<()> {
    tch::no_grad(|| {
        let count = rows.size()[0];
        for start in (0..count).step_by(CHUNK as usize) {
            each(&rows.f_narrow(0, start, CHUNK.min(count - start))?)?;
        }
        Ok(())
    })
}

/// Whether no number is infinite or none.
///
/// # Errors
/// If the device fails.
pub fn all_finite(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}
