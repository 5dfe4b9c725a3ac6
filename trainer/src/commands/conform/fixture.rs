//! A fixture: a safetensors file with one or more steps of a reference implementation, and its settings in the metadata.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use began::config::{Model, Precision, RunConfig};
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use crate::arithmetic::Arithmetic;
use crate::flat::Layout;
use crate::state::State;

/// A fixture, open.
pub struct Fixture<'a> {
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl<'a> Fixture<'a> {
    /// Reads what is where; tensors are looked at when they are asked for.
    ///
    /// # Errors
    /// If it is no safetensors file.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes).context("not a safetensors file")?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        Ok(Self { tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    fn setting(&self, name: &str) -> Result<f64> {
        let text = self.metadata.get(name).with_context(|| format!("the fixture's metadata has no {name:?}"))?;
        text.parse().with_context(|| format!("the fixture's metadata says {name} = {text:?}, which is no number"))
    }

    fn whole(&self, name: &str) -> Result<u32> {
        let value = self.setting(name)?;
        ensure!((1.0..=1e6).contains(&value) && value.fract() == 0.0, "the fixture's metadata says {name} = {value}");
        Ok(value as u32)
    }

    /// A tensor by its name, in this kind, on the host.
    ///
    /// # Errors
    /// If it is missing, misshapen or of no type that a fixture holds.
    pub fn get(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor> {
        let view = self.tensors.tensor(name).map_err(|_| anyhow::anyhow!("the fixture has no tensor {name:?}"))?;
        let found: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        ensure!(found == shape, "{name}: the fixture has shape {found:?}, this network {shape:?}");
        let stored = match view.dtype() {
            Dtype::F64 => Kind::Double,
            Dtype::F32 => Kind::Float,
            other => bail!("{name} is of type {other:?}; a fixture holds F64 or F32"),
        };
        Ok(Tensor::f_from_data_size(view.data(), &found, stored)?.f_to_kind(kind)?)
    }

    /// The configuration of the run that it is a part of, in the precision that it is stored in.
    ///
    /// # Errors
    /// If a setting is missing or makes no run.
    pub fn configuration(&self) -> Result<RunConfig> {
        let model = Model { size: self.whole("size")?, filters: self.whole("filters")?, latent: self.whole("latent")? };
        let mut config = RunConfig { model, ..RunConfig::default() };
        config.run.batch = self.whole("batch")?;
        config.run.steps = self.whole("steps")?.into();
        config.run.lanes = 1;
        config.objective.gamma = self.setting("gamma")?;
        config.objective.lambda_k = self.setting("lambda_k")?;
        if self.metadata.contains_key("norm") {
            config.objective.norm = self.whole("norm")?;
        }
        config.optimizer.rate = self.setting("lr")?;
        config.optimizer.beta1 = self.setting("beta1")?;
        config.optimizer.beta2 = self.setting("beta2")?;
        config.optimizer.epsilon = self.setting("eps")?;
        config.optimizer.rate_floor = 0.0;
        config.optimizer.stall_window = 0;
        config.run.precision = match self.tensors.tensor("step0/x").map(|view| view.dtype()) {
            Ok(Dtype::F32) => Precision::F32,
            _ => Precision::F64,
        };
        config.validate().context("the fixture's settings")?;
        Ok(config)
    }

    /// The state before its first step.
    ///
    /// # Errors
    /// If a weight is missing or misshapen.
    pub fn state(&self, model: &Model, arithmetic: Arithmetic, device: Device) -> Result<State> {
        let load = |layers: &[began::network::Layer]| -> Result<Tensor> {
            let layout = Layout::new(layers);
            let flat = Tensor::f_zeros([layout.len()], (arithmetic.master, device))?;
            for (slot, view) in layout.slots().iter().zip(layout.views(&flat)?) {
                let name = format!("step0/weights/{}", slot.parameter.name);
                view.shallow_clone()
                    .f_copy_(&self.get(&name, &view.size(), arithmetic.master)?.f_to_device(device)?)?;
            }
            Ok(flat)
        };
        let d = load(&began::network::discriminator(model))?;
        let g = load(&began::network::generator(model))?;
        State::from_flat(model, d, g, arithmetic)
    }
}
