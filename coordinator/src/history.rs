//! What the journal tells a coordinator that is started again: how often the run went back, to where, and what it agreed on.

use std::collections::BTreeMap;

use began::{Equilibrium, Generation, Step};
use began_record::EventRow;

use crate::machine::Back;

/// The kind of the event that keeps a [`Back`].
pub const BACK: &str = "back";

/// A run so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// How often it has gone back.
    pub lineage: u64,
    /// How often a guard made it do so.
    pub rollbacks: u32,
    /// The highest state of this lineage whose digest all trainers agreed on.
    pub agreed: Step,
    /// Learning rates that guards lowered, each by the step from which it holds.
    pub lowered: BTreeMap<Step, f64>,
    /// The run went back to this step and no generation has begun since: all above it is void, whatever lies about.
    pub pending: Option<Step>,
    /// The last generation.
    pub generation: Generation,
}

/// A [`Back`] in a sentence that [`History::of`] understands.
#[must_use]
pub fn tell(back: &Back) -> String {
    let Back { to, lineage, rate } = back;
    // The shortest form of a number that reads as the same bits.
    let rate = rate.map_or(String::new(), |rate| format!(", at learning rate {rate:?}"));
    format!("lineage {lineage} goes on from step {to}{rate}")
}

fn read(text: &str) -> Option<Back> {
    let (lineage, rest) = text.strip_prefix("lineage ")?.split_once(" goes on from step ")?;
    let (to, rate) = match rest.split_once(", at learning rate ") {
        Some((to, rate)) => (to, Some(rate.parse().ok().filter(|rate: &f64| rate.is_finite())?)),
        None => (rest, None),
    };
    Some(Back { to: Step(to.parse().ok()?), lineage: lineage.parse().ok()?, rate })
}

impl History {
    /// What these events tell, in the order they were kept.
    #[must_use]
    pub fn of(events: &[EventRow]) -> Self {
        let mut history = Self::default();
        for event in events {
            history.generation = history.generation.max(Generation(event.generation));
            match event.kind.as_str() {
                "digest" => history.agreed = history.agreed.max(Step(event.step)),
                "generation" => history.pending = None,
                BACK => {
                    if let Some(back) = read(&event.text) {
                        history.went_back(&back);
                    }
                }
                _ => {}
            }
        }
        history
    }

    fn went_back(&mut self, back: &Back) {
        self.lineage = self.lineage.max(back.lineage);
        self.agreed = self.agreed.min(back.to);
        self.pending = Some(self.pending.map_or(back.to, |pending| pending.min(back.to)));
        self.lowered.split_off(&back.to.next());
        if let Some(rate) = back.rate {
            self.rollbacks += 1;
            self.lowered.insert(back.to, rate);
        }
    }

    /// Whether a state of this step may be gone on from, for all the journal knows.
    #[must_use]
    pub fn allows(&self, step: Step) -> bool {
        self.pending.is_none_or(|pending| step <= pending)
    }

    /// The equilibrium to go on with from a checkpoint that holds this one.
    #[must_use]
    pub fn apply(&self, equilibrium: Equilibrium) -> Equilibrium {
        match self.lowered.get(&equilibrium.step) {
            Some(&rate) => Equilibrium { rate, ..equilibrium },
            None => equilibrium,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(kind: &str, step: u64, generation: u64, text: String) -> EventRow {
        EventRow { time: 0.0, kind: kind.into(), text, step, generation, rank: None, node: None }
    }

    fn back(to: u64, lineage: u64, rate: Option<f64>) -> EventRow {
        event(BACK, to, 0, tell(&Back { to: Step(to), lineage, rate }))
    }

    proptest! {
        #[test]
        fn what_is_told_is_read(to: u64, lineage: u64, rate in proptest::option::of(proptest::num::f64::NORMAL)) {
            let back = Back { to: Step(to), lineage, rate };
            prop_assert_eq!(read(&tell(&back)), Some(back));
        }

        #[test]
        fn no_text_is_too_odd_to_read(text in "(lineage )?[0-9]{0,22}( goes on from step )?[0-9e.-]{0,9}(, at learning rate )?.{0,9}") {
            let _ = read(&text);
        }
    }

    #[test]
    fn a_run_that_went_back_twice_is_known_as_that() {
        let mut events = vec![event("digest", 10, 1, String::new()), back(8, 1, Some(2.5e-5))];
        let history = History::of(&events);
        assert_eq!(
            (history.lineage, history.rollbacks, history.agreed, history.pending),
            (1, 1, Step(8), Some(Step(8)))
        );
        assert!(history.allows(Step(8)) && !history.allows(Step(16)));
        events.push(event("generation", 8, 2, String::new()));
        events.push(event("digest", 10, 2, String::new()));
        let history = History::of(&events);
        assert_eq!((history.agreed, history.pending, history.generation), (Step(10), None, Generation(2)));
        assert_eq!(history.lowered.get(&Step(8)), Some(&2.5e-5));
        // Below where the rate was lowered: that is forgotten with the states that had it.
        events.push(back(4, 2, None));
        let history = History::of(&events);
        assert_eq!((history.lineage, history.rollbacks, history.lowered.len()), (2, 1, 0));
    }

    #[test]
    fn a_lowered_rate_is_applied_to_its_checkpoint_alone() {
        let history = History::of(&[back(8, 1, Some(1e-5))]);
        let at = |step| Equilibrium { step: Step(step), k: 0.1, rate: 4e-5, ..Equilibrium::start(&Default::default()) };
        assert_eq!(history.apply(at(8)).rate, 1e-5);
        assert_eq!(history.apply(at(16)).rate, 4e-5);
    }
}
