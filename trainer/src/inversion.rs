//! Inversion: the noise from which the generator makes an image most like a given one.
//!
//! Adam on the noise alone, the weights stay as they are. Several starts for each image at once: of many random points the
//! nearest; after a quarter of the way only the best of them go on. Noise stays inside the cube it is drawn from.

use anyhow::{Result, ensure};
use began::random::{Purpose, Stream};
use tch::{Kind, Tensor};

use crate::drawing::{self, CHUNK};
use crate::network::Generator;

/// Random points that starts are chosen from, and that give the error to compare with.
const TRIED: i64 = 256;
/// The part of all steps that every start takes, and the part of starts that go on.
const TOGETHER: f64 = 0.25;
const GO_ON: i64 = 4;

/// How the search is done.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Starts for each image.
    pub starts: i64,
    /// Steps of Adam.
    pub steps: i64,
    /// Adam's rate at first; it falls to a hundredth of it along a cosine.
    pub rate: f64,
    /// Seed of the starts.
    pub seed: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Inversion {
    /// The noise, `[N,h]`.
    pub latents: Tensor,
    /// The generator's images from it, `[N,3,size,size]` in [-1,1].
    pub images: Tensor,
    /// The mean distance of each to its image, per pixel and channel, of a range of 2.
    pub errors: Vec<f64>,
    /// The same for random noise, in the mean.
    pub random: Vec<f64>,
}

/// Adam's moments.
struct Moments {
    first: Tensor,
    second: Tensor,
}

/// Looks for the noise of `[N,3,size,size]` in [-1,1]. `progress` hears steps of all.
///
/// # Errors
/// If sizes do not fit, or the generator gives numbers that are not finite.
pub fn invert(
    generator: &Generator,
    carry: f64,
    images: &Tensor,
    search: Search,
    mut progress: impl FnMut(i64, i64),
) -> Result<Inversion> {
    let count = images.size()[0];
    ensure!(count > 0 && search.starts > 0 && search.steps > 0, "a search needs an image, a start and a step");
    let starts = search.starts.min(TRIED);
    let (latents, random) = nearest(generator, carry, images, starts, search.seed)?;
    let (early, going_on) = ((search.steps as f64 * TOGETHER).ceil() as i64, (starts / GO_ON).max(1));
    let total = count * (starts * early + going_on * (search.steps - early));
    let mut done = 0;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for index in 0..count {
        let image = images.f_narrow(0, index, 1)?;
        let mut rows = latents.f_select(0, index)?.f_contiguous()?;
        let mut moments = Moments { first: rows.f_zeros_like()?, second: rows.f_zeros_like()? };
        for step in 0..search.steps {
            if step == early {
                let best = distances(&through(generator, carry, &rows)?, &image)?.f_topk(going_on, 0, false, true)?.1;
                let chosen = |tensor: &Tensor| tensor.f_index_select(0, &best);
                moments = Moments { first: chosen(&moments.first)?, second: chosen(&moments.second)? };
                rows = chosen(&rows)?;
            }
            rows = step_of(generator, carry, &rows, &image, &mut moments, step, search)?;
            done += rows.size()[0];
            progress(done, total);
        }
        let (error, best) = distances(&through(generator, carry, &rows)?, &image)?.f_min_dim(0, false)?;
        errors.push(f64::try_from(error)?);
        found.push(rows.f_select(0, best.f_int64_value(&[])?)?);
    }
    let latents = Tensor::f_stack(&found, 0)?;
    Ok(Inversion { images: through(generator, carry, &latents)?, latents, errors, random })
}

/// For each image the random points whose images are nearest, `[N,starts,h]`, and the mean error of all points.
fn nearest(generator: &Generator, carry: f64, images: &Tensor, starts: i64, seed: u64) -> Result<(Tensor, Vec<f64>)> {
    let tried = drawing::noise(generator, Stream::new(seed, Purpose::Inversion, 0, 0), TRIED)?;
    let drawn = through(generator, carry, &tried)?;
    ensure!(
        drawn.size()[1..] == images.size()[1..],
        "the generator draws {:?}, the images are {:?}",
        &drawn.size()[1..],
        &images.size()[1..]
    );
    let (mut chosen, mut random) = (Vec::new(), Vec::new());
    for index in 0..images.size()[0] {
        let apart = distances(&drawn, &images.f_narrow(0, index, 1)?)?;
        random.push(f64::try_from(apart.f_mean(Kind::Double)?)?);
        chosen.push(tried.f_index_select(0, &apart.f_topk(starts, 0, false, true)?.1)?);
    }
    Ok((Tensor::f_stack(&chosen, 0)?, random))
}

/// One step of Adam for rows that each look for the same image.
fn step_of(
    generator: &Generator,
    carry: f64,
    rows: &Tensor,
    image: &Tensor,
    moments: &mut Moments,
    step: i64,
    search: Search,
) -> Result<Tensor> {
    let (beta1, beta2) = (0.9f64, 0.999f64);
    let mut gradients = Vec::new();
    for start in (0..rows.size()[0]).step_by(CHUNK as usize) {
        let leaf = rows.f_narrow(0, start, CHUNK.min(rows.size()[0] - start))?.f_detach()?.f_set_requires_grad(true);
        let leaf = leaf?;
        // Each row's own mean, summed: no row feels the others.
        let error = generator.forward(&leaf, carry)?.f_sub(image)?.f_square()?;
        let loss = error.f_mean_dim([1i64, 2, 3].as_slice(), false, error.kind())?.f_sum(error.kind())?;
        gradients.extend(torch_ext::grad(&loss, None, &[&leaf])?);
    }
    let gradient = Tensor::f_cat(&gradients, 0)?;
    moments.first = moments.first.f_lerp(&gradient, 1.0 - beta1)?;
    moments.second = moments.second.f_lerp(&gradient.f_square()?, 1.0 - beta2)?;
    let count = (step + 1) as i32;
    let (first, second) = (1.0 - beta1.powi(count), 1.0 - beta2.powi(count));
    let part = step as f64 / search.steps as f64;
    let rate = search.rate * (0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * part).cos()));
    let direction = moments.first.f_div(&moments.second.f_div_scalar(second)?.f_sqrt()?.f_add_scalar(1e-8)?)?;
    Ok(rows.f_sub(&direction.f_mul_scalar(rate / first)?)?.f_clamp(-1.0, 1.0)?)
}

/// Images for rows of noise.
fn through(generator: &Generator, carry: f64, rows: &Tensor) -> Result<Tensor> {
    let mut parts = Vec::new();
    drawing::draw(generator, rows, carry, |images| {
        parts.push(images);
        Ok(())
    })?;
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// The mean absolute difference of each of `[B,3,H,W]` to one image.
fn distances(images: &Tensor, image: &Tensor) -> Result<Tensor> {
    Ok(images.f_sub(image)?.f_abs()?.f_mean_dim([1i64, 2, 3].as_slice(), false, images.kind())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::uniform;
    use began::RunConfig;
    use tch::Device;

    #[test]
    fn images_that_the_generator_made_are_found_again_and_the_same_twice() -> Result<()> {
        tch::set_num_threads(1);
        let mut config = RunConfig::default();
        config.model = began::config::Model { size: 16, filters: 6, latent: 8 };
        let state = crate::state::State::initial(&config, Device::Cpu)?;
        // Untrained, its images hardly differ; larger weights make it a map worth inverting.
        let _ = tch::no_grad(|| state.generator.parameters.flat.shallow_clone().f_mul_scalar_(2.0))?;
        let noise = uniform(Stream::new(77, Purpose::Samples, 0, 0), 3, 8, Kind::Float, Device::Cpu)?;
        let images = tch::no_grad(|| state.generator.forward(&noise, 0.0))?;
        let search = Search { starts: 8, steps: 200, rate: 0.1, seed: 1 };
        let found = invert(&state.generator, 0.0, &images, search, |_, _| {})?;
        for (error, random) in found.errors.iter().zip(&found.random) {
            assert!(*error < 0.1 * random, "{found:?}");
        }
        let again = invert(&state.generator, 0.0, &images, search, |_, _| {})?;
        assert_eq!(found.latents, again.latents);
        let text = invert(
            &state.generator,
            0.0,
            &Tensor::zeros([1, 3, 32, 32], (Kind::Float, Device::Cpu)),
            search,
            |_, _| {},
        );
        assert!(text.is_err_and(|error| error.to_string().contains("[3, 32, 32]")));
        Ok(())
    }
}
