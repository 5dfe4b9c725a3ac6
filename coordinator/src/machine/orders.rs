//! What trainers are to do in the state after a step: digest, checkpoint, sample, stop.
//!
//! Orders ride in the equilibrium *for* step t and apply once t is committed, so they speak of state t + 1.

use began::Step;
use began::config::Run;

use super::event::{Action, Orders};

/// What people asked for that no order carries yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    checkpoint: bool,
    sample: bool,
    /// Who asked to stop, and why.
    stop: Option<String>,
}

impl Asked {
    pub(super) fn add(&mut self, action: Action, reason: &str) {
        match action {
            Action::Checkpoint => self.checkpoint = true,
            Action::Sample => self.sample = true,
            Action::Stop => {
                self.stop.get_or_insert_with(|| reason.to_owned());
            }
            Action::Note => {}
        }
    }

    /// Who asked to stop, if anyone did.
    pub(super) fn stop(&self) -> Option<&str> {
        self.stop.as_deref()
    }

    /// The orders that ride with the equilibrium for `step`; one-off requests are used up.
    pub(super) fn orders(&mut self, step: Step, run: &Run) -> Orders {
        let state = step.next().0;
        let last = state >= run.steps;
        let due = |every: u64| last || (every > 0 && state.is_multiple_of(every));
        let stop = last || self.stop.is_some();
        Orders {
            digest: due(run.digest_every) || stop,
            checkpoint: due(run.checkpoint_every) || stop || std::mem::take(&mut self.checkpoint),
            sample: due(run.sample_every) || std::mem::take(&mut self.sample),
            stop,
            regroup: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run { steps: 10, digest_every: 3, checkpoint_every: 5, sample_every: 0, ..Run::default() }
    }

    #[test]
    fn orders_speak_of_the_state_after_the_step() {
        let mut asked = Asked::default();
        assert_eq!(asked.orders(Step(2), &run()), Orders { digest: true, ..Orders::default() });
        assert_eq!(asked.orders(Step(3), &run()), Orders::default());
        assert_eq!(asked.orders(Step(4), &run()), Orders { checkpoint: true, ..Orders::default() });
    }

    #[test]
    fn the_last_step_carries_every_order() {
        let all = Orders { digest: true, checkpoint: true, sample: true, stop: true, regroup: false };
        assert_eq!(Asked::default().orders(Step(9), &run()), all);
    }

    #[test]
    fn a_requested_stop_brings_a_checkpoint_and_a_digest_and_a_request_is_used_once() {
        let mut asked = Asked::default();
        asked.add(Action::Sample, "");
        assert!(asked.orders(Step(0), &run()).sample && !asked.orders(Step(0), &run()).sample);
        asked.add(Action::Stop, "because");
        let stop = Orders { digest: true, checkpoint: true, stop: true, ..Orders::default() };
        assert_eq!(asked.orders(Step(0), &run()), stop);
    }
}
