//! What an undisturbed run computes: losses, equilibria and states, all functions of step and lane.

use began::config::RunConfig;
use began::order::{SampleOrder, drawn_by_all};
use began::{Equilibrium, LaneLosses, Step, StepRecord};

/// The loss of a lane in a step.
#[must_use]
pub fn loss(step: u64, lane: u32) -> LaneLosses {
    let wave = ((step * 37 + u64::from(lane) * 11) % 101) as f64 / 101.0;
    LaneLosses { real: 0.4 + 0.1 * wave, fake: 0.25 - 0.07 * wave, drawn: step * 1000 + u64::from(lane) }
}

/// The state after a step, in one number: whoever applies another k or rate, or skips a step, has another state.
#[must_use]
pub fn commit(state: u64, equilibrium: &Equilibrium) -> u64 {
    let values = [equilibrium.step.0, equilibrium.k.to_bits(), equilibrium.rate.to_bits()];
    values.into_iter().fold(state, |state, value| {
        (state ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_add(0x1234_5678_9abc_def1)
    })
}

/// An undisturbed run, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Its configuration.
    pub config: RunConfig,
    /// Its order of samples.
    pub order: SampleOrder,
    /// By step; one more than steps.
    pub equilibria: Vec<Equilibrium>,
    /// By step; one more than steps.
    pub states: Vec<u64>,
    /// By step.
    pub records: Vec<(StepRecord, u64)>,
}

impl Truth {
    /// Computes it.
    ///
    /// # Panics
    /// If the configuration does not hold.
    #[must_use]
    pub fn of(config: RunConfig) -> Self {
        let order = SampleOrder::new(1, vec![900, 1400, 300], config.run.lanes, config.run.batch).expect("an order");
        let mut equilibria = vec![Equilibrium::start(&config.optimizer)];
        let mut states = vec![7];
        let mut records = Vec::new();
        for step in 0..config.run.steps {
            let losses: Vec<LaneLosses> = (0..config.run.lanes).map(|lane| loss(step, lane)).collect();
            let now = equilibria[step as usize];
            let (next, record) = now.advance(&config.objective, &config.optimizer, &losses).expect("finite losses");
            records.push((record, drawn_by_all(losses.iter().map(|lane| lane.drawn))));
            states.push(commit(states[step as usize], &now));
            equilibria.push(next);
        }
        Self { config, order, equilibria, states, records }
    }

    /// The equilibrium of a step.
    ///
    /// # Panics
    /// If no run gets there.
    #[must_use]
    pub fn equilibrium(&self, step: Step) -> &Equilibrium {
        &self.equilibria[step.0 as usize]
    }
}
