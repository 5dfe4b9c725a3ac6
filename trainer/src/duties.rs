//! What a trainer does outside the step: digests, checkpoints and samples as ordered, and its part when a generation ends.
//!
//! Nothing here changes the state.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use began::Equilibrium;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{self as wire, Phase};

use crate::checkpoint::{self, Provenance};
use crate::digest::{Digest, digest};
use crate::pictures;
use crate::reduce::Place;
use crate::session::Incoming;
use crate::state::State;
use crate::training::{End, Trainer};

impl Trainer<'_> {
    pub(crate) fn send_digest(&self, state: &State, digest: Digest, place: Place) {
        let tensor = |(name, digest)| wire::TensorDigest { name, digest };
        let rank_zero = place.rank == 0;
        let tensors = if rank_zero { digest.tensors.into_iter().map(tensor).collect() } else { Vec::new() };
        self.session.send(Up::Digest(wire::StateDigest { step: state.step.0, digest: digest.whole, tensors }));
    }

    /// Writes a checkpoint and says so; that it could not be written is the coordinator's to judge.
    pub fn write_checkpoint(&self, state: &State, equilibrium: &Equilibrium, digest: &str) {
        let started = Instant::now();
        let epoch = self.feed.order.epoch(state.step);
        let about = Provenance { run: self.session.run(), config: self.config, epoch, digest };
        let written = checkpoint::write(&self.run, state, equilibrium, &about);
        let seconds = started.elapsed().as_secs_f64();
        let (path, error) = outcome(written);
        self.session.send(Up::Checkpoint(wire::CheckpointWritten { step: state.step.0, path, error, seconds }));
    }

    pub(crate) fn draw_samples(&self, state: &State) {
        let carry = began::equilibrium::carry(state.step, self.config.objective.carry_steps);
        let drawn = pictures::draw(&self.run, state, state.step, carry, self.config.run.seed, &self.feed.data);
        let (path, error) = outcome(drawn);
        self.session.send(Up::Sample(wire::SampleWritten { step: state.step.0, path, error, diversity: 0.0 }));
    }

    /// After a halt: says what this trainer holds, writes it down if asked to, and waits for what comes next.
    ///
    /// # Errors
    /// If nothing comes.
    pub fn held(&self, state: &State) -> Result<End> {
        self.session.activity().enter(Phase::Idle);
        self.session.send(Up::Held(wire::Held { step: Some(state.step.0), digest: None }));
        let bound = Duration::from_secs_f64(self.config.run.step_timeout + 30.0);
        let started = Instant::now();
        while let Some(incoming) = self.session.next(bound.saturating_sub(started.elapsed())) {
            match incoming {
                Incoming::WriteCheckpoint(equilibrium) => {
                    let digest = digest(state, &equilibrium)?;
                    self.write_checkpoint(state, &equilibrium, &digest.whole);
                }
                Incoming::Stop { reason, failed } => return Ok(End::Stop { reason, failed }),
                Incoming::Lost(reason) => return Ok(End::Lost(reason)),
                Incoming::Opened(number, _) => {
                    bail!("the coordinator opened generation {number}, which this version cannot join after a halt")
                }
                Incoming::Equilibrium(..) | Incoming::Reduced(_) | Incoming::Halt(_) => {}
            }
        }
        bail!("the coordinator halted the run and then said nothing for {} s", bound.as_secs())
    }

    /// After a failed sum: the coordinator knows who died, or will in a moment.
    ///
    /// # Errors
    /// If it says nothing.
    pub fn severed(&self, why: &str) -> Result<End> {
        self.session.activity().enter(Phase::Idle);
        let bound = Duration::from_secs_f64(self.config.run.heartbeat_timeout * 2.0 + 10.0);
        let started = Instant::now();
        while let Some(incoming) = self.session.next(bound.saturating_sub(started.elapsed())) {
            match incoming {
                Incoming::Halt(reason) => return Ok(End::Halt(reason)),
                Incoming::Stop { reason, failed } => return Ok(End::Stop { reason, failed }),
                Incoming::Lost(reason) => return Ok(End::Lost(reason)),
                _ => {}
            }
        }
        bail!("{why}; the coordinator knew of no lost trainer within {} s", bound.as_secs())
    }
}

fn outcome(written: Result<PathBuf>) -> (String, String) {
    match written {
        Ok(path) => (path.display().to_string(), String::new()),
        Err(error) => (String::new(), format!("{error:#}")),
    }
}
