//! The machine: decides everything about a run, and does nothing.
//!
//! [`Machine::handle`] takes an event and the time, and returns what is to be done and why. It must never read a clock,
//! touch a socket or a file, draw a random number or wait: the same events at the same times give the same decisions,
//! so that any history can be made up, replayed and tested.
//!
//! A run goes through four phases. **Forming**: trainers come in until the world is complete. **Running**: a generation
//! computes steps (`generation`). **Halting**: the generation lost someone; who holds the highest step is found and
//! asked to write it (`halting`). **Ended**: everyone was told to stop.

mod clock;
mod digests;
mod duties;
mod event;
mod forming;
mod generation;
mod halting;
mod leases;
mod losses;
mod members;
mod orders;
mod plan;
mod status;

use std::collections::BTreeSet;
use std::time::Duration;

use began::{Generation, Rank, Step};

pub use event::{
    Act, Action, Activity, Body, ConnectionId, Decision, Digest, Event, Given, Heartbeat, Hello, Lease, Message, Note,
    Opened, Orders, Said, Ticket, TrainerId, Written,
};
pub use plan::{Plan, PlanError, Resume};
pub use status::{Status, TrainerView};

use clock::Clock;
use generation::Running;
use halting::{Cause, Halting};
use members::{Member, Members};

/// How long survivors have to say what they hold.
pub const HELD_WAIT: Duration = Duration::from_secs(10);
/// How long a survivor has to write its state.
pub const SAVE_WAIT: Duration = Duration::from_secs(60);
/// How long the end of a run waits for the last sample grid, which nobody needs.
pub const SAMPLE_WAIT: Duration = Duration::from_secs(30);

/// The machine. See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    plan: Plan,
    clock: Clock,
    members: Members,
    generation: Generation,
    phase: Phase,
    checkpoints: BTreeSet<Step>,
    /// The last decision's reason that people may want to see.
    reason: String,
}

#[derive(Clone, Debug)]
enum Phase {
    Forming { since: Duration },
    Running(Box<Running>),
    Halting(Box<Halting>),
    Ended { failed: bool, step: Step },
}

/// The decisions of one event, in order.
type Decisions = Vec<Decision>;

impl Machine {
    /// The machine of a run that nobody has joined yet.
    ///
    /// # Errors
    /// If the plan does not hold.
    pub fn new(plan: Plan) -> Result<Self, PlanError> {
        plan.check()?;
        let longest_gap = 5 * tick_interval(plan.config.run.heartbeat_timeout);
        Ok(Self {
            clock: Clock::new(longest_gap),
            members: Members::default(),
            generation: plan.generation,
            phase: Phase::Forming { since: Duration::ZERO },
            checkpoints: plan.checkpoints.iter().copied().collect(),
            reason: String::new(),
            plan,
        })
    }

    /// How often [`Event::Tick`] is to come; longer gaps count as the coordinator's own absence.
    #[must_use]
    pub fn tick_interval(&self) -> Duration {
        tick_interval(self.plan.config.run.heartbeat_timeout)
    }

    /// The generation that is open or was last; 0 before this coordinator opened one.
    #[must_use]
    pub fn generation(&self) -> Generation {
        if self.generation == self.plan.generation { Generation(0) } else { self.generation }
    }

    /// Whether the run is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Takes an event in, at `now` since the start, and decides.
    pub fn handle(&mut self, event: Event, now: Duration) -> Decisions {
        let now = self.clock.at(now);
        let mut out = Decisions::new();
        match event {
            Event::Started => self.started(&mut out),
            Event::Said { connection, message } => self.said(connection, message, now, &mut out),
            Event::Broken { connection, reason } => self.broken(connection, &reason, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
            Event::Control { ticket, action, reason } => {
                let answer = self.control(action, &reason, &mut out);
                let why = match &answer {
                    Ok(step) => format!("{action:?} asked for ({reason}): done after step {step}"),
                    Err(why) => format!("{action:?} asked for ({reason}): refused, {why}"),
                };
                // The answer goes out before an end that the request may have brought.
                out.insert(0, Decision { act: Act::Answer { ticket, answer }, why: why.clone() });
                out.insert(1, Decision { act: Act::Note(self.note("control", None)), why });
            }
            Event::Abort { reason } => self.end_generation(Cause::Aborted(reason), now, &mut out),
        }
        out
    }

    fn said(&mut self, connection: ConnectionId, message: Said, now: Duration, out: &mut Decisions) {
        let Said { run, generation, body } = message;
        if let Body::Hello(hello) = body {
            return self.hello(connection, &run, hello, now, out);
        }
        let member = match self.members.on_mut(connection) {
            Some(member) => member,
            None => {
                return ignore(
                    out,
                    connection,
                    "a message before hello, or from a trainer that is not in the run".into(),
                );
            }
        };
        if run != self.plan.run {
            let why = format!("{}: a message for run {run:?}, this is {:?}", member.describe(), self.plan.run);
            return ignore(out, connection, why);
        }
        // A heartbeat or a failure may cross the opening of a generation on the way; nothing else may.
        let may_cross = matches!(body, Body::Heartbeat(_) | Body::Failure(_));
        if generation > self.generation || (!may_cross && generation < self.generation) {
            let why =
                format!("{}: a message from generation {generation}, this is {}", member.describe(), self.generation);
            return ignore(out, connection, why);
        }
        member.heard = now;
        match body {
            Body::Heartbeat(beat) => member.heartbeat = Some((beat, now)),
            Body::Failure(reason) => self.failed(connection, &reason, now, out),
            other => {
                if let Err(why) = self.in_phase(connection, other, now, out) {
                    let who = self.members.on(connection).map(Member::describe).unwrap_or_default();
                    ignore(out, connection, format!("{who}: {why}"));
                }
            }
        }
    }

    /// A message that only some phases can use; an error is the reason to refuse it.
    fn in_phase(&mut self, from: ConnectionId, body: Body, now: Duration, out: &mut Decisions) -> Result<(), String> {
        match (&self.phase, body) {
            (Phase::Running(_), Body::Losses { step, lanes }) => self.losses(from, step, &lanes, now, out),
            (Phase::Running(_), Body::Digest(digest)) => self.digest(from, digest, now, out),
            (Phase::Running(_), Body::Checkpoint(written)) => self.checkpoint(from, written, now, out),
            (Phase::Running(_), Body::Sample(written)) => self.sample(written, now, out),
            (Phase::Halting(_), Body::Held { step, losses }) => self.held(from, step, &losses, now, out),
            (Phase::Halting(_), Body::Checkpoint(written)) => self.saved(from, written, now, out),
            // Sent before the halt arrived: nothing that is still of use, and nobody's fault.
            (Phase::Halting(_) | Phase::Ended { .. }, _) => Ok(()),
            (Phase::Running(_), Body::Held { step, .. }) => Err(format!("says it holds step {step}, nobody asked")),
            (Phase::Forming { .. }, _) => Err("a message of a step before there is a generation".into()),
            (Phase::Running(_), Body::Hello(_) | Body::Heartbeat(_) | Body::Failure(_)) => Ok(()),
        }
    }

    fn broken(&mut self, connection: ConnectionId, reason: &str, now: Duration, out: &mut Decisions) {
        let Some(member) = self.members.on(connection) else {
            return;
        };
        let text = format!("{} is lost: {reason}; {}", member.describe(), member.last_doing());
        self.lost(connection, text, now, out);
    }

    fn failed(&mut self, connection: ConnectionId, reason: &str, now: Duration, out: &mut Decisions) {
        let Some(member) = self.members.on(connection) else {
            return;
        };
        let text = format!("{} failed: {reason}", member.describe());
        match self.phase {
            // One that cannot start will not start the next time either: nothing to wait for.
            Phase::Forming { .. } => {
                self.members.remove(connection);
                self.end_generation(Cause::Lost(text), now, out);
            }
            _ => self.lost(connection, text, now, out),
        }
    }

    /// A trainer is gone, whichever way that showed.
    fn lost(&mut self, connection: ConnectionId, text: String, now: Duration, out: &mut Decisions) {
        if matches!(self.phase, Phase::Ended { .. }) {
            self.members.remove(connection);
            return;
        }
        let needed = self.is_needed(connection);
        let Some(member) = self.members.remove(connection) else {
            return;
        };
        self.note_about("lost", &member, text.clone(), out);
        match &mut self.phase {
            Phase::Running(_) if needed => self.end_generation(Cause::Lost(text), now, out),
            Phase::Halting(_) => self.fewer_survivors(connection, now, out),
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration, out: &mut Decisions) {
        self.hear_silence(now, out);
        match &self.phase {
            Phase::Forming { .. } => self.forming_tick(now, out),
            Phase::Running(_) => self.running_tick(now, out),
            Phase::Halting(_) => self.halting_tick(now, out),
            Phase::Ended { .. } => {}
        }
    }

    fn hear_silence(&mut self, now: Duration, out: &mut Decisions) {
        if self.has_ended() {
            return;
        }
        let limit = self.heartbeat_timeout();
        for connection in self.members.silent(now, limit) {
            let Some(member) = self.members.on(connection) else {
                continue;
            };
            let silence = member.silence(now).as_secs_f64();
            let text = format!(
                "{} has been silent for {silence:.1} s (run.heartbeat_timeout is {} s); {}",
                member.describe(),
                self.plan.config.run.heartbeat_timeout,
                member.last_doing()
            );
            // Its stream is still open: should it wake up, it must not go on by itself.
            send(out, vec![connection], Message::Stop { failed: true }, text.clone());
            self.lost(connection, text, now, out);
        }
    }

    fn control(&mut self, action: Action, reason: &str, out: &mut Decisions) -> Result<Step, String> {
        match (&mut self.phase, action) {
            (Phase::Running(running), _) => Ok(running.ask(action, reason)),
            (Phase::Forming { .. }, Action::Stop) => {
                let step = self.plan.start().step;
                self.end(false, step, format!("stopped on request before the first step ({reason})"), out);
                Ok(step)
            }
            (Phase::Forming { .. }, _) => Err("the run is still waiting for its trainers".into()),
            (Phase::Halting(_), _) => Err(format!("the run is about to end: {}", self.reason)),
            (Phase::Ended { .. }, _) => Err(format!("the run has ended: {}", self.reason)),
        }
    }

    /// Tells everyone to stop, and ends.
    fn end(&mut self, failed: bool, step: Step, why: String, out: &mut Decisions) {
        self.reason.clone_from(&why);
        if self.generation > self.plan.generation {
            out.push(Decision { act: Act::Close(self.generation), why: why.clone() });
        }
        send(out, self.members.connections(), Message::Stop { failed }, why.clone());
        let note = Note { step, ..self.note("stop", None) };
        out.push(Decision { act: Act::Note(note), why: why.clone() });
        self.phase = Phase::Ended { failed, step };
        out.push(Decision { act: Act::End { failed, step }, why });
    }

    /// The last checkpoint, and how to go on from it.
    fn how_to_resume(&self) -> String {
        let command = &self.plan.resume_command;
        match self.checkpoints.last() {
            Some(step) => format!("resume from step {step} with `{command}`"),
            None => "there is no checkpoint to go on from".to_owned(),
        }
    }

    fn heartbeat_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.plan.config.run.heartbeat_timeout)
    }

    fn step_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.plan.config.run.step_timeout)
    }

    /// The step the run is in.
    fn step(&self) -> Step {
        match &self.phase {
            Phase::Forming { .. } => self.plan.start().step,
            Phase::Running(running) => running.step(),
            Phase::Halting(halting) => halting.step(),
            Phase::Ended { step, .. } => *step,
        }
    }

    fn note(&self, kind: &'static str, rank: Option<Rank>) -> Note {
        Note { kind, step: self.step(), generation: self.generation, rank, node: None }
    }

    fn note_about(&mut self, kind: &'static str, member: &Member, text: String, out: &mut Decisions) {
        self.reason.clone_from(&text);
        let note = Note { node: Some(member.hello.node), ..self.note(kind, member.rank) };
        out.push(Decision { act: Act::Note(note), why: text });
    }
}

fn tick_interval(heartbeat_timeout: f64) -> Duration {
    Duration::from_secs_f64((heartbeat_timeout / 10.0).clamp(0.005, 0.1))
}

fn send(out: &mut Decisions, to: Vec<ConnectionId>, message: Message, why: impl Into<String>) {
    if !to.is_empty() {
        out.push(Decision { act: Act::Send { to, message }, why: why.into() });
    }
}

fn ignore(out: &mut Decisions, connection: ConnectionId, why: String) {
    out.push(Decision { act: Act::Ignore(connection), why });
}

#[cfg(test)]
mod made_up;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
