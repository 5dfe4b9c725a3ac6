//! What a trainer holds between steps: both networks, both optimizers, the average of G's weights where one is kept, and how many
//! steps are behind them.

use anyhow::Result;
use began::config::{Model, RunConfig};
use began::{Step, network};
use tch::Device;

use crate::arithmetic::Arithmetic;
use crate::average::{self, Average};
use crate::flat::Layout;
use crate::network::{Discriminator, Generator};
use crate::optimizer::Adam;
use crate::reduce::Gradient;

/// The whole state of training but for the equilibrium, which is the coordinator's.
#[derive(Debug)]
pub struct State {
    /// Committed steps.
    pub step: Step,
    /// `D`.
    pub discriminator: Discriminator,
    /// `G`.
    pub generator: Generator,
    /// Adam over `D`.
    pub discriminator_adam: Adam,
    /// Adam over `G`.
    pub generator_adam: Adam,
    /// The average of `G`'s weights, where the run keeps one.
    pub average: Option<Average>,
    arithmetic: Arithmetic,
}

impl State {
    /// The state before the first step, a function of the model and the seed.
    ///
    /// # Errors
    /// If memory is short.
    pub fn initial(config: &RunConfig, device: Device) -> Result<Self> {
        Self::initial_with(config, Arithmetic::new(config.run.precision, device)?, device)
    }

    /// As [`State::initial`], computed in ways of the caller's choice.
    ///
    /// # Errors
    /// If memory is short.
    pub fn initial_with(config: &RunConfig, arithmetic: Arithmetic, device: Device) -> Result<Self> {
        let (model, seed) = (&config.model, config.run.seed);
        let kind = arithmetic.master;
        let d_layers = network::discriminator(model);
        let g_first = 2 * d_layers.len() as u64;
        let d = Layout::new(&d_layers).initial(seed, 0, kind, device)?;
        let g = Layout::new(&network::generator(model)).initial(seed, g_first, kind, device)?;
        let mut state = Self::from_flat(model, d, g, arithmetic)?;
        if config.optimizer.average > 0.0 {
            state.average = Some(Average::of(&state.generator.parameters.flat)?);
        }
        Ok(state)
    }

    /// A state at step 0 over given flat parameters, without an average.
    ///
    /// # Errors
    /// If they are too short for the model.
    pub fn from_flat(
        model: &Model,
        discriminator: tch::Tensor,
        generator: tch::Tensor,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        Ok(Self {
            step: Step(0),
            discriminator_adam: Adam::new(&discriminator)?,
            generator_adam: Adam::new(&generator)?,
            discriminator: Discriminator::new(model, discriminator, arithmetic)?,
            generator: Generator::new(model, generator, arithmetic)?,
            average: None,
            arithmetic,
        })
    }

    /// Takes one step with the averaged gradients. Both networks move, or neither is seen to have: nothing reads the state
    /// between the two updates, and `step` moves last.
    ///
    /// # Errors
    /// If a gradient does not fit.
    pub fn commit(&mut self, d: &Gradient, g: &Gradient, rate: f64, config: &RunConfig) -> Result<()> {
        let count = self.step.0 + 1;
        let d_weights = &self.discriminator.parameters;
        let g_weights = &self.generator.parameters;
        let d = d.0.f_narrow(0, 0, d_weights.layout.len())?;
        let g = g.0.f_narrow(0, 0, g_weights.layout.len())?;
        self.discriminator_adam.update(&d_weights.flat, &d, count, rate, &config.optimizer)?;
        self.generator_adam.update(&g_weights.flat, &g, count, rate, &config.optimizer)?;
        if let Some(average) = &self.average {
            average.follow(&g_weights.flat, count, config.optimizer.average)?;
        }
        self.refresh()?;
        self.step = self.step.next();
        Ok(())
    }

    /// Brings what is derived from the master weights up to date, after they were written from outside.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn refresh(&self) -> Result<()> {
        self.discriminator.parameters.refresh()?;
        self.generator.parameters.refresh()
    }

    /// A copy that the next step does not touch.
    ///
    /// # Errors
    /// If memory is short.
    pub fn snapshot(&self, model: &Model) -> Result<Self> {
        let copied = |tensor: &tch::Tensor| -> Result<tch::Tensor> { Ok(tch::no_grad(|| tensor.f_detach())?.copy()) };
        let mut copy = Self::from_flat(
            model,
            copied(&self.discriminator.parameters.flat)?,
            copied(&self.generator.parameters.flat)?,
            self.arithmetic,
        )?;
        for (to, from) in
            [(&mut copy.discriminator_adam, &self.discriminator_adam), (&mut copy.generator_adam, &self.generator_adam)]
        {
            (to.m, to.v) = (copied(&from.m)?, copied(&from.v)?);
        }
        copy.average = self.average.as_ref().map(|average| Average::of(&average.flat)).transpose()?;
        copy.step = self.step;
        Ok(copy)
    }

    /// All of it as flat tensors: parameters and moments of D, then of G, then the average.
    #[must_use]
    pub fn flat(&self) -> Vec<tch::Tensor> {
        let networks = [
            (&self.discriminator.parameters, &self.discriminator_adam),
            (&self.generator.parameters, &self.generator_adam),
        ];
        let all = networks.into_iter().flat_map(|(parameters, adam)| [&parameters.flat, &adam.m, &adam.v]);
        all.chain(self.average.iter().map(|average| &average.flat))
            .map(|tensor| tch::no_grad(|| tensor.detach()))
            .collect()
    }

    /// Every tensor of the state by name: parameters, Adam's moments with `.m` and `.v` behind, averages with `.average`.
    ///
    /// # Errors
    /// If a flat tensor is too short for its layout.
    pub fn named(&self) -> Result<Vec<(String, tch::Tensor)>> {
        let mut named = Vec::new();
        for (parameters, adam) in [
            (&self.discriminator.parameters, &self.discriminator_adam),
            (&self.generator.parameters, &self.generator_adam),
        ] {
            for (suffix, flat) in [("", &parameters.flat), (".m", &adam.m), (".v", &adam.v)] {
                for (slot, view) in parameters.layout.slots().iter().zip(parameters.layout.views(flat)?) {
                    named.push((format!("{}{suffix}", slot.parameter.name), view));
                }
            }
        }
        for (name, view) in self.averaged()? {
            named.push((format!("{name}{}", average::SUFFIX), view));
        }
        Ok(named)
    }

    /// G with its averaged weights, over their memory; nothing where none are kept.
    ///
    /// # Errors
    /// If the model is another.
    pub fn averaged_generator(&self, model: &Model) -> Result<Option<Generator>> {
        let of = |average: &Average| Generator::new(model, average.flat.shallow_clone(), self.arithmetic);
        self.average.as_ref().map(of).transpose()
    }

    /// The live weights of both networks, by name.
    ///
    /// # Errors
    /// If a flat tensor is too short for its layout.
    pub fn weights(&self) -> Result<Vec<(String, tch::Tensor)>> {
        let both = [&self.discriminator.parameters, &self.generator.parameters];
        let named = both.map(|parameters| by_name(&parameters.layout, &parameters.flat));
        Ok(named.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The averages of G's weights, by G's own names; nothing where none are kept.
    ///
    /// # Errors
    /// If the flat tensor is too short for its layout.
    pub fn averaged(&self) -> Result<Vec<(String, tch::Tensor)>> {
        let named = self.average.as_ref().map(|average| by_name(&self.generator.parameters.layout, &average.flat));
        Ok(named.transpose()?.unwrap_or_default())
    }
}

/// Name and value of each parameter of a network whose flat tensor, or one laid out like it, this is.
///
/// # Errors
/// If it is too short.
pub fn by_name(layout: &Layout, flat: &tch::Tensor) -> Result<Vec<(String, tch::Tensor)>> {
    let names = layout.slots().iter().map(|slot| slot.parameter.name.clone());
    Ok(names.zip(layout.views(flat)?).collect())
}
