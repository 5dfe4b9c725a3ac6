//! What was said and may have been lost with a stream: said again on the next one.
//!
//! Saying something twice never harms: the coordinator knows it by its step.

use std::collections::VecDeque;

use began_proto::v1::trainer_message::Body;

/// Reports that are kept of each kind.
const KEPT: usize = 2;

/// The last losses, digests and reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    losses: VecDeque<Body>,
    digests: VecDeque<Body>,
    checkpoints: VecDeque<Body>,
    samples: VecDeque<Body>,
    evaluations: VecDeque<Body>,
}

impl Outbox {
    /// Keeps what must not be lost.
    pub(crate) fn keep(&mut self, body: &Body) {
        let shelf = match body {
            Body::Losses(_) => &mut self.losses,
            Body::Digest(_) => &mut self.digests,
            Body::Checkpoint(_) => &mut self.checkpoints,
            Body::Sample(_) => &mut self.samples,
            Body::Evaluation(_) => &mut self.evaluations,
            _ => return,
        };
        shelf.push_back(body.clone());
        if shelf.len() > KEPT {
            shelf.pop_front();
        }
    }

    /// A new generation begins: its losses and digests are new; what lies on the disk stays there.
    pub(crate) fn begin(&mut self) {
        self.losses.clear();
        self.digests.clear();
    }

    /// The run went back: samples and scores of the states it left say nothing of those that come.
    pub(crate) fn step_back(&mut self) {
        self.samples.clear();
        self.evaluations.clear();
    }

    /// The last digest, for a halt that asks for it.
    pub(crate) fn last_digest(&self) -> Option<&Body> {
        self.digests.back()
    }

    /// Everything to be said again, in the order in which it may be said.
    pub(crate) fn again(&self) -> impl Iterator<Item = &Body> {
        self.losses.iter().chain(&self.digests).chain(&self.checkpoints).chain(&self.samples).chain(&self.evaluations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began_proto::v1::{CheckpointWritten, EvaluationDone, Held, SampleWritten, StateDigest, StepLosses};

    fn losses(step: u64) -> Body {
        Body::Losses(StepLosses { step, ..Default::default() })
    }

    fn digest(step: u64) -> Body {
        Body::Digest(StateDigest { step, ..Default::default() })
    }

    fn checkpoint(step: u64) -> Body {
        Body::Checkpoint(CheckpointWritten { step, ..Default::default() })
    }

    fn again(outbox: &Outbox) -> Vec<Body> {
        outbox.again().cloned().collect()
    }

    #[test]
    fn the_last_two_of_each_kind_are_said_again_losses_first() {
        let mut outbox = Outbox::default();
        for step in 1..5 {
            outbox.keep(&checkpoint(step));
            outbox.keep(&digest(step));
            outbox.keep(&losses(step));
        }
        let expected = [losses(3), losses(4), digest(3), digest(4), checkpoint(3), checkpoint(4)];
        assert_eq!(again(&outbox), expected);
        assert_eq!(outbox.last_digest(), Some(&digest(4)));
    }

    #[test]
    fn a_new_generation_says_nothing_of_the_last_ones_steps_but_what_it_wrote() {
        let mut outbox = Outbox::default();
        let sample = Body::Sample(SampleWritten { step: 3, ..Default::default() });
        [losses(3), digest(3), checkpoint(3), sample.clone()].iter().for_each(|body| outbox.keep(body));
        outbox.begin();
        assert_eq!(again(&outbox), [checkpoint(3), sample]);
        assert_eq!(outbox.last_digest(), None);
    }

    #[test]
    fn a_step_back_makes_samples_and_scores_void() {
        let mut outbox = Outbox::default();
        let sample = Body::Sample(SampleWritten { step: 3, ..Default::default() });
        let scores = Body::Evaluation(EvaluationDone { step: 3, ..Default::default() });
        [checkpoint(3), sample.clone(), scores.clone()].iter().for_each(|body| outbox.keep(body));
        assert_eq!(again(&outbox), [checkpoint(3), sample, scores]);
        outbox.step_back();
        assert_eq!(again(&outbox), [checkpoint(3)]);
    }

    #[test]
    fn what_has_a_meaning_only_once_is_not_kept() {
        let mut outbox = Outbox::default();
        outbox.keep(&Body::Held(Held::default()));
        assert_eq!(again(&outbox), []);
    }
}
