//! What a trainer does outside the step: digests, checkpoints and samples as ordered, scores as configured.
//!
//! Nothing here changes the state.

use anyhow::Result;
use began::Equilibrium;
use began_proto::v1 as wire;
use began_session::Say;

use crate::checkpoint_writer::Order;
use crate::digest::Digest;
use crate::pictures;
use crate::state::State;
use crate::training::Trainer;

impl Trainer<'_> {
    /// Says the digest, with that of each tensor; the session keeps those to itself unless this is rank 0 or it is asked.
    pub(crate) fn send_digest(&self, state: &State, digest: Digest) {
        let tensor = |(name, digest)| wire::TensorDigest { name, digest };
        let tensors = digest.tensors.into_iter().map(tensor).collect();
        self.session.say(Say::Digest(wire::StateDigest { step: state.step.0, digest: digest.whole, tensors }));
    }

    /// Hands a copy of the state to the writer, which reports when it is done.
    ///
    /// # Errors
    /// If memory is short.
    pub fn write_checkpoint(&self, state: &State, equilibrium: &Equilibrium, last: bool) -> Result<()> {
        if let Some(writer) = &self.writer {
            let (state, epoch) = (state.snapshot(&self.config.model)?, self.feed.order.epoch(state.step));
            writer.write(Order { state, equilibrium: *equilibrium, epoch, last });
        }
        Ok(())
    }

    /// Has the state scored, where that is due.
    pub(crate) fn score(&self, state: &State) {
        if let Some(evaluator) = &self.evaluator {
            evaluator.score_if_due(state, began::equilibrium::carry(state.step, self.config.objective.carry_steps));
        }
    }

    pub(crate) fn draw_samples(&self, state: &State) {
        let carry = began::equilibrium::carry(state.step, self.config.objective.carry_steps);
        let drawn = pictures::draw(&self.run, state, state.step, carry, self.config.run.seed, &self.feed.data);
        let step = state.step.0;
        self.session.say(Say::Sample(match drawn {
            Ok((path, diversity)) => {
                wire::SampleWritten { step, path: path.display().to_string(), error: String::new(), diversity }
            }
            Err(error) => wire::SampleWritten { step, error: format!("{error:#}"), ..Default::default() },
        }));
    }
}
