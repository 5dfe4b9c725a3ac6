//! The loader against the trainer's own networks.

use super::*;
use crate::digest::bytes;
use crate::feed::uniform;
use crate::state::State;
use began::RunConfig;
use began::random::{Purpose, Stream};
use std::process::Command;
use tch::{Device, Kind};

/// Reads z, writes G(z) and D(G(z)), as raw f32.
const SCRIPT: &str = "
import sys, numpy, torch
sys.path.insert(0, sys.argv[1])
import began
g, d = began.load(sys.argv[1])
z = torch.from_numpy(numpy.fromfile(sys.argv[1] + '/z', dtype=numpy.float32)).view(-1, g.latent)
with torch.no_grad():
    images = g(z)
    torch.cat([images, d(images)]).numpy().tofile(sys.argv[1] + '/out')
";

#[test]
fn pytorch_draws_the_same_images_from_an_export() -> Result<()> {
    let python = std::env::var("BEGAN_PYTHON").unwrap_or_else(|_| "python3".into());
    let torch = Command::new(&python).args(["-c", "import torch, numpy"]).output();
    if !torch.is_ok_and(|out| out.status.success()) {
        println!("skipped: {python} has no torch and numpy; BEGAN_PYTHON names another interpreter");
        return Ok(());
    }
    for carry in [0.0, 0.3] {
        let folder = tempfile::tempdir()?;
        let mut config = RunConfig::default();
        config.model = began::config::Model { size: 32, filters: 5, latent: 7 };
        let state = State::initial(&config, Device::Cpu)?;
        let noise = uniform(Stream::new(3, Purpose::Samples, 0, 0), 4, 7, Kind::Float, Device::Cpu)?;
        save(&folder.path().join("weights.safetensors"), &state.weights()?, &config.model)?;
        std::fs::write(folder.path().join("began.py"), LOADER)?;
        let about = json!({ "model": config.model, "carry": carry });
        std::fs::write(folder.path().join("model.json"), about.to_string())?;
        std::fs::write(folder.path().join("z"), bytes(&noise)?)?;
        let out = Command::new(&python).args(["-c", SCRIPT]).arg(folder.path()).output()?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let found = std::fs::read(folder.path().join("out"))?;
        let found = Tensor::f_from_data_size(&found, &[8, 3, 32, 32], Kind::Float)?;
        let expected = tch::no_grad(|| -> Result<Tensor> {
            let images = state.generator.forward(&noise, carry)?;
            Ok(Tensor::f_cat(&[&images, &state.discriminator.forward(&images, carry)?], 0)?)
        })?;
        let worst = f64::try_from(found.f_sub(&expected)?.f_abs()?.f_max()?)?;
        assert!(worst < 1e-6, "carry {carry}: {worst}");
    }
    Ok(())
}
