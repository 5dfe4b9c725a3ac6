//! The trainer's own steps over a fixture: its modules, flat buffers, combination of gradients, Adam and equilibrium, as in training.
//! Several steps in a row start from step 0's weights; nothing is reset in between.

use std::time::Duration;

use anyhow::Result;
use began::config::RunConfig;
use began::equilibrium::{Equilibrium, Stall, StepRecord};
use began::tree::Fold;
use began::{Step, network};
use tch::{Device, Kind, Tensor};

use super::fixture::Fixture;
use crate::arithmetic::Arithmetic;
use crate::flat::Layout;
use crate::images::Measure;
use crate::reduce::{Gradient, Place, Reducer, add};
use crate::state::{State, by_name};
use crate::step::{GradientBuffer, LanePass, Settings, combine};

/// How long the device may take for a step.
const DEVICE: Duration = Duration::from_secs(600);

/// A run over a fixture, in one arithmetic on one device.
pub struct Course<'f> {
    fixture: &'f Fixture<'f>,
    config: &'f RunConfig,
    device: Device,
    /// As it is before the step to come.
    pub state: State,
    reducer: Reducer,
    now: Option<Equilibrium>,
    d_buffers: [GradientBuffer; 2],
    g_buffer: GradientBuffer,
}

/// What a step computed, before any weight moved.
pub struct Computed {
    /// `[B,3,size,size]`.
    pub x: Tensor,
    /// `[B,h]`.
    pub z: Tensor,
    /// What it was computed with.
    pub settings: Settings,
    /// `D(x)`.
    pub recon_real: Tensor,
    /// `G(z)`.
    pub fake: Tensor,
    /// Of L_D over D.
    pub d_gradient: Gradient,
    /// Of L_G over G.
    pub g_gradient: Gradient,
    /// What k and rate it was taken with.
    pub now: Equilibrium,
    /// k and rate of the step after it.
    pub next: Equilibrium,
    /// The step's record.
    pub record: StepRecord,
}

impl<'f> Course<'f> {
    /// From the fixture's first weights.
    ///
    /// # Errors
    /// If a weight is missing or misshapen.
    pub fn new(
        fixture: &'f Fixture<'f>,
        config: &'f RunConfig,
        arithmetic: Arithmetic,
        device: Device,
    ) -> Result<Self> {
        let state = fixture.state(&config.model, arithmetic, device)?;
        let (d, g) = (&state.discriminator.parameters, &state.generator.parameters);
        let d_buffers = [GradientBuffer::new(d, 0)?, GradientBuffer::new(d, 0)?];
        let g_buffer = GradientBuffer::new(g, 0)?;
        let reducer = Reducer::new(Place { rank: 0, world: 1, lanes: 1 }, config.run.reduce, None)?;
        Ok(Self { fixture, config, device, state, reducer, now: None, d_buffers, g_buffer })
    }

    /// The step to come, as far as the gradients.
    ///
    /// # Errors
    /// If the fixture lacks something, or the device fails.
    pub fn compute(&mut self, step: u64) -> Result<Computed> {
        let (state, kind, device) = (&self.state, self.state.discriminator.parameters.kind(), self.device);
        let at = |name: &str| format!("step{step}/{name}");
        let scalars = Vec::<f64>::try_from(&self.fixture.get(&at("scalars"), &[6], Kind::Double)?)?;
        let now = *self.now.get_or_insert(Equilibrium {
            step: Step(0),
            k: scalars[2],
            rate: self.config.optimizer.rate,
            stall: Stall::default(),
        });
        let (batch, size) = (i64::from(self.config.run.batch), i64::from(self.config.model.size));
        let x = self.fixture.get(&at("x"), &[batch, 3, size, size], kind)?;
        let x = torch_ext::channels_last(&x.f_to_device(device)?)?;
        let z = self.fixture.get(&at("z"), &[batch, self.config.model.latent.into()], kind)?.f_to_device(device)?;
        let settings = Settings { norm: self.config.objective.norm, carry: scalars[5], measure: Measure::NOTHING };
        let recon_real = tch::no_grad(|| state.discriminator.forward(&x, settings.carry))?;

        let [g_real, g_fake] = &self.d_buffers;
        let pass = LanePass::run(state, &x, &z, settings, g_real, g_fake)?;
        let fake = pass.image();
        let (losses, _) = pass.losses(0)?.wait(DEVICE)?;
        combine(g_real, g_fake, now.k)?;
        pass.generator_gradient(state, &self.g_buffer)?;
        let mut sum = |buffer: &GradientBuffer| -> Result<Gradient> {
            let mut fold = Fold::new(1);
            fold.push(0..1, buffer.flat.f_detach_copy()?, add)?;
            self.reducer.average(fold.finish())
        };
        let (d_gradient, g_gradient) = (sum(g_real)?, sum(&self.g_buffer)?);
        let (next, record) = now.advance(&self.config.objective, &self.config.optimizer, &[losses])?;
        Ok(Computed { x, z, settings, recon_real, fake, d_gradient, g_gradient, now, next, record })
    }

    /// Moves the weights by what was computed.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn commit(&mut self, computed: &Computed) -> Result<()> {
        let Computed { d_gradient, g_gradient, now, next, .. } = computed;
        self.now = Some(*next);
        self.state.commit(d_gradient, g_gradient, now.rate, self.config)
    }
}

impl Computed {
    /// Every gradient by name, D's before G's.
    ///
    /// # Errors
    /// If a flat gradient is too short.
    pub fn gradients(&self, config: &RunConfig) -> Result<Vec<(String, Tensor)>> {
        let mut all = by_name(&Layout::new(&network::discriminator(&config.model)), &self.d_gradient.0)?;
        all.extend(by_name(&Layout::new(&network::generator(&config.model)), &self.g_gradient.0)?);
        Ok(all)
    }

    /// Losses and equilibrium, in the order of a fixture's scalars.
    #[must_use]
    pub fn scalars(&self) -> [(&'static str, f64); 5] {
        let StepRecord { real, fake, k, m_global, .. } = self.record;
        [("L_real", real), ("L_fake", fake), ("k", k), ("k_next", self.next.k), ("M_global", m_global)]
    }
}
