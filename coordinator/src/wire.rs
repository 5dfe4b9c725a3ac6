//! Between protobuf messages and the machine's words.
//!
//! Everything a peer can send passes here first: texts are cut to a length and freed of control characters, durations
//! made finite. What cannot be understood becomes an error with a reason; nothing here may panic.

use began::{Equilibrium, Generation, Lane, LaneLosses, Step};
use began_proto::v1::{self as proto, coordinator_message, trainer_message};

use crate::machine::{
    Action, Activity, Body, Digest, Given, Heartbeat, Hello, Lease, Message, Opened, Orders, Said, Status, TrainerId,
    Written,
};

/// Characters of a name, a host, a device.
const NAME: usize = 200;
/// Characters of an error or a reason.
const TEXT: usize = 2_000;
/// Beyond any run; keeps arithmetic on what peers send away from its limits.
const LAST_STEP: u64 = 1 << 56;

/// What every message to a trainer may need.
#[derive(Clone, Debug)]
pub struct Letterhead {
    /// The run's identity.
    pub run: String,
    /// `run.toml`, whole.
    pub config: String,
    /// Digest of the prepared data.
    pub data_digest: String,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: f64,
}

/// A trainer's message in the machine's words.
///
/// # Errors
/// Why it cannot be understood.
pub fn said(message: proto::TrainerMessage) -> Result<Said, String> {
    use trainer_message::Body as Wire;
    let body = match message.body.ok_or("a message without a body, or of a newer protocol")? {
        Wire::Hello(hello) => Body::Hello(Hello {
            version: hello.version,
            trainer: TrainerId(clean(&hello.trainer, NAME)),
            node: hello.node,
            local_rank: hello.local_rank,
            host: clean(&hello.host, NAME),
            pid: hello.pid,
            device: clean(&hello.device, NAME),
            software: clean(&hello.software, NAME),
        }),
        Wire::Losses(losses) => Body::Losses { step: step(losses.step)?, lanes: lanes(&losses.lanes) },
        Wire::Heartbeat(beat) => Body::Heartbeat(Heartbeat {
            activity: activity(beat.phase()),
            seconds: if beat.phase_seconds.is_finite() { beat.phase_seconds.clamp(0.0, 1e9) } else { 0.0 },
            step: step(beat.step)?,
        }),
        Wire::Digest(digest) => Body::Digest(Digest {
            step: step(digest.step)?,
            digest: clean(&digest.digest, NAME),
            tensors: digest.tensors.iter().map(|t| (clean(&t.name, NAME), clean(&t.digest, NAME))).collect(),
        }),
        Wire::Checkpoint(written) => {
            Body::Checkpoint(Written { step: step(written.step)?, error: clean(&written.error, TEXT) })
        }
        Wire::Sample(written) => {
            Body::Sample(Written { step: step(written.step)?, error: clean(&written.error, TEXT) })
        }
        Wire::Held(held) => Body::Held { step: step(held.step)?, losses: lanes(&held.losses) },
        Wire::Failure(failure) => Body::Failure(clean(&failure.reason, TEXT)),
    };
    Ok(Said { run: clean(&message.run, NAME), generation: Generation(message.generation), body })
}

/// What a person asks for.
///
/// # Errors
/// If it is nothing this version knows.
pub fn action(request: &proto::ControlRequest) -> Result<Action, String> {
    use proto::control_request::Action as Wire;
    match request.action() {
        Wire::Checkpoint => Ok(Action::Checkpoint),
        Wire::Stop => Ok(Action::Stop),
        Wire::Sample => Ok(Action::Sample),
        Wire::Unspecified => Err(format!("there is no action {}: expected checkpoint, stop or sample", request.action)),
    }
}

/// A text of a peer, as it may be logged and kept.
#[must_use]
pub fn text(text: &str) -> String {
    clean(text, TEXT)
}

fn clean(text: &str, longest: usize) -> String {
    text.chars().take(longest).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn step(step: u64) -> Result<Step, String> {
    if step > LAST_STEP { Err(format!("step {step}, which no run can reach")) } else { Ok(Step(step)) }
}

fn lanes(losses: &[proto::LaneLosses]) -> Vec<(Lane, LaneLosses)> {
    losses.iter().map(|l| (Lane(l.lane), LaneLosses { real: l.real, fake: l.fake, drawn: l.drawn })).collect()
}

fn activity(phase: proto::Phase) -> Activity {
    match phase {
        proto::Phase::Unspecified => Activity::Unknown,
        proto::Phase::Starting => Activity::Starting,
        proto::Phase::Rendezvous => Activity::Rendezvous,
        proto::Phase::Compute => Activity::Compute,
        proto::Phase::Data => Activity::Data,
        proto::Phase::Reduce => Activity::Reduce,
        proto::Phase::Equilibrium => Activity::Equilibrium,
        proto::Phase::Write => Activity::Write,
        proto::Phase::Idle => Activity::Idle,
    }
}

fn phase(activity: Activity) -> proto::Phase {
    match activity {
        Activity::Unknown => proto::Phase::Unspecified,
        Activity::Starting => proto::Phase::Starting,
        Activity::Rendezvous => proto::Phase::Rendezvous,
        Activity::Compute => proto::Phase::Compute,
        Activity::Data => proto::Phase::Data,
        Activity::Reduce => proto::Phase::Reduce,
        Activity::Equilibrium => proto::Phase::Equilibrium,
        Activity::Write => proto::Phase::Write,
        Activity::Idle => proto::Phase::Idle,
    }
}

impl Letterhead {
    /// A message to a trainer as it travels; `why` is the decision's reason.
    #[must_use]
    pub fn message(&self, generation: Generation, message: &Message, why: &str) -> proto::CoordinatorMessage {
        use coordinator_message::Body as Wire;
        let reason = || why.to_owned();
        let body = match message {
            Message::Welcome => Wire::Welcome(proto::Welcome {
                config: self.config.clone(),
                data_digest: self.data_digest.clone(),
                heartbeat_seconds: self.heartbeat_seconds,
            }),
            Message::Opened(opened) => Wire::Opened(opened_message(opened)),
            Message::Lease(Lease { epoch, first_step, end_step, shards }) => Wire::Lease(proto::ShardLease {
                epoch: *epoch,
                first_step: first_step.0,
                end_step: end_step.0,
                shards: shards.clone(),
            }),
            Message::Equilibrium(given) => Wire::Equilibrium(equilibrium(given)),
            Message::Halt => Wire::Halt(proto::Halt { reason: reason() }),
            Message::WriteCheckpoint(given) => {
                Wire::WriteCheckpoint(proto::WriteCheckpoint { equilibrium: Some(equilibrium(given)) })
            }
            Message::Stop { failed } => Wire::Stop(proto::Stop { reason: reason(), failed: *failed }),
        };
        // Who is welcomed is in no generation yet, even if the next message opens one.
        let generation = if matches!(message, Message::Welcome) { 0 } else { generation.0 };
        proto::CoordinatorMessage { run: self.run.clone(), generation, body: Some(body) }
    }

    /// A refusal.
    #[must_use]
    pub fn refusal(&self, why: &str) -> proto::CoordinatorMessage {
        let body = coordinator_message::Body::Refused(proto::Refused { reason: why.to_owned() });
        proto::CoordinatorMessage { run: self.run.clone(), generation: 0, body: Some(body) }
    }
}

fn opened_message(opened: &Opened) -> proto::GenerationOpened {
    proto::GenerationOpened {
        world_size: opened.world_size,
        rank: opened.rank.0,
        step: opened.given.equilibrium.step.0,
        checkpoint: opened.checkpoint.clone(),
        accept_changed_checkpoint: opened.accept_changed_checkpoint,
        equilibrium: Some(equilibrium(&opened.given)),
    }
}

fn equilibrium(given: &Given) -> proto::Equilibrium {
    let Given { equilibrium: Equilibrium { step, k, rate, stall }, m_global, orders } = *given;
    let Orders { digest, checkpoint, sample, stop } = orders;
    proto::Equilibrium {
        step: step.0,
        k,
        rate,
        m_global,
        stall_sum: stall.sum,
        stall_count: stall.count,
        stall_best: stall.best,
        orders: Some(proto::Orders { digest, checkpoint, sample, stop }),
    }
}

/// How the run stands, as it travels; the caller adds what the machine does not know.
#[must_use]
pub fn status(status: Status) -> proto::StatusResponse {
    let trainers = status
        .trainers
        .into_iter()
        .map(|view| proto::TrainerStatus {
            trainer: view.hello.trainer.0,
            rank: view.rank.map(|rank| rank.0),
            node: view.hello.node,
            local_rank: view.hello.local_rank,
            host: view.hello.host,
            pid: view.hello.pid,
            device: view.hello.device,
            phase: phase(view.activity).into(),
            phase_seconds: view.activity_seconds,
            seconds_since_heard: view.silence.as_secs_f64(),
            first_lane: view.lanes.start,
            end_lane: view.lanes.end,
        })
        .collect();
    proto::StatusResponse {
        phase: status.phase.into(),
        reason: status.reason,
        step: status.step.0,
        generation: status.generation.0,
        trainers,
        last_checkpoint: status.last_checkpoint.map(|step| step.0),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_writes_cannot_reach_the_log_with_control_characters_or_at_any_length() {
        let failure = proto::Failure { reason: format!("a\nb\x1b[2J{}", "x".repeat(9_999)) };
        let body = Some(trainer_message::Body::Failure(failure));
        let said = said(proto::TrainerMessage { run: "r".into(), generation: 1, body });
        let Ok(Said { body: Body::Failure(reason), .. }) = said else { panic!("{said:?}") };
        assert!(reason.starts_with("a b [2J") && reason.chars().count() == TEXT);
    }

    #[test]
    fn huge_and_senseless_numbers_are_refused_or_made_finite() {
        let message = |body| proto::TrainerMessage { run: String::new(), generation: u64::MAX, body };
        let losses = proto::StepLosses { step: u64::MAX, ..Default::default() };
        assert!(said(message(Some(trainer_message::Body::Losses(losses)))).is_err_and(|why| why.contains("no run")));
        assert!(said(message(None)).is_err());
        let beat = proto::Heartbeat { phase: 99, phase_seconds: f64::NAN, step: 0 };
        let beat = said(message(Some(trainer_message::Body::Heartbeat(beat)))).map(|said| said.body);
        let expected = Heartbeat { activity: Activity::Unknown, seconds: 0.0, step: Step(0) };
        assert_eq!(beat, Ok(Body::Heartbeat(expected)));
    }
}
