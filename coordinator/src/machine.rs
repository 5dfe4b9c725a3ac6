//! The machine: decides everything about a run, and does nothing.
//!
//! [`Machine::handle`] takes an event and the time, and returns what is to be done and why. It must never read a clock,
//! touch a socket or a file, draw a random number or wait: the same events at the same times give the same decisions,
//! so that any history can be made up, replayed and tested.
//!
//! A run goes through phases. **Forming**: trainers come in until the world is complete (`forming`). **Running**: a
//! generation computes steps (`running`). **Regrouping**: the generation lost someone, or more are there; who holds the
//! highest step is found, and the next generation opens (`regrouping`, `opening`). **Ended**: everyone was told to stop.
//! What lasts from one generation to the next is the `course`.

mod clock;
mod course;
mod digests;
mod duties;
mod event;
mod forming;
mod leases;
mod losses;
mod members;
mod opening;
mod orders;
mod plan;
mod regrouping;
mod running;
mod setbacks;
mod status;

use std::collections::BTreeSet;
use std::time::Duration;

use began::{Generation, Rank, Step};

pub use clock::Clock;
pub use event::{
    Act, Action, Activity, Back, Body, Claim, ConnectionId, Decision, Digest, Event, Given, Heal, Heartbeat, Hello,
    Lease, Message, Note, Opened, Orders, Past, Returning, Said, Ticket, TrainerId, Written,
};
pub use plan::{Plan, PlanError, Resume};
pub use status::{Status, TrainerView};

use course::Course;
use forming::Forming;
use members::{Member, MemberId, Members};
use regrouping::{Cause, Regrouping};
use running::Running;

/// How long those who leave a generation have to say what they hold, at least: one who computes looks up after a pass only.
pub const HELD_WAIT: Duration = Duration::from_secs(10);
/// How long one has to write its state at the end of a run: its own attempts on a full disk take up to a minute.
pub const SAVE_WAIT: Duration = Duration::from_secs(90);
/// How long the end of a run waits for the last sample grid, which nobody needs.
pub const SAMPLE_WAIT: Duration = Duration::from_secs(30);
/// How long a restarted coordinator waits for its trainers to come back, at least.
pub const RETURN_WAIT: Duration = Duration::from_secs(2);
/// How long one that joins a running generation waits for others to join along with it.
pub const JOIN_SETTLE: Duration = Duration::from_millis(150);
/// Generations in a row that end before their first step, after which the run ends.
pub const MOST_FRUITLESS: u32 = 40;

/// The machine. See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    plan: Plan,
    members: Members,
    /// The generation that is open or was last.
    generation: Generation,
    /// The highest that any trainer has spoken of: a coordinator that was killed may not have written it down.
    highest: Generation,
    course: Course,
    phase: Phase,
    /// Places that nobody may take any more.
    aside: BTreeSet<(u32, u32)>,
    /// Generations in a row that ended before their first step.
    fruitless: u32,
    /// The longest that a step took.
    slowest: Option<Duration>,
    /// The last decision's reason that people may want to see.
    reason: String,
}

#[derive(Clone, Debug)]
enum Phase {
    Forming(Forming),
    Running(Box<Running>),
    Regrouping(Box<Regrouping>),
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
        Ok(Self {
            members: Members::default(),
            generation: plan.generation,
            highest: plan.generation,
            course: Course::new(&plan),
            phase: Phase::Forming(Forming::new()),
            aside: BTreeSet::new(),
            fruitless: 0,
            slowest: None,
            reason: String::new(),
            plan,
        })
    }

    /// How often [`Event::Tick`] is to come.
    #[must_use]
    pub fn tick_interval(&self) -> Duration {
        tick_interval(self.plan.config.run.heartbeat_timeout)
    }

    /// The generation that is open or was last; 0 before this coordinator opened one.
    #[must_use]
    pub fn generation(&self) -> Generation {
        if matches!(self.phase, Phase::Forming(_)) && self.generation == self.plan.generation {
            return Generation(0);
        }
        self.generation
    }

    /// Whether the run is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Takes an event in, at `now` since the start, and decides. `now` never goes back, and stands still while the
    /// coordinator itself was not awake ([`Clock`]).
    pub fn handle(&mut self, event: Event, now: Duration) -> Decisions {
        let mut out = Decisions::new();
        match event {
            Event::Started => self.started(&mut out),
            Event::Said { connection, message } => self.said(connection, message, now, &mut out),
            Event::Broken { connection, reason } => self.broken(connection, &reason, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
            Event::Control { ticket, action, reason, grace } => {
                if action == Action::Note {
                    let answer = Ok(self.course.step());
                    out.push(Decision { act: Act::Answer { ticket, answer }, why: reason.clone() });
                    out.push(Decision { act: Act::Note(self.note("chaos", None)), why: reason });
                    return out;
                }
                let answer = self.control(action, &reason, grace, now, &mut out);
                let why = match &answer {
                    Ok(step) => format!("{action:?} asked for ({reason}): done after step {step}"),
                    Err(why) => format!("{action:?} asked for ({reason}): refused, {why}"),
                };
                // The answer goes out before an end that the request may have brought.
                out.insert(0, Decision { act: Act::Answer { ticket, answer }, why: why.clone() });
                out.insert(1, Decision { act: Act::Note(self.note("control", None)), why });
            }
            Event::Abort { reason } => self.end_generation(Cause::End(reason), now, &mut out),
        }
        out
    }

    fn said(&mut self, connection: ConnectionId, message: Said, now: Duration, out: &mut Decisions) {
        let Said { run, generation, body } = message;
        if let Body::Hello(hello, returning) = body {
            return self.hello(connection, (&run, generation), hello, *returning, now, out);
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
        let id = member.id;
        if run != self.plan.run {
            let why = format!("{}: a message for run {run:?}, this is {:?}", member.describe(), self.plan.run);
            return ignore(out, connection, why);
        }
        // Who is in no generation speaks of the one it was in last; and what lies on the disk, or is said for good, may
        // cross the opening of a generation on the way. Nothing else may.
        let may_cross = matches!(
            body,
            Body::Heartbeat(_)
                | Body::Failure { .. }
                | Body::Held { .. }
                | Body::Recalled { .. }
                | Body::Severed(_)
                | Body::Checkpoint(_)
                | Body::Sample(..)
        );
        // One that works in this generation has left an earlier one already.
        let repeated = matches!(body, Body::Held { .. }) && member.standing == members::Standing::Working;
        let late = generation < self.generation && (!may_cross || repeated);
        if generation > self.generation || late {
            let why =
                format!("{}: a message from generation {generation}, this is {}", member.describe(), self.generation);
            return ignore(out, connection, why);
        }
        member.heard = now;
        let current = generation == self.generation;
        match body {
            Body::Heartbeat(beat) => member.heartbeat = Some((beat, now)),
            Body::Failure { reason, for_all } => self.failed(id, &reason, for_all, now, out),
            Body::Severed(_) if !current => {}
            other => {
                if let Err(why) = self.in_phase(id, other, now, out) {
                    ignore(out, connection, format!("{}: {why}", self.members.describe(id)));
                }
            }
        }
    }

    /// A message that only some phases can use; an error is the reason to refuse it.
    fn in_phase(&mut self, from: MemberId, body: Body, now: Duration, out: &mut Decisions) -> Result<(), String> {
        match (&self.phase, body) {
            // Sent before the end arrived.
            (Phase::Ended { .. }, _) => Ok(()),
            (_, Body::Held { step, digest, lineage }) => self.held(from, step, digest, lineage, now, out),
            (_, Body::Recalled { steps, given }) => self.recalled(from, &steps, &given, now, out),
            (Phase::Forming(_), Body::Severed(_)) => {
                self.forming_outside(now, out);
                Ok(())
            }
            (Phase::Forming(_), body) => self.stash(from, body),
            (_, Body::Checkpoint(written)) => self.checkpoint(from, written, now, out),
            (_, Body::Sample(written, diversity)) => self.sample(written, diversity, now, out),
            (Phase::Running(_), Body::Losses { step, lanes }) => self.losses(from, step, &lanes, now, out),
            (Phase::Running(_), Body::Digest(digest)) => self.digest(from, digest, now, out),
            (Phase::Running(_), Body::Ready { rendezvous, heal }) => {
                self.ready(from, rendezvous, heal, out);
                Ok(())
            }
            (Phase::Running(_), Body::Severed(reason)) => {
                let text = format!("{} lost its peers: {reason}", self.members.describe(from));
                self.end_generation(Cause::Lost(text), now, out);
                Ok(())
            }
            (Phase::Running(_), Body::Unusable(written)) => {
                self.unusable(from, written, now, out);
                Ok(())
            }
            (Phase::Regrouping(_), Body::Severed(_)) => {
                self.severed_in_order(from, now, out);
                Ok(())
            }
            // Sent before the halt arrived: nothing that is still of use, and nobody's fault.
            (Phase::Regrouping(_), _) => Ok(()),
            (Phase::Running(_), Body::Hello(..) | Body::Heartbeat(_) | Body::Failure { .. }) => Ok(()),
        }
    }

    fn broken(&mut self, connection: ConnectionId, reason: &str, now: Duration, out: &mut Decisions) {
        let Some(member) = self.members.on(connection) else {
            return;
        };
        let text = format!("{} is lost: {reason}; {}", member.describe(), member.last_doing());
        let id = member.id;
        self.lost(id, text, now, out);
    }

    fn failed(&mut self, id: MemberId, reason: &str, for_all: bool, now: Duration, out: &mut Decisions) {
        let text = format!("{} failed: {reason}", self.members.describe(id));
        match self.phase {
            // One that cannot start will not start the next time either: nothing to wait for.
            Phase::Forming(_) if !self.is_reuniting() => {
                self.members.remove(id);
                self.end_generation(Cause::End(text), now, out);
            }
            _ if for_all => {
                if let Some(member) = self.members.remove(id) {
                    self.note_about("lost", &member, text.clone(), out);
                    self.forget_orders_of(&member, out);
                    match self.phase {
                        Phase::Regrouping(_) => {
                            self.end_generation(Cause::Hopeless(text), now, out);
                            self.one_fewer(id, now, out);
                        }
                        _ => self.end_generation(Cause::Hopeless(text), now, out),
                    }
                }
            }
            _ => self.lost(id, text, now, out),
        }
    }

    /// A trainer is gone, whichever way that showed.
    fn lost(&mut self, id: MemberId, text: String, now: Duration, out: &mut Decisions) {
        let needed = self.is_needed(id);
        let Some(member) = self.members.remove(id) else {
            return;
        };
        if self.has_ended() {
            return;
        }
        self.note_about("lost", &member, text.clone(), out);
        self.forget_orders_of(&member, out);
        match &self.phase {
            Phase::Running(_) if needed => self.end_generation(Cause::Lost(text), now, out),
            Phase::Regrouping(_) => self.one_fewer(id, now, out),
            // One of a generation that was coming back: it cannot come back whole any more.
            Phase::Forming(_) if member.rank.is_some() => self.forming_outside(now, out),
            _ => {}
        }
    }

    /// Puts a trainer out of the run: it is told to end, and another may come in its place unless it is set aside.
    fn expel(&mut self, id: MemberId, set_aside: bool, why: String, out: &mut Decisions) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        let stop = Message::Stop { failed: true, expelled: true, set_aside };
        send(out, vec![member.connection], stop, why.clone());
        out.push(Decision { act: Act::Drop(member.connection), why: why.clone() });
        self.note_about("lost", &member, why, out);
        self.forget_orders_of(&member, out);
    }

    fn tick(&mut self, now: Duration, out: &mut Decisions) {
        self.hear_silence(now, out);
        match &self.phase {
            Phase::Forming(_) => self.forming_tick(now, out),
            Phase::Running(_) => self.running_tick(now, out),
            Phase::Regrouping(_) => self.regrouping_tick(now, out),
            Phase::Ended { .. } => {}
        }
    }

    fn hear_silence(&mut self, now: Duration, out: &mut Decisions) {
        if self.has_ended() {
            return;
        }
        let limit = self.heartbeat_timeout();
        for id in self.members.silent(now, limit) {
            let Some(member) = self.members.get(id) else {
                continue;
            };
            let silence = member.silence(now).as_secs_f64();
            let connection = member.connection;
            let text = format!(
                "{} has been silent for {silence:.1} s (run.heartbeat_timeout is {} s); {}",
                member.describe(),
                self.plan.config.run.heartbeat_timeout,
                member.last_doing()
            );
            // Should it wake up, it finds its stream closed and comes back as one that is outside.
            out.push(Decision { act: Act::Drop(connection), why: text.clone() });
            self.lost(id, text, now, out);
        }
    }

    fn control(
        &mut self,
        action: Action,
        reason: &str,
        grace: Duration,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<Step, String> {
        match (&self.phase, action) {
            (Phase::Running(running), _) => {
                let step = self.course.step();
                if self.course.stopping.is_some() {
                    return Ok(Step(step.0.saturating_sub(1)));
                }
                // What is sent already cannot change. If it holds the end, the end brings all that can be asked for.
                if self.course.newest().orders.stop {
                    return Ok(step);
                }
                // Orders ride with the next equilibrium: two steps, and the checkpoint.
                let seconds = running.step_seconds().unwrap_or(0.0);
                let spent = now.saturating_sub(running.since).as_secs_f64().max(seconds);
                let too_slow = !grace.is_zero() && 3.0 * spent > grace.as_secs_f64();
                self.course.asked.add(action, reason);
                if action == Action::Stop && too_slow {
                    let text = format!(
                        "a stop was asked for ({reason}) within {:.0} s, less than it takes to finish the step",
                        grace.as_secs_f64()
                    );
                    self.end_generation(Cause::StopNow(text), now, out);
                    return Ok(Step(step.0.saturating_sub(1)));
                }
                Ok(step.next())
            }
            (Phase::Forming(_), Action::Stop) if self.plan.generation == Generation(0) => {
                let step = self.plan.start().step;
                self.end(false, step, format!("stopped on request before the first step ({reason})"), out);
                Ok(step)
            }
            (Phase::Forming(_), Action::Stop) | (Phase::Regrouping(_), _) => {
                self.course.asked.add(action, reason);
                Ok(self.course.step())
            }
            (Phase::Forming(_), _) => Err("the run is still waiting for its trainers".into()),
            (Phase::Ended { .. }, _) => Err(format!("the run has ended: {}", self.reason)),
        }
    }

    /// Tells everyone to stop, and ends.
    fn end(&mut self, failed: bool, step: Step, why: String, out: &mut Decisions) {
        self.reason.clone_from(&why);
        if self.generation > self.plan.generation {
            out.push(Decision { act: Act::Close(self.generation), why: why.clone() });
        }
        let stop = Message::Stop { failed, expelled: false, set_aside: false };
        send(out, self.members.connections(), stop, why.clone());
        let note = Note { step, ..self.note("stop", None) };
        out.push(Decision { act: Act::Note(note), why: why.clone() });
        self.phase = Phase::Ended { failed, step };
        out.push(Decision { act: Act::End { failed, step }, why });
    }

    /// The last checkpoint, and how to go on from it.
    fn how_to_resume(&self) -> String {
        let command = &self.plan.resume_command;
        match self.course.checkpoints.last_key_value() {
            Some((step, _)) => format!("resume from step {step} with `{command}`"),
            None => "there is no checkpoint to go on from".to_owned(),
        }
    }

    fn heartbeat_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.plan.config.run.heartbeat_timeout)
    }

    /// How long those who leave a generation have to say what they hold. One that hangs is silent, and noticed by that.
    fn held_wait(&self) -> Duration {
        HELD_WAIT.max(self.slowest.map_or(self.step_timeout() / 4, |slowest| 3 * slowest))
    }

    fn step_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.plan.config.run.step_timeout)
    }

    /// The step the run is in.
    fn step(&self) -> Step {
        match &self.phase {
            Phase::Ended { step, .. } => *step,
            _ => self.course.step(),
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
    Duration::from_secs_f64((heartbeat_timeout / 40.0).clamp(0.005, 0.04))
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
