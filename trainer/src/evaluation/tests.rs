//! What scores must say of sets that are worse in a known way.

use super::testing::faces;
use super::*;
use tch::Kind;

/// Scores of a set against faces of another seed, all of 32 pixels.
fn scores(images: &Tensor) -> Result<Scores> {
    let features = Features::built_in(Device::Cpu)?;
    let judge = Judge::new(faces(400, 1, 32)?, &features, 1, Device::Cpu, |_| {})?;
    judge.judge(images, |_| {})
}

#[test]
fn noise_blur_few_modes_and_the_mean_image_are_each_worse_than_other_faces_in_the_way_they_should_be() -> Result<()> {
    let others = faces(400, 2, 32)?;
    let float = others.f_to_kind(Kind::Float)?;
    let bytes = |x: Tensor| -> Result<Tensor> { Ok(x.f_round()?.f_clamp(0, 255)?.f_to_kind(Kind::Uint8)?) };
    let mean = bytes(float.f_mean_dim([0i64].as_slice(), true, Kind::Float)?.f_expand([400, 3, 32, 32], false)?)?;
    let blurred = bytes(float.f_avg_pool2d([5, 5], [1, 1], [2, 2], false, false, None)?)?;
    let stream = draw::stream(9, draw::Use::Kernels, 9);
    let noisy = bytes(float.f_add(&draw::normal(&stream, &[400, 3, 32, 32], Device::Cpu)?.f_mul_scalar(30.0)?)?)?;
    let modes = others.f_narrow(0, 0, 16)?.f_repeat([25, 1, 1, 1])?;

    let good = scores(&others)?;
    assert!(good.neighbourhood.precision > 0.7 && good.neighbourhood.recall > 0.7, "{good:?}");
    assert!((good.similarity.judged - good.similarity.real).abs() < 0.05, "{good:?}");
    for (name, worse) in [("noise", &noisy), ("blur", &blurred), ("modes", &modes), ("mean", &mean)] {
        let worse = scores(worse)?;
        assert!(worse.sliced_wasserstein.mean > 1.5 * good.sliced_wasserstein.mean, "{name}: {worse:?} {good:?}");
        assert!(
            worse.kernel_distance.all > good.kernel_distance.all + 3.0 * good.kernel_distance.deviation,
            "{name}: {worse:?}"
        );
        assert!(worse.frechet_distance > good.frechet_distance, "{name}: {worse:?}");
        assert!(worse.neighbourhood.coverage < 0.7 * good.neighbourhood.coverage, "{name}: {worse:?}");
    }
    let modes = scores(&modes)?;
    assert!(modes.neighbourhood.precision > 0.6 && modes.neighbourhood.recall < 0.1, "{modes:?}");
    assert!(modes.similarity.judged > good.similarity.judged + 0.03, "{modes:?}");
    assert!(scores(&mean)?.similarity.judged > 0.999);
    Ok(())
}

#[test]
fn the_sliced_wasserstein_distance_is_stable_to_two_percent_over_seeds() -> Result<()> {
    let real = faces(1000, 1, 32)?;
    let blurred = faces(1000, 2, 32)?.f_to_kind(Kind::Float)?;
    let blurred = blurred.f_avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)?.f_to_kind(Kind::Uint8)?;
    let found: Vec<f64> = (1..=4)
        .map(|seed| {
            let levels = patches::sliced_wasserstein(&real, &blurred, seed, Device::Cpu, &CalledOff::new())?;
            Ok(levels.iter().map(|level| level.distance).sum::<f64>() / levels.len() as f64)
        })
        .collect::<Result<_>>()?;
    let mean = found.iter().sum::<f64>() / 4.0;
    assert!(found.iter().all(|value| (value / mean - 1.0).abs() < 0.02), "{found:?}");
    Ok(())
}

/// What public implementations say of features and images that are kept with it (`make oracles`).
mod oracles {
    use super::*;
    use crate::evaluation::kernel_distance::discrepancy;
    use crate::evaluation::similarity::{Window, ms_ssim};
    use anyhow::Context;
    use safetensors::{Dtype, SafeTensors};

    const GIVEN: &[u8] = include_bytes!("../../../tests/oracles/oracles.safetensors");
    const SAID: &str = include_str!("../../../tests/oracles/expected.json");

    fn given(name: &str) -> Result<Tensor> {
        let all = SafeTensors::deserialize(GIVEN)?;
        let found = all.tensor(name)?;
        let shape: Vec<i64> = found.shape().iter().map(|&n| n as i64).collect();
        let kind = if found.dtype() == Dtype::U8 { Kind::Uint8 } else { Kind::Float };
        Ok(Tensor::f_from_data_size(found.data(), &shape, kind)?)
    }

    fn said() -> Result<serde_json::Value> {
        Ok(serde_json::from_str(SAID)?)
    }

    #[test]
    fn fid_kid_precision_recall_density_and_coverage_are_what_three_public_implementations_say() -> Result<()> {
        let said = said()?;
        for set in ["tall", "flat"] {
            let features =
                |side: &str| -> Result<Tensor> { Ok(given(&format!("{set}/{side}"))?.f_to_kind(Kind::Double)?) };
            let (real, fake) = (features("real")?, features("fake")?);
            let near = neighbourhood(&real, &fake, NEIGHBOUR)?;
            let ours = [
                ("fid", frechet::frechet_distance(&real, &fake)?),
                ("kid", discrepancy(&real, &fake)?),
                ("precision", near.precision),
                ("recall", near.recall),
                ("density", near.density),
                ("coverage", near.coverage),
            ];
            let mut compared = 0;
            for oracle in ["torch-fidelity", "clean-fid", "prdc"] {
                for (score, ours) in ours {
                    if let Some(theirs) = said[set][oracle][score].as_f64() {
                        assert!((ours / theirs - 1.0).abs() < 1e-6, "{set} {score}: {ours}, {oracle} says {theirs}");
                        compared += 1;
                    }
                }
            }
            assert_eq!(compared, 10);
        }
        Ok(())
    }

    #[test]
    fn ms_ssim_is_what_pytorch_msssim_says() -> Result<()> {
        let said = said()?;
        for (set, key, side) in
            [("large", "pytorch-msssim", 7), ("large", "window 5", 5), ("small", "pytorch-msssim", 7)]
        {
            let images =
                |side: &str| -> Result<Tensor> { Ok(given(&format!("{set}/{side}"))?.f_to_kind(Kind::Float)?) };
            let levels = said[set]["levels"].as_u64().context("levels")? as usize;
            let found = Vec::<f64>::try_from(
                ms_ssim(&images("a")?, &images("b")?, Window { side, levels })?.to_kind(Kind::Double),
            )?;
            let theirs: Vec<f64> = serde_json::from_value(said[set][key].clone())?;
            assert_eq!(found.len(), theirs.len());
            for (ours, theirs) in found.iter().zip(&theirs) {
                assert!((ours - theirs).abs() < 1e-5, "{set} {key}: {ours}, {theirs}");
            }
        }
        Ok(())
    }

    #[test]
    fn efficientnet_gives_the_features_that_pytorch_gives() -> Result<()> {
        let Some(weights) = std::env::var_os("BEGAN_EFFICIENTNET") else {
            println!("skipped: BEGAN_EFFICIENTNET names no file that `trainer features` wrote");
            return Ok(());
        };
        let features = Features::from_file(std::path::Path::new(&weights), None, None, Device::Cpu)?;
        let found = features.of(&given("small/a")?.f_narrow(0, 0, 2)?, |_| {})?;
        let theirs = given("efficientnet-lite0")?.f_to_kind(Kind::Double)?;
        let worst = f64::try_from(found.f_sub(&theirs)?.f_abs()?.f_max()?)?;
        assert!(worst < 1e-4, "{worst}");
        Ok(())
    }
}
