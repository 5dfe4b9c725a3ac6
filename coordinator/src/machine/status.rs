//! How the run stands, for people and for `Status`. Reads, and never changes anything.

use std::ops::Range;
use std::time::Duration;

use began::{Generation, Rank, Step};

use super::event::{Activity, Hello};
use super::{Machine, Phase};

/// How the run stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// "forming", "running", "regrouping" or "ended".
    pub phase: &'static str,
    /// The last decision's reason.
    pub reason: String,
    /// The step it is in.
    pub step: Step,
    /// The generation it is in.
    pub generation: Generation,
    /// The trainers that are there.
    pub trainers: Vec<TrainerView>,
    /// The newest checkpoint.
    pub last_checkpoint: Option<Step>,
}

/// One trainer, as it was last heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerView {
    /// Who it is.
    pub hello: Hello,
    /// Its place.
    pub rank: Option<Rank>,
    /// What it said it does.
    pub activity: Activity,
    /// For how long.
    pub activity_seconds: f64,
    /// How long nothing was heard of it.
    pub silence: Duration,
    /// Its lanes.
    pub lanes: Range<u32>,
}

impl Machine {
    /// How the run stands at `now`.
    #[must_use]
    pub fn status(&self, now: Duration) -> Status {
        let (phase, world) = match &self.phase {
            Phase::Forming(_) => ("forming", self.plan.world),
            Phase::Running(running) => ("running", running.world_size()),
            Phase::Regrouping(_) => ("regrouping", self.plan.world),
            Phase::Ended { .. } => ("ended", self.plan.world),
        };
        let mut trainers: Vec<TrainerView> = self
            .members
            .iter()
            .map(|member| {
                let (activity, activity_seconds) = match &member.heartbeat {
                    Some((beat, at)) => (beat.activity, beat.seconds + now.saturating_sub(*at).as_secs_f64()),
                    None => (Activity::Unknown, 0.0),
                };
                TrainerView {
                    hello: member.hello.clone(),
                    rank: member.rank,
                    activity,
                    activity_seconds,
                    silence: member.silence(now),
                    lanes: member.lanes(world, self.plan.config.run.lanes),
                }
            })
            .collect();
        trainers.sort_by_key(|view| (view.hello.node, view.hello.local_rank));
        Status {
            phase,
            reason: self.reason.clone(),
            step: self.step(),
            generation: self.generation(),
            trainers,
            last_checkpoint: self.course.checkpoints.last_key_value().map(|(step, _)| *step),
        }
    }
}
