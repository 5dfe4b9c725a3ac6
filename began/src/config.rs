//! Every key of a run's configuration: its meaning, its default, and what it may be.
//!
//! A configuration is a preset, overlaid by a file, overlaid by `--set key=value`. It is complete (every default is
//! written out in `run.toml`), and an unknown key is an error that names it and the nearest one there is.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::Step;

mod overlay;

/// The whole configuration of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The network.
    pub model: Model,
    /// The losses and their balance.
    pub objective: Objective,
    /// Adam and its learning rate.
    pub optimizer: Optimizer,
    /// Length, shape and habits of the run.
    pub run: Run,
    /// The data set.
    pub data: Data,
    /// What to watch for in the equilibrium, and what to do then.
    pub guard: Guard,
}

/// `model.*`: the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Height and width of the images, in pixels: a power of two from 16 to 512.
    pub size: u32,
    /// `n`: channels of the decoder, and of the encoder's first scale.
    pub filters: u32,
    /// `h`: length of the latent vector.
    pub latent: u32,
}

/// `objective.*`: the losses and their balance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Diversity ratio: the aimed-at `L(G(z)) / L(x)`.
    pub gamma: f64,
    /// Step size of k.
    pub lambda_k: f64,
    /// 1 or 2: the power of `|v - D(v)|`.
    pub norm: u32,
    /// Steps over which the vanishing residual's carry falls from 1 to 0; 0 is off.
    pub carry_steps: u64,
}

/// `optimizer.*`: Adam and its learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Learning rate at the start.
    pub rate: f64,
    /// Adam's first decay.
    pub beta1: f64,
    /// Adam's second decay.
    pub beta2: f64,
    /// Adam's epsilon.
    pub epsilon: f64,
    /// The rate is never lowered below this.
    pub rate_floor: f64,
    /// Steps in a window of M_global; a window no better than the best before lowers the rate. 0 is off.
    pub stall_window: u64,
    /// What the rate is multiplied by then.
    pub stall_factor: f64,
    /// Decay per step of the average of G's weights that is kept beside them; 0 keeps none. See [`crate::average`].
    pub average: f64,
}

/// In what numbers a run computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    F32,
    /// 32-bit floating point whose products a GPU's matrix units take in TF32 (10 bits of mantissa); GPUs only.
    Tf32,
    /// Weights and activations in bfloat16; master weights, Adam, losses and reductions in 32 bits.
    Bf16,
    /// 64-bit floating point, for checks.
    F64,
}

/// How gradients are summed over trainers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduce {
    /// In the fixed tree: the same bits in any world.
    Tree,
    /// The library's own all-reduce: its order changes with the world.
    Fast,
}

/// `run.*`: length, shape and habits of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Steps to train.
    pub steps: u64,
    /// Slices of the global batch, for the run's whole life; 0 until the first launch makes it nodes x gpus.
    pub lanes: u32,
    /// Samples in a lane; the global batch is lanes x batch.
    pub batch: u32,
    /// What all randomness is keyed by.
    pub seed: u64,
    /// In what numbers to compute.
    pub precision: Precision,
    /// How gradients are summed.
    pub reduce: Reduce,
    /// Steps between checkpoints; 0 writes one at the end only.
    pub checkpoint_every: u64,
    /// The newest checkpoints to keep; at least 1.
    pub keep_checkpoints: u32,
    /// Checkpoints at multiples of this many steps are kept for good; 0 is none.
    pub keep_every: u64,
    /// Steps between sample grids; 0 draws one at the end only.
    pub sample_every: u64,
    /// Steps between scorings of the model during the run, one more at its end; 0 scores it never. See [`crate::score`].
    pub evaluate_every: u64,
    /// Generated images that are scored then, against as many real ones, as far as there are as many.
    pub evaluate_samples: u32,
    /// Steps between digests of the whole state; 0 takes one at the start and at the end only.
    pub digest_every: u64,
    /// Seconds of silence after which a trainer counts as lost.
    pub heartbeat_timeout: f64,
    /// Seconds without a finished step after which the run counts as hung.
    pub step_timeout: f64,
    /// Seconds to wait for a lost trainer's replacement before going on without it.
    pub rejoin_wait: f64,
    /// Trainers below which the run waits rather than going on.
    pub min_trainers: u32,
    /// Seconds that a trainer goes on trying to reach a coordinator that is gone.
    pub coordinator_wait: f64,
    /// What becomes of a trainer whose digest differs from the others'.
    pub on_corruption: OnCorruption,
}

/// What becomes of a trainer whose digest differs from the others'. In every case the run goes back to the last checkpoint
/// from before the difference, because its gradients are in everyone's state since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCorruption {
    /// It takes the sound state and goes on.
    Heal,
    /// It is taken out of the run for good.
    SetAside,
    /// The run stops.
    Stop,
}

/// What to do when a guard fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// It does not watch.
    Off,
    /// Say so, in the journal and to whoever looks on.
    Warn,
    /// Stop the run.
    Stop,
    /// Go back to the last checkpoint from before the trouble, with a lower learning rate.
    Rollback,
}

/// `guard.*`: what to watch for in the equilibrium, and what to do then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// A loss that is not a number. `off` and `warn` cannot be: the run could not go on.
    pub not_finite: GuardAction,
    /// L(x) above `jump_factor` times its mean over the window before.
    pub jump: GuardAction,
    /// See `jump`.
    pub jump_factor: f64,
    /// k at 0 or at 1 for `pinned_steps` steps in a row.
    pub pinned: GuardAction,
    /// See `pinned`.
    pub pinned_steps: u64,
    /// The mean of M_global over a window above `rising_factor` times that of the window before.
    pub rising: GuardAction,
    /// See `rising`.
    pub rising_factor: f64,
    /// The distance between samples of fixed noise, over that between real images, below `diversity_floor`. Measured
    /// whenever samples are drawn.
    pub diversity: GuardAction,
    /// See `diversity`.
    pub diversity_floor: f64,
    /// Steps in a window.
    pub window: u64,
    /// What the learning rate is multiplied by at a rollback.
    pub rate_factor: f64,
    /// Rollbacks after which the run stops instead.
    pub most_rollbacks: u32,
}

/// `data.*`: the data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The folder that `trainer prepare` made.
    pub path: String,
    /// Whether real images are mirrored at random.
    pub flip: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self { size: 64, filters: 64, latent: 64 }
    }
}

impl Default for Objective {
    fn default() -> Self {
        Self { gamma: 0.5, lambda_k: 0.001, norm: 1, carry_steps: 16_000 }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            rate: 1e-4,
            beta1: 0.5,
            beta2: 0.999,
            epsilon: 1e-8,
            rate_floor: 2e-5,
            stall_window: 5_000,
            stall_factor: 0.5,
            average: 0.0,
        }
    }
}

impl Default for Run {
    fn default() -> Self {
        Self {
            steps: 100_000,
            lanes: 0,
            batch: 16,
            seed: 1,
            precision: Precision::F32,
            reduce: Reduce::Tree,
            checkpoint_every: 1_000,
            keep_checkpoints: 3,
            keep_every: 0,
            sample_every: 500,
            evaluate_every: 0,
            evaluate_samples: 512,
            digest_every: 1_000,
            heartbeat_timeout: 5.0,
            step_timeout: 600.0,
            rejoin_wait: 0.0,
            min_trainers: 1,
            coordinator_wait: 120.0,
            on_corruption: OnCorruption::Heal,
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            not_finite: GuardAction::Stop,
            jump: GuardAction::Off,
            jump_factor: 2.0,
            pinned: GuardAction::Off,
            pinned_steps: 2_000,
            rising: GuardAction::Off,
            rising_factor: 1.1,
            diversity: GuardAction::Off,
            diversity_floor: 0.2,
            window: 200,
            rate_factor: 0.5,
            most_rollbacks: 3,
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self { path: String::new(), flip: true }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML.
    #[error("{place} is not TOML: {reason}")]
    Syntax {
        /// File or flag.
        place: String,
        /// The parser's words.
        reason: String,
    },
    /// No such preset.
    #[error("there is no preset {name:?}; there are {}", PRESETS.join(", "))]
    UnknownPreset {
        /// What was asked for.
        name: String,
    },
    /// No such key.
    #[error("{place}: there is no key {key:?}{}", nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// File or flag.
        place: String,
        /// The key, dotted.
        key: String,
        /// The most similar key there is.
        nearest: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("{place}: {key} must be {expected}, got {found}")]
    WrongKind {
        /// File or flag.
        place: String,
        /// The key, dotted.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {0}: expected key=value, as in --set run.steps=1000")]
    NotAnAssignment(String),
    /// A value out of its bounds.
    #[error("{key} must be {expected}, got {found}")]
    OutOfBounds {
        /// The key, dotted.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

/// The names of the presets.
pub const PRESETS: [&str; 4] = ["demo", "paper-64", "paper-128", "paper-256"];

impl RunConfig {
    /// A preset by name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        match name {
            "demo" => {
                config.model = Model { size: 32, filters: 24, latent: 16 };
                config.objective = Objective { gamma: 1.0, carry_steps: 0, ..config.objective };
                config.optimizer = Optimizer { rate: 3e-4, rate_floor: 1e-4, ..config.optimizer };
                config.run = Run {
                    steps: 3_000,
                    batch: 8,
                    checkpoint_every: 500,
                    sample_every: 250,
                    digest_every: 500,
                    ..config.run
                };
            }
            "paper-64" => config.model = Model { size: 64, filters: 64, latent: 64 },
            "paper-128" => config.model = Model { size: 128, filters: 128, latent: 64 },
            "paper-256" => config.model = Model { size: 256, filters: 128, latent: 64 },
            _ => return Err(ConfigError::UnknownPreset { name: name.into() }),
        }
        Ok(config)
    }

    fn to_table(&self) -> Table {
        Table::try_from(self).expect("a configuration is made of tables, numbers, strings and booleans only")
    }

    /// The whole configuration as TOML, every key written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.to_table()).expect("a table of plain values has a TOML form")
    }

    /// Every key, dotted, with its value.
    #[must_use]
    pub fn keys(&self) -> Vec<(String, String)> {
        let table = self.to_table();
        let sections = table.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?)));
        sections
            .flat_map(|(section, keys)| {
                keys.iter().map(move |(key, value)| (format!("{section}.{key}"), value.to_string()))
            })
            .collect()
    }

    /// Checks every value against its bounds.
    ///
    /// # Errors
    /// The first value out of its bounds, by key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self { model, objective, optimizer, run, .. } = self;
        check(
            (16..=512).contains(&model.size) && model.size.is_power_of_two(),
            "model.size",
            "a power of two from 16 to 512",
            model.size,
        )?;
        check((1..=4096).contains(&model.filters), "model.filters", "from 1 to 4096", model.filters)?;
        check((1..=65536).contains(&model.latent), "model.latent", "from 1 to 65536", model.latent)?;
        check(positive(objective.gamma), "objective.gamma", "a number above 0", objective.gamma)?;
        check(not_negative(objective.lambda_k), "objective.lambda_k", "a number of at least 0", objective.lambda_k)?;
        check((1..=2).contains(&objective.norm), "objective.norm", "1 or 2", objective.norm)?;
        check(positive(optimizer.rate), "optimizer.rate", "a number above 0", optimizer.rate)?;
        check((0.0..1.0).contains(&optimizer.beta1), "optimizer.beta1", "at least 0 and below 1", optimizer.beta1)?;
        check((0.0..1.0).contains(&optimizer.beta2), "optimizer.beta2", "at least 0 and below 1", optimizer.beta2)?;
        check(positive(optimizer.epsilon), "optimizer.epsilon", "a number above 0", optimizer.epsilon)?;
        check(
            not_negative(optimizer.rate_floor),
            "optimizer.rate_floor",
            "a number of at least 0",
            optimizer.rate_floor,
        )?;
        check(
            positive(optimizer.stall_factor) && optimizer.stall_factor < 1.0,
            "optimizer.stall_factor",
            "above 0 and below 1",
            optimizer.stall_factor,
        )?;
        check(
            (0.0..1.0).contains(&optimizer.average),
            "optimizer.average",
            "at least 0 and below 1",
            optimizer.average,
        )?;
        check(run.steps >= 1, "run.steps", "at least 1", run.steps)?;
        check(run.steps <= 1 << 48, "run.steps", "at most 2^48", run.steps)?;
        check(run.lanes <= 1 << 16, "run.lanes", "at most 65536", run.lanes)?;
        check((1..=65536).contains(&run.batch), "run.batch", "from 1 to 65536", run.batch)?;
        check(run.seed <= i64::MAX as u64, "run.seed", "at most 2^63 - 1", run.seed)?;
        check(run.keep_checkpoints >= 1, "run.keep_checkpoints", "at least 1", run.keep_checkpoints)?;
        check(
            (16..=10_000).contains(&run.evaluate_samples),
            "run.evaluate_samples",
            "from 16 to 10000",
            run.evaluate_samples,
        )?;
        check(seconds(run.heartbeat_timeout), "run.heartbeat_timeout", "seconds, above 0", run.heartbeat_timeout)?;
        check(seconds(run.step_timeout), "run.step_timeout", "seconds, above 0", run.step_timeout)?;
        check(
            not_negative(run.rejoin_wait) && run.rejoin_wait <= 1e6,
            "run.rejoin_wait",
            "seconds, at least 0",
            run.rejoin_wait,
        )?;
        check(run.min_trainers >= 1, "run.min_trainers", "at least 1", run.min_trainers)?;
        check(
            run.lanes == 0 || run.min_trainers <= run.lanes,
            "run.min_trainers",
            "at most run.lanes: a trainer needs a lane",
            run.min_trainers,
        )?;
        check(seconds(run.coordinator_wait), "run.coordinator_wait", "seconds, above 0", run.coordinator_wait)?;
        self.guard.validate()
    }
}

impl Run {
    /// Whether the model is scored in the state of this step.
    #[must_use]
    pub fn evaluates(&self, step: Step) -> bool {
        let every = self.evaluate_every;
        every > 0 && step.0 > 0 && (step.0.is_multiple_of(every) || step.0 == self.steps)
    }
}

impl Guard {
    /// Whether the run may go back to a checkpoint: then their spacing is a part of what it computes.
    #[must_use]
    pub fn goes_back(&self) -> bool {
        [self.not_finite, self.jump, self.pinned, self.rising, self.diversity].contains(&GuardAction::Rollback)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let acts = matches!(self.not_finite, GuardAction::Stop | GuardAction::Rollback);
        let found = if self.not_finite == GuardAction::Off { "off" } else { "warn" };
        check(acts, "guard.not_finite", "\"stop\" or \"rollback\"", found)?;
        for (key, factor) in [("guard.jump_factor", self.jump_factor), ("guard.rising_factor", self.rising_factor)] {
            check(factor.is_finite() && factor > 1.0, key, "a number above 1", factor)?;
        }
        check(self.pinned_steps >= 1, "guard.pinned_steps", "at least 1", self.pinned_steps)?;
        check(
            not_negative(self.diversity_floor),
            "guard.diversity_floor",
            "a number of at least 0",
            self.diversity_floor,
        )?;
        check((2..=1 << 20).contains(&self.window), "guard.window", "from 2 to 1048576", self.window)?;
        check(
            positive(self.rate_factor) && self.rate_factor <= 1.0,
            "guard.rate_factor",
            "above 0 and at most 1",
            self.rate_factor,
        )
    }
}

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn seconds(value: f64) -> bool {
    positive(value) && value <= 1e6
}

fn check(holds: bool, key: &'static str, expected: &'static str, found: impl fmt::Display) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::OutOfBounds { key, expected, found: found.to_string() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_scored_at_multiples_and_at_the_end_and_never_unless_asked_for() {
        let run = Run { steps: 10, evaluate_every: 4, ..Run::default() };
        let steps = |run: &Run| (0..12).filter(|&step| run.evaluates(Step(step))).collect::<Vec<_>>();
        assert_eq!(steps(&run), [4, 8, 10]);
        assert!(steps(&Run { evaluate_every: 0, ..run }).is_empty());
    }

    #[test]
    fn values_out_of_bounds_are_named() -> Result<(), ConfigError> {
        for (set, key) in [
            ("model.size=100", "model.size"),
            ("model.size=8", "model.size"),
            ("objective.gamma=-0.5", "objective.gamma"),
            ("objective.gamma=nan", "objective.gamma"),
            ("objective.norm=3", "objective.norm"),
            ("optimizer.beta1=1", "optimizer.beta1"),
            ("optimizer.average=1", "optimizer.average"),
            ("optimizer.average=-0.1", "optimizer.average"),
            ("run.batch=0", "run.batch"),
            ("run.steps=0", "run.steps"),
            ("run.evaluate_samples=15", "run.evaluate_samples"),
            ("run.heartbeat_timeout=0", "run.heartbeat_timeout"),
            ("guard.not_finite=warn", "guard.not_finite"),
            ("guard.jump_factor=1", "guard.jump_factor"),
            ("guard.window=1", "guard.window"),
        ] {
            let error = RunConfig::default().set(set)?.validate().unwrap_err().to_string();
            assert!(error.starts_with(key), "{set}: {error}");
        }
        Ok(())
    }
}
