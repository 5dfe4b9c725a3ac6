//! What led to the state this trainer holds: the last committed steps with their equilibria and the losses of all lanes.
//!
//! A coordinator that was killed lost what its journal had not got yet; every trainer has it all, because the sum over the
//! lanes carries every lane's losses along. Kept until the coordinator says that the journal has it, and never without a bound.

use std::collections::VecDeque;

use began::{LaneLosses, Step};
use began_proto::v1::{self as wire, PastStep};

/// Steps that are kept at most: beyond, the journal has a hole if the coordinator dies.
const MOST: usize = 4096;
/// Equilibria that are kept: for the step in progress, the one after and the one before.
const GIVEN: usize = 4;

/// Committed steps, oldest first, and the equilibria that are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    past: VecDeque<PastStep>,
    given: VecDeque<wire::Equilibrium>,
}

impl History {
    /// An equilibrium came in, newer than those before.
    pub(crate) fn given(&mut self, equilibrium: wire::Equilibrium) {
        self.past.retain(|past| step_of(past) >= equilibrium.durable);
        self.given.push_back(equilibrium);
        if self.given.len() > GIVEN {
            self.given.pop_front();
        }
    }

    /// The newest equilibrium.
    pub(crate) fn newest(&self) -> Option<&wire::Equilibrium> {
        self.given.back()
    }

    /// `step` was committed with these losses of all lanes.
    pub(crate) fn committed(&mut self, step: Step, losses: &[LaneLosses]) {
        let Some(equilibrium) = self.given.iter().find(|given| given.step == step.0) else {
            return self.past.clear();
        };
        if self.past.back().is_some_and(|last| step_of(last) + 1 != step.0) {
            self.past.clear();
        }
        let lane = |(lane, l): (u32, &LaneLosses)| wire::LaneLosses { lane, real: l.real, fake: l.fake, drawn: l.drawn };
        self.past
            .push_back(PastStep { equilibrium: Some(*equilibrium), losses: (0..).zip(losses).map(lane).collect() });
        if self.past.len() > MOST {
            self.past.pop_front();
        }
    }

    /// Another state is held now, that these steps did not lead to.
    pub(crate) fn forget(&mut self) {
        self.past.clear();
    }

    /// The run has gone back: all of it is void.
    pub(crate) fn clear(&mut self) {
        self.past.clear();
        self.given.clear();
    }

    /// A generation begins at this equilibrium: what was given for later steps does not hold any more.
    pub(crate) fn begin(&mut self, equilibrium: wire::Equilibrium) {
        self.given.retain(|known| known.step < equilibrium.step);
        self.past.retain(|past| step_of(past) < equilibrium.step);
        self.given.push_back(equilibrium);
    }

    /// The first step that can be recalled by one who holds `held`.
    pub(crate) fn remembers(&self, held: Option<Step>) -> u64 {
        self.past.front().map_or(held.unwrap_or_default().0, step_of)
    }

    /// For a coordinator that knows the steps below `from`; `held` is what this trainer holds.
    pub(crate) fn recalled(&self, from: u64, held: Option<Step>) -> wire::Recalled {
        let Some(held) = held else { return wire::Recalled::default() };
        wire::Recalled {
            steps: self.past.iter().filter(|past| (from..held.0).contains(&step_of(past))).cloned().collect(),
            given: self.given.iter().filter(|given| given.step >= held.0).copied().collect(),
        }
    }
}

fn step_of(past: &PastStep) -> u64 {
    past.equilibrium.as_ref().map_or(0, |equilibrium| equilibrium.step)
}
