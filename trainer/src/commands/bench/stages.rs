//! Time by stage of one lane's step, by the device's own events.

use std::time::Instant;

use anyhow::Result;
use began::config::{Model, RunConfig};
use tch::{Device, Kind, Tensor};
use torch_ext::stream::{Event, Stream};

use super::{median, round3};
use crate::images::Measure;
use crate::reduce::Gradient;
use crate::state::State;
use crate::step::{GradientBuffer, LanePass, Settings, combine};

/// Points in a device's work, and the time between them.
pub struct Clock {
    device: Device,
    stream: Stream,
    marks: Vec<(&'static str, Instant, Event)>,
}

impl Clock {
    /// Starts.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn start(device: Device) -> Result<Self> {
        let mut clock = Self { device, stream: Stream::current(device)?, marks: Vec::new() };
        clock.stream.synchronize()?;
        clock.mark("start")?;
        Ok(clock)
    }

    /// What was asked for since the mark before is called `stage`.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn mark(&mut self, stage: &'static str) -> Result<()> {
        let mut event = Event::new(self.device, true)?;
        event.record(self.stream)?;
        self.marks.push((stage, Instant::now(), event));
        Ok(())
    }

    /// Waits for the device; milliseconds by stage, in order.
    ///
    /// # Errors
    /// If the device failed.
    pub fn finish(self) -> Result<Vec<(&'static str, f64)>> {
        self.stream.synchronize()?;
        let pairs = self.marks.iter().zip(self.marks.iter().skip(1));
        let time =
            |((_, before, first), (stage, after, second)): (&(_, Instant, Event), &(&'static str, Instant, Event))| {
                let by_host = after.duration_since(*before).as_secs_f64() * 1e3;
                Ok((*stage, second.milliseconds_since(first)?.unwrap_or(by_host)))
            };
        pairs.map(time).collect()
    }
}

/// Stages in the order of the step.
pub const STAGES: [&str; 8] = [
    "D forward, real",
    "D backward, real",
    "G forward",
    "D forward, fake",
    "D backward, fake",
    "combine",
    "G backward",
    "Adam",
];

/// Milliseconds by stage, in the order of [`STAGES`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stages(pub [f64; 8]);

impl Stages {
    /// Runs the step of one lane over random images, and takes medians over `times`.
    ///
    /// # Errors
    /// If memory is short.
    pub fn measure(state: &mut State, model: &Model, batch: u32, times: u64) -> Result<Self> {
        let (device, kind) = (state.discriminator.parameters.device(), state.discriminator.parameters.kind());
        let side = i64::from(model.size);
        let image = Tensor::f_rand([i64::from(batch), 3, side, side], (Kind::Float, device))?;
        let x = torch_ext::channels_last(&image.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?.f_to_kind(kind)?)?;
        let noise = Tensor::f_rand([i64::from(batch), i64::from(model.latent)], (Kind::Float, device))?;
        let z = noise.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?.f_to_kind(kind)?;
        let settings = Settings { norm: 1, carry: 0.0, measure: Measure::NOTHING };
        let config = RunConfig::default();
        let d = |state: &State| GradientBuffer::new(&state.discriminator.parameters, 0);
        let (g_real, g_fake) = (d(state)?, d(state)?);
        let g = GradientBuffer::new(&state.generator.parameters, 0)?;
        let mut all: [Vec<f64>; 8] = Default::default();
        for _ in 0..=times {
            let mut clock = Clock::start(device)?;
            let pass = LanePass::run_marked(state, &x, &z, settings, &g_real, &g_fake, &mut |stage| clock.mark(stage))?;
            combine(&g_real, &g_fake, 0.1)?;
            clock.mark("combine")?;
            pass.generator_gradient(state, &g)?;
            clock.mark("G backward")?;
            let gradient = |buffer: &GradientBuffer| Gradient(buffer.flat.shallow_clone());
            state.commit(&gradient(&g_real), &gradient(&g), 1e-6, &config)?;
            clock.mark("Adam")?;
            for (stage, milliseconds) in clock.finish()? {
                if let Some(index) = STAGES.iter().position(|name| *name == stage) {
                    all[index].push(milliseconds);
                }
            }
        }
        // The first time is not like the others.
        Ok(Self(all.map(|times| times.get(1..).map_or(0.0, median))))
    }

    /// With their names.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, f64)> {
        STAGES.into_iter().zip(self.0).map(|(name, milliseconds)| (name, round3(milliseconds))).collect()
    }

    /// G's backward, under which D's gradients travel, in seconds.
    #[must_use]
    pub fn generator_backward(&self) -> f64 {
        self.0[6] / 1e3
    }
}
