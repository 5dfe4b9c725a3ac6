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
        let lane =
            |(lane, l): (u32, &LaneLosses)| wire::LaneLosses { lane, real: l.real, fake: l.fake, drawn: l.drawn };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn equilibrium(step: u64, durable: u64) -> wire::Equilibrium {
        wire::Equilibrium { step, durable, k: step as f64 / 100.0, ..Default::default() }
    }

    fn losses(step: u64) -> Vec<LaneLosses> {
        (0..2).map(|lane| LaneLosses { real: step as f64, fake: f64::from(lane), drawn: step }).collect()
    }

    /// One that has committed these steps, none of which the journal has.
    fn committed(steps: std::ops::Range<u64>) -> History {
        let mut history = History::default();
        history.begin(equilibrium(steps.start, 0));
        for step in steps {
            history.committed(Step(step), &losses(step));
            history.given(equilibrium(step + 1, 0));
        }
        history
    }

    fn steps(recalled: &wire::Recalled) -> Vec<u64> {
        recalled.steps.iter().map(step_of).collect()
    }

    #[test]
    fn what_led_to_the_held_state_comes_with_every_lane_and_with_the_equilibrium_it_was_given() {
        let recalled = committed(3..7).recalled(5, Some(Step(7)));
        assert_eq!(steps(&recalled), [5, 6]);
        let past = &recalled.steps[1];
        assert_eq!(past.equilibrium, Some(equilibrium(6, 0)));
        assert_eq!(
            past.losses.iter().map(|l| (l.lane, l.real, l.fake)).collect::<Vec<_>>(),
            [(0, 6.0, 0.0), (1, 6.0, 1.0)]
        );
        assert_eq!(recalled.given, [equilibrium(7, 0)]);
    }

    #[test]
    fn one_that_holds_nothing_recalls_nothing() {
        assert_eq!(committed(3..7).recalled(0, None), wire::Recalled::default());
    }

    #[test]
    fn one_behind_its_own_history_recalls_no_further_than_it_holds() {
        let mut history = committed(3..7);
        history.given(equilibrium(8, 0));
        assert_eq!(steps(&history.recalled(0, Some(Step(5)))), [3, 4]);
    }

    #[test]
    fn what_the_journal_has_is_forgotten_and_what_is_remembered_is_said() {
        let mut history = committed(0..6);
        assert_eq!(history.remembers(Some(Step(6))), 0);
        history.given(equilibrium(7, 4));
        assert_eq!(history.remembers(Some(Step(6))), 4);
        assert_eq!(steps(&history.recalled(0, Some(Step(6)))), [4, 5]);
        history.given(equilibrium(8, 7));
        assert_eq!(history.remembers(Some(Step(7))), 7);
        assert_eq!(history.remembers(None), 0);
    }

    #[test]
    fn a_journal_that_lags_without_end_costs_no_more_than_a_bound() {
        let history = committed(0..MOST as u64 + 10);
        assert_eq!((history.past.len(), history.remembers(None)), (MOST, 10));
    }

    #[test]
    fn there_is_never_a_hole_in_what_is_remembered() {
        let mut history = committed(0..4);
        // It received the state of step 8 from a peer; what it took part in before did not lead there.
        history.begin(equilibrium(8, 0));
        history.committed(Step(8), &losses(8));
        assert_eq!(steps(&history.recalled(0, Some(Step(9)))), [8]);
        // A commit without its equilibrium cannot be told to anyone.
        history.committed(Step(20), &losses(20));
        assert!(history.past.is_empty());
    }

    #[test]
    fn a_generation_that_begins_earlier_takes_back_what_was_given_for_later_steps() {
        let mut history = committed(0..6);
        history.begin(equilibrium(5, 0));
        assert_eq!(history.newest(), Some(&equilibrium(5, 0)));
        assert_eq!(steps(&history.recalled(0, Some(Step(5)))), [0, 1, 2, 3, 4]);
        history.clear();
        assert_eq!((history.newest(), history.remembers(None)), (None, 0));
    }
}
