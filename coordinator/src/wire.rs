//! Between protobuf messages and the machine's words.
//!
//! Everything a peer can send passes here first: texts are cut to a length and freed of control characters, durations
//! made finite. What cannot be understood becomes an error with a reason; nothing here may panic.

use began::{Equilibrium, Generation, Lane, LaneLosses, Step};
use began_proto::v1::{self as proto, coordinator_message, trainer_message};

use crate::machine::{
    Action, Activity, Body, Claim, Digest, Given, Heal, Heartbeat, Hello, Lease, Message, Opened, Orders, Past,
    Returning, Said, Status, TrainerId, Written,
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
    /// Steps below this one are in the journal for good.
    pub durable: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// A trainer's message in the machine's words.
///
/// # Errors
/// Why it cannot be understood.
pub fn said(message: proto::TrainerMessage) -> Result<Said, String> {
    use trainer_message::Body as Wire;
    let body = match message.body.ok_or("a message without a body, or of a newer protocol")? {
        Wire::Hello(hello) => {
            let returning = Box::new(returning(&hello)?);
            let hello = Hello {
                version: hello.version,
                trainer: TrainerId(clean(&hello.trainer, NAME)),
                node: hello.node,
                local_rank: hello.local_rank,
                host: clean(&hello.host, NAME),
                pid: hello.pid,
                device: clean(&hello.device, NAME),
                software: clean(&hello.software, NAME),
            };
            Body::Hello(hello, returning)
        }
        Wire::Losses(losses) => Body::Losses { step: step(losses.step)?, lanes: lanes(&losses.lanes) },
        Wire::Heartbeat(beat) => Body::Heartbeat(Heartbeat {
            activity: activity(beat.phase()),
            seconds: seconds(beat.phase_seconds),
            step: step(beat.step)?,
        }),
        Wire::Digest(digest) => Body::Digest(self::digest(&digest)?),
        Wire::Checkpoint(written) => {
            Body::Checkpoint(Written { step: step(written.step)?, error: clean(&written.error, TEXT) })
        }
        Wire::Sample(written) => {
            let diversity = if written.diversity.is_finite() { written.diversity.max(0.0) } else { 0.0 };
            Body::Sample(Written { step: step(written.step)?, error: clean(&written.error, TEXT) }, diversity)
        }
        Wire::Held(held) => Body::Held {
            step: held.step.map(step).transpose()?,
            digest: held.digest.as_ref().map(digest).transpose()?,
            lineage: bounded("lineage", held.lineage)?,
        },
        Wire::Recalled(recalled) => Body::Recalled {
            steps: recalled.steps.iter().map(past).collect::<Result<_, _>>()?,
            given: recalled.given.iter().map(given).collect::<Result<_, _>>()?,
        },
        Wire::Severed(severed) => Body::Severed(clean(&severed.reason, TEXT)),
        Wire::Ready(ready) => {
            Body::Ready { rendezvous: seconds(ready.rendezvous_seconds), heal: seconds(ready.heal_seconds) }
        }
        Wire::CheckpointUnusable(unusable) => {
            Body::Unusable(Written { step: step(unusable.step)?, error: clean(&unusable.reason, TEXT) })
        }
        Wire::Images(_) => return Err("measurements of images say nothing to the machine".into()),
        Wire::Evaluation(_) => return Err("scores of the model say nothing to the machine".into()),
        Wire::Failure(failure) => Body::Failure { reason: clean(&failure.reason, TEXT), for_all: failure.for_all },
    };
    let generation = Generation(bounded("generation", message.generation)?);
    Ok(Said { run: clean(&message.run, NAME), generation, body })
}

fn returning(hello: &proto::Hello) -> Result<Returning, String> {
    let claim = Claim {
        generation: Generation(bounded("generation", hello.generation)?),
        rank: began::Rank(hello.rank),
        world: hello.world_size,
    };
    Ok(Returning {
        step: hello.step.map(step).transpose()?,
        claim: (hello.generation > 0).then_some(claim),
        given: hello.given.as_ref().map(given).transpose()?,
        lineage: bounded("lineage", hello.lineage)?,
        remembers: step(hello.remembers)?,
    })
}

fn digest(digest: &proto::StateDigest) -> Result<Digest, String> {
    Ok(Digest {
        step: step(digest.step)?,
        digest: clean(&digest.digest, NAME),
        tensors: digest.tensors.iter().map(|t| (clean(&t.name, NAME), clean(&t.digest, NAME))).collect(),
    })
}

fn past(past: &proto::PastStep) -> Result<Past, String> {
    let equilibrium = past.equilibrium.as_ref().ok_or("a past step without its equilibrium")?;
    let in_order = (0..).zip(&past.losses).all(|(lane, losses)| losses.lane == lane);
    if !in_order {
        return Err(format!("the lanes of step {} are not in order", equilibrium.step));
    }
    Ok(Past { given: given(equilibrium)?, losses: lanes(&past.losses).into_iter().map(|(_, losses)| losses).collect() })
}

/// An equilibrium as a trainer remembers it.
fn given(given: &proto::Equilibrium) -> Result<Given, String> {
    let stall = began::equilibrium::Stall { sum: given.stall_sum, count: given.stall_count, best: given.stall_best };
    let orders = given.orders.unwrap_or_default();
    Ok(Given {
        equilibrium: Equilibrium { step: step(given.step)?, k: given.k, rate: given.rate, stall },
        m_global: given.m_global,
        orders: Orders {
            digest: orders.digest,
            checkpoint: orders.checkpoint,
            sample: orders.sample,
            stop: orders.stop,
            regroup: orders.regroup,
        },
    })
}

/// A duration off the wire, made finite, in whole milliseconds: a heartbeat is kept for every trainer and every second.
fn seconds(seconds: f64) -> f64 {
    if seconds.is_finite() { (seconds.clamp(0.0, 1e9) * 1e3).round() / 1e3 } else { 0.0 }
}

/// When whoever asks for a stop ends everything; zero: never.
#[must_use]
pub fn grace(request: &proto::ControlRequest) -> std::time::Duration {
    let seconds = request.grace_seconds;
    let sensible = seconds.is_finite() && seconds > 0.0;
    if sensible { std::time::Duration::from_millis((seconds.min(1e6) * 1e3) as u64) } else { Default::default() }
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
        Wire::Note => Ok(Action::Note),
        Wire::Unspecified => {
            Err(format!("there is no action {}: expected checkpoint, stop, sample or note", request.action))
        }
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

/// Numbers that count what a run does are nowhere near the end of theirs.
fn bounded(what: &str, number: u64) -> Result<u64, String> {
    if number > LAST_STEP { Err(format!("{what} {number}, which no run can reach")) } else { Ok(number) }
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
        let durable = self.durable.load(std::sync::atomic::Ordering::Relaxed);
        let equilibrium = |given: &Given| equilibrium(given, durable);
        let body = match message {
            Message::Welcome { generation } => Wire::Welcome(proto::Welcome {
                config: self.config.clone(),
                data_digest: self.data_digest.clone(),
                heartbeat_seconds: self.heartbeat_seconds,
                generation: generation.0,
            }),
            Message::Opened(opened) => Wire::Opened(opened_message(opened, durable)),
            Message::Lease(Lease { epoch, first_step, end_step, shards }) => Wire::Lease(proto::ShardLease {
                epoch: *epoch,
                first_step: first_step.0,
                end_step: end_step.0,
                shards: shards.clone(),
            }),
            Message::Equilibrium(given) => Wire::Equilibrium(equilibrium(given)),
            Message::Halt { digest } => Wire::Halt(proto::Halt { reason: reason(), digest: *digest }),
            Message::Recall(step) => Wire::Recall(proto::Recall { step: step.0 }),
            Message::WriteCheckpoint(given) => {
                Wire::WriteCheckpoint(proto::WriteCheckpoint { equilibrium: Some(equilibrium(given)) })
            }
            Message::Stop { failed, expelled, set_aside } => Wire::Stop(proto::Stop {
                reason: reason(),
                failed: *failed,
                expelled: *expelled,
                set_aside: *set_aside,
            }),
        };
        // Who is welcomed is in no generation yet, even if the next message opens one.
        let generation = if matches!(message, Message::Welcome { .. }) { 0 } else { generation.0 };
        proto::CoordinatorMessage { run: self.run.clone(), generation, body: Some(body) }
    }

    /// A refusal.
    #[must_use]
    pub fn refusal(&self, why: &str) -> proto::CoordinatorMessage {
        let body = coordinator_message::Body::Refused(proto::Refused { reason: why.to_owned() });
        proto::CoordinatorMessage { run: self.run.clone(), generation: 0, body: Some(body) }
    }
}

fn opened_message(opened: &Opened, durable: u64) -> proto::GenerationOpened {
    let Heal { rounds, from, to } = &opened.heal;
    proto::GenerationOpened {
        world_size: opened.world_size,
        rank: opened.rank.0,
        step: opened.given.equilibrium.step.0,
        checkpoint: opened.checkpoint.clone(),
        accept_changed_checkpoint: opened.accept_changed_checkpoint,
        equilibrium: Some(equilibrium(&opened.given, durable)),
        orders: Some(orders(opened.orders)),
        heal: Some(proto::Heal {
            rounds: *rounds,
            receives: from.is_some(),
            round: from.map_or(0, |(round, _)| round),
            from: from.map_or(0, |(_, rank)| rank.0),
            to: to.iter().map(|rank| rank.0).collect(),
        }),
        lineage: opened.lineage,
    }
}

fn orders(Orders { digest, checkpoint, sample, stop, regroup }: Orders) -> proto::Orders {
    proto::Orders { digest, checkpoint, sample, stop, regroup }
}

fn equilibrium(given: &Given, durable: u64) -> proto::Equilibrium {
    let Given { equilibrium: Equilibrium { step, k, rate, stall }, m_global, orders } = *given;
    proto::Equilibrium {
        step: step.0,
        k,
        rate,
        m_global,
        stall_sum: stall.sum,
        stall_count: stall.count,
        stall_best: stall.best,
        orders: Some(self::orders(orders)),
        durable,
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
            ..Default::default()
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
        let failure = proto::Failure { reason: format!("a\nb\x1b[2J{}", "x".repeat(9_999)), for_all: false };
        let body = Some(trainer_message::Body::Failure(failure));
        let said = said(proto::TrainerMessage { run: "r".into(), generation: 1, body });
        let Ok(Said { body: Body::Failure { reason, .. }, .. }) = said else { panic!("{said:?}") };
        assert!(reason.starts_with("a b [2J") && reason.chars().count() == TEXT);
    }

    #[test]
    fn huge_and_senseless_numbers_are_refused_or_made_finite() {
        let message = |body| proto::TrainerMessage { run: String::new(), generation: 7, body };
        let losses = proto::StepLosses { step: u64::MAX, ..Default::default() };
        assert!(said(message(Some(trainer_message::Body::Losses(losses)))).is_err_and(|why| why.contains("no run")));
        assert!(said(message(None)).is_err());
        let beat = proto::Heartbeat { phase: 99, phase_seconds: f64::NAN, ..Default::default() };
        let beat = said(message(Some(trainer_message::Body::Heartbeat(beat)))).map(|said| said.body);
        let expected = Heartbeat { activity: Activity::Unknown, seconds: 0.0, step: Step(0) };
        assert_eq!(beat, Ok(Body::Heartbeat(expected)));
    }
}
