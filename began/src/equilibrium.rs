//! The equilibrium: k_t, the learning rate and M_global, from the lanes' losses (BEGAN, sections 3.3 and 3.4).
//!
//! Only the coordinator advances it in a run, in f64 and in lane order; trainers receive the result.

use serde::{Deserialize, Serialize};

use crate::config::{Objective, Optimizer};
use crate::ids::{Lane, Step};

/// The two reconstruction losses of one lane in one step: f32 means over all elements, widened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneLosses {
    /// `L(x)`, of the real images.
    pub real: f64,
    /// `L(G(z))`, of the generated images.
    pub fake: f64,
    /// Which samples the lane drew ([`crate::order::drawn_by_lane`]).
    pub drawn: u64,
}

/// What a step needs to know beyond its inputs, and what the next one's is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Equilibrium {
    /// The step this is for; as many steps are behind it.
    pub step: Step,
    /// `k_t` in [0, 1].
    pub k: f64,
    /// Adam's learning rate.
    pub rate: f64,
    /// Where the watch over M_global stands.
    pub stall: Stall,
}

/// Watches M_global in consecutive windows; a window whose mean is no better than the best before halves the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// Sum of M_global over the window so far.
    pub sum: f64,
    /// Steps in the window so far.
    pub count: u64,
    /// The lowest mean of a whole window.
    #[serde(default)]
    pub best: Option<f64>,
}

/// One step as the journal keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Index of the step.
    pub step: Step,
    /// `L(x)`, mean over lanes.
    pub real: f64,
    /// `L(G(z))`, mean over lanes.
    pub fake: f64,
    /// The `k_t` the step used.
    pub k: f64,
    /// The learning rate the step used.
    pub rate: f64,
    /// `M_global = L(x) + |gamma L(x) - L(G(z))|`.
    pub m_global: f64,
}

/// Why the equilibrium cannot go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EquilibriumError {
    /// NaN or infinity.
    #[error("training diverged: lane {lane} reported L(x) = {real}, L(G(z)) = {fake} in step {step}")]
    NotFinite {
        /// The step.
        step: Step,
        /// The first such lane.
        lane: Lane,
        /// Its `L(x)`.
        real: f64,
        /// Its `L(G(z))`.
        fake: f64,
    },
    /// No lanes at all.
    #[error("no losses for step {0}")]
    NoLanes(Step),
}

impl Equilibrium {
    /// Before the first step: `k_0 = 0` and the full rate.
    #[must_use]
    pub fn start(optimizer: &Optimizer) -> Self {
        Self { step: Step(0), k: 0.0, rate: optimizer.rate, stall: Stall::default() }
    }

    /// The equilibrium after this step, and the step's record. `losses` are in lane order.
    ///
    /// # Errors
    /// If a loss is not finite, or there is none.
    pub fn advance(
        &self,
        objective: &Objective,
        optimizer: &Optimizer,
        losses: &[LaneLosses],
    ) -> Result<(Self, StepRecord), EquilibriumError> {
        if losses.is_empty() {
            return Err(EquilibriumError::NoLanes(self.step));
        }
        if let Some(lane) = losses.iter().position(|l| !l.real.is_finite() || !l.fake.is_finite()) {
            let LaneLosses { real, fake, .. } = losses[lane];
            return Err(EquilibriumError::NotFinite { step: self.step, lane: Lane(lane as u32), real, fake });
        }
        let lanes = losses.len() as f64;
        let real = losses.iter().fold(0.0, |sum, l| sum + l.real) / lanes;
        let fake = losses.iter().fold(0.0, |sum, l| sum + l.fake) / lanes;
        let balance = objective.gamma * real - fake;
        let m_global = real + balance.abs();
        let (stall, rate) = self.stall.watch(m_global, self.rate, optimizer);
        let k = next_k(self.k, real, fake, objective);
        let record = StepRecord { step: self.step, real, fake, k: self.k, rate: self.rate, m_global };
        Ok((Self { step: self.step.next(), k, rate, stall }, record))
    }
}

/// `k_{t+1} = clip(k_t + lambda_k (gamma L(x) - L(G(z))), 0, 1)`, from `k_t` and the step's mean losses.
#[must_use]
pub fn next_k(k: f64, real: f64, fake: f64, objective: &Objective) -> f64 {
    (k + objective.lambda_k * (objective.gamma * real - fake)).clamp(0.0, 1.0)
}

impl Stall {
    fn watch(self, m_global: f64, rate: f64, optimizer: &Optimizer) -> (Self, f64) {
        if optimizer.stall_window == 0 {
            return (self, rate);
        }
        let (sum, count) = (self.sum + m_global, self.count + 1);
        if count < optimizer.stall_window {
            return (Self { sum, count, best: self.best }, rate);
        }
        let mean = sum / count as f64;
        match self.best {
            Some(best) if mean >= best => {
                // At or below the floor already: a rate that was set there stays.
                let lower = (rate * optimizer.stall_factor).max(optimizer.rate_floor).min(rate);
                (Self { sum: 0.0, count: 0, best: self.best }, lower)
            }
            _ => (Self { sum: 0.0, count: 0, best: Some(mean) }, rate),
        }
    }
}

/// How much of a carried layer's input passes by it in `step`: 1 at first, 0 from `carry_steps` on.
#[must_use]
pub fn carry(step: Step, carry_steps: u64) -> f64 {
    if step.0 >= carry_steps { 0.0 } else { 1.0 - step.0 as f64 / carry_steps as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use proptest::prelude::*;

    fn losses(real: f64, fake: f64) -> [LaneLosses; 1] {
        [LaneLosses { real, fake, drawn: 0 }]
    }

    #[test]
    fn k_follows_the_balance_and_stays_in_its_bounds() -> Result<(), EquilibriumError> {
        let mut config = RunConfig::default();
        config.objective.gamma = 0.5;
        config.objective.lambda_k = 0.1;
        let start = Equilibrium::start(&config.optimizer);
        let (next, record) = start.advance(&config.objective, &config.optimizer, &losses(1.0, 0.25))?;
        assert!((next.k - 0.025).abs() < 1e-12);
        assert!((record.m_global - 1.25).abs() < 1e-12);
        let (floor, _) = start.advance(&config.objective, &config.optimizer, &losses(1.0, 9.0))?;
        assert_eq!(floor.k, 0.0);
        let (top, _) = start.advance(&config.objective, &config.optimizer, &losses(100.0, 0.0))?;
        assert_eq!(top.k, 1.0);
        Ok(())
    }

    #[test]
    fn the_rate_is_halved_when_m_global_stalls_and_never_below_its_floor() -> Result<(), EquilibriumError> {
        let mut config = RunConfig::default();
        config.optimizer.stall_window = 3;
        config.optimizer.stall_factor = 0.5;
        config.optimizer.rate = 1e-4;
        config.optimizer.rate_floor = 2e-5;
        let mut state = Equilibrium::start(&config.optimizer);
        let mut rates = Vec::new();
        for _ in 0..15 {
            state = state.advance(&config.objective, &config.optimizer, &losses(1.0, 0.5))?.0;
            rates.push(state.rate);
        }
        assert_eq!((rates[2], rates[5], rates[8], rates[11], rates[14]), (1e-4, 5e-5, 2.5e-5, 2e-5, 2e-5));
        Ok(())
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_named_with_its_lane() {
        let config = RunConfig::default();
        let losses = [(1.0, 1.0), (f64::NAN, 1.0)].map(|(real, fake)| LaneLosses { real, fake, drawn: 0 });
        let error = Equilibrium::start(&config.optimizer).advance(&config.objective, &config.optimizer, &losses);
        assert!(error.is_err_and(|e| e.to_string().contains("lane 1")));
    }

    #[test]
    fn carry_falls_from_one_to_nothing() {
        assert_eq!((carry(Step(0), 4), carry(Step(1), 4), carry(Step(4), 4)), (1.0, 0.75, 0.0));
        assert_eq!(carry(Step(0), 0), 0.0);
    }

    proptest! {
        #[test]
        fn k_never_leaves_its_bounds(values in proptest::collection::vec((0f64..10.0, 0f64..10.0), 1..50)) {
            let mut config = RunConfig::default();
            config.objective.lambda_k = 0.5;
            let mut state = Equilibrium::start(&config.optimizer);
            for (real, fake) in values {
                state = state.advance(&config.objective, &config.optimizer, &losses(real, fake))
                    .map_err(|e| TestCaseError::fail(e.to_string()))?.0;
                prop_assert!((0.0..=1.0).contains(&state.k));
            }
        }
    }
}
