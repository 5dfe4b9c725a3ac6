//! A generation at work: losses come in, the equilibrium goes out.
//!
//! The step that counts is in [`Machine::losses`]: when all lanes are in, the course advances once, in lane order, and the
//! answer goes to everyone. No step may be skipped, answered twice with different numbers, or go on past a stop.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use began::{Lane, LaneLosses, Step};

use super::course::{Completed, Course, Ordered};
use super::digests::DigestBook;
use super::event::{Act, Decision, Given, Message, Orders};
use super::leases::{LeaseBook, Reach};
use super::losses::{StepLosses, Taken};
use super::members::{Member, MemberId, Standing};
use super::plan::Plan;
use super::regrouping::Cause;
use super::{Decisions, JOIN_SETTLE, Machine, Phase, send};

/// Steps over which the pace is taken.
const PACE: usize = 32;

/// A generation at work.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// In rank order.
    pub(super) world: Vec<MemberId>,
    losses: StepLosses,
    /// Of the step before, to recognise what is sent again.
    earlier: Option<StepLosses>,
    /// When the step in progress began.
    pub(super) since: Duration,
    leases: LeaseBook,
    pub(super) digests: DigestBook,
    pub(super) samples_due: BTreeSet<Step>,
    /// Samples that a coordinator before this one ordered, of which it may be said again that they are drawn.
    pub(super) samples_past: BTreeSet<Step>,
    /// Those that are connected and hold the state, and the longest that it took.
    ready: BTreeSet<MemberId>,
    rendezvous: f64,
    heal: f64,
    /// Whether a step was completed in this generation.
    pub(super) fruitful: bool,
    /// When the last steps ended.
    pace: VecDeque<Duration>,
}

impl Running {
    /// A generation that begins where the course stands, with what is due there.
    pub(super) fn new(plan: &Plan, course: &Course, world: Vec<MemberId>, due: Orders, now: Duration) -> Self {
        let (step, run) = (course.step(), &plan.config.run);
        let size = world.len();
        let mut digests = DigestBook::new(size, step);
        if due.digest {
            digests.expect(step);
        }
        let mut samples_due = BTreeSet::new();
        if due.sample {
            samples_due.insert(step);
        }
        // A generation that opens to end does no further step.
        if course.newest().orders.sample && !due.stop {
            samples_due.insert(step.next());
        }
        Self {
            losses: StepLosses::new(step, run.lanes),
            earlier: None,
            since: now,
            leases: LeaseBook::new(&plan.order, step, run.steps, size as u32, run.lanes),
            digests,
            samples_due,
            samples_past: BTreeSet::new(),
            ready: BTreeSet::new(),
            rendezvous: 0.0,
            heal: 0.0,
            fruitful: false,
            pace: VecDeque::from([now]),
            world,
        }
    }

    pub(super) fn world_size(&self) -> u32 {
        self.world.len() as u32
    }

    /// Over the last steps.
    fn images_per_second(&self, images_a_step: f64) -> f64 {
        self.step_seconds().map_or(0.0, |seconds| images_a_step / seconds)
    }

    /// How long a step takes, over the last ones.
    pub(super) fn step_seconds(&self) -> Option<f64> {
        let (first, last) = (self.pace.front()?, self.pace.back()?);
        (last > first).then(|| (*last - *first).as_secs_f64() / (self.pace.len() - 1) as f64)
    }

    /// The step in progress is complete; the one of `next` begins. Returns how long it took.
    fn turn(&mut self, next: Given, done: Orders, now: Duration) -> f64 {
        let state = next.equilibrium.step;
        let lanes = self.losses.lanes();
        self.earlier = Some(std::mem::replace(&mut self.losses, StepLosses::new(state, lanes)));
        let seconds = now.saturating_sub(self.since).as_secs_f64();
        self.since = now;
        self.pace.push_back(now);
        if self.pace.len() > PACE {
            self.pace.pop_front();
        }
        if done.digest {
            self.digests.expect(state);
        }
        // Due from the moment it is ordered: samples need no equilibrium, so they may be drawn before the last losses of
        // their step arrive here on another stream.
        if next.orders.sample {
            self.samples_due.insert(state.next());
        }
        seconds
    }
}

impl Machine {
    /// The losses of one trainer; the last of a step advance the run.
    pub(super) fn losses(
        &mut self,
        from: MemberId,
        step: Step,
        losses: &[(Lane, LaneLosses)],
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let Some(member) = self.members.get(from) else {
            return Ok(());
        };
        let own = member.lanes(running.world_size(), self.plan.config.run.lanes);
        if step.next() == self.course.step() {
            let again = match running.earlier.as_mut().filter(|earlier| earlier.step() == step) {
                // After a restart of the coordinator the step before is known by its equilibrium only.
                None => Taken::Again,
                Some(earlier) => earlier.add(own, losses)?,
            };
            return match again {
                // The answer may be lost on the way, so it is given once more.
                Taken::Again => {
                    let again = Message::Equilibrium(self.course.newest());
                    send(out, vec![member.connection], again, format!("losses of step {step} came again"));
                    Ok(())
                }
                Taken::Waiting | Taken::Complete => Err(format!("new losses of step {step}, which is complete")),
            };
        }
        // Said again on a new stream, long after it was complete.
        if step.next() < self.course.step() {
            return Ok(());
        }
        if self.course.stopping.is_some() || step != self.course.step() {
            return Err(format!("losses of step {step}, the run is in step {}", self.course.step()));
        }
        if running.losses.add(own, losses)? == Taken::Complete {
            self.advance(now, out);
        }
        Ok(())
    }

    /// All losses of the step in progress are in.
    fn advance(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Running(running) = &mut self.phase else {
            return;
        };
        let losses = running.losses.complete().unwrap_or_default();
        let given = self.course.newest();
        let completed = match self.course.advance(losses) {
            Ok(completed) => completed,
            Err(error) => return self.not_finite(given.equilibrium.step, &error.to_string(), now, out),
        };
        let room = running.world_size() < self.plan.config.run.lanes;
        let settled = self.members.iter().any(|member| {
            member.rank.is_none()
                && matches!(member.standing, Standing::Outside(_))
                && member.benched_until <= now
                && now.saturating_sub(member.since) >= JOIN_SETTLE
        });
        let next = self.course.newest();
        if room && settled && self.course.stopping.is_none() && !next.orders.stop {
            self.course.order_regroup();
        }
        let next = self.course.newest();
        let (step, state, done) = (completed.record.step, next.equilibrium.step, completed.done);
        let why = format!("step {step} is complete");
        send(out, self.members.connections_of(&running.world), Message::Equilibrium(next), why);
        let seconds = running.turn(next, done, now);
        running.fruitful = true;
        let config = &self.plan.config.run;
        let images_per_second = running.images_per_second(f64::from(config.lanes) * f64::from(config.batch));
        if done.checkpoint {
            let writer = running.world.first().copied();
            self.course.ordered.insert(state, Ordered { writer, equilibrium: next.equilibrium });
        }
        self.fruitless = 0;
        self.slowest = self.slowest.max(Some(Duration::from_secs_f64(seconds)));
        let fired = completed.fired.clone();
        self.record(completed, seconds, images_per_second, out);
        if let Some(firing) = fired
            && self.guard_fired(firing, now, out)
        {
            return;
        }
        if self.course.stopping.is_some() {
            self.stop_if_done(now, out);
        } else if done.regroup {
            self.regroup_in_order(now, out);
        } else {
            self.lease(Reach::Needed, out);
        }
    }

    /// A step is complete: into the journal with it.
    pub(super) fn record(&mut self, completed: Completed, seconds: f64, images_per_second: f64, out: &mut Decisions) {
        let Completed { record, drawn, changed, .. } = completed;
        let (step, generation) = (record.step, self.generation);
        let why = format!("step {step} is complete");
        out.push(Decision { act: Act::Step { record, generation, seconds, images_per_second, drawn }, why });
        if !changed.is_empty() {
            let world = self.world_size();
            let lanes = self.plan.config.run.lanes;
            let named: Vec<String> = changed
                .iter()
                .take(4)
                .map(|lane| {
                    let holder = self.members.iter().find(|m| m.lanes(world, lanes).contains(&lane.0));
                    format!("lane {lane} (now computed by {})", holder.map(Member::describe).unwrap_or_default())
                })
                .collect();
            let text = format!(
                "step {step} was computed again, and {} of {lanes} lanes gave other losses than before: {}; trainers that \
                 should give the same bits do not",
                changed.len(),
                named.join(", ")
            );
            out.push(Decision { act: Act::Note(super::Note { step, ..self.note("corruption", None) }), why: text });
        }
        if self.course.unproven.is_some_and(|checkpoint| checkpoint <= step) {
            self.course.unproven = None;
            self.prune(format!("the losses of step {step} are finite, so the checkpoint before it is sound"), out);
        }
    }

    fn world_size(&self) -> u32 {
        match &self.phase {
            Phase::Running(running) => running.world_size(),
            _ => self.members.iter().filter(|member| member.rank.is_some()).count() as u32,
        }
    }

    /// A trainer is connected to its peers and holds the state.
    pub(super) fn ready(&mut self, from: MemberId, rendezvous: f64, heal: f64, out: &mut Decisions) {
        let Phase::Running(running) = &mut self.phase else {
            return;
        };
        if !running.world.contains(&from) || !running.ready.insert(from) {
            return;
        }
        running.rendezvous = running.rendezvous.max(rendezvous);
        running.heal = running.heal.max(heal);
        if running.ready.len() == running.world.len() {
            let text = format!(
                "generation {} is ready: all {} trainers are connected after {:.3} s and hold step {} after {:.3} s",
                self.generation,
                running.world.len(),
                running.rendezvous,
                running.digests.start(),
                running.heal
            );
            out.push(Decision { act: Act::Note(self.note("ready", None)), why: text });
        }
    }

    /// Gives out the leases that are due.
    pub(super) fn lease(&mut self, reach: Reach, out: &mut Decisions) {
        let Phase::Running(running) = &mut self.phase else {
            return;
        };
        let step = self.course.step();
        for (rank, lease) in running.leases.due(&self.plan.order, step, reach) {
            let (epoch, shards) = (lease.epoch, lease.shards.len());
            let why = format!("rank {rank} may read {shards} shards in epoch {epoch}");
            let to: Vec<MemberId> = running.world.get(rank.0 as usize).copied().into_iter().collect();
            send(out, self.members.connections_of(&to), Message::Lease(lease.clone()), why.clone());
            out.push(Decision { act: Act::Lease { rank, generation: self.generation, lease }, why });
        }
    }

    pub(super) fn running_tick(&mut self, now: Duration, out: &mut Decisions) {
        self.stop_if_done(now, out);
        let limit = self.step_timeout();
        let Phase::Running(running) = &self.phase else {
            return;
        };
        if now.saturating_sub(running.since) > limit {
            let (text, blamed) = self.stall(running, now);
            return self.stalled(text, &blamed, now, out);
        }
        if self.course.stopping.is_none() {
            self.lease(Reach::Ahead, out);
        }
    }

    /// Who holds a step up: a sentence, and who they are.
    fn stall(&self, running: &Running, now: Duration) -> (String, Vec<MemberId>) {
        let lanes = self.plan.config.run.lanes;
        let world = || self.members.iter().filter(|member| member.rank.is_some());
        let describe = |member: &Member| format!("{}, {}", member.describe(), member.doing(now));
        let (what, blamed): (String, Vec<&Member>) = match self.course.stopping {
            Some(step) => {
                let missing = running.digests.missing();
                let writer = self.course.ordered.get(&step).and_then(|ordered| ordered.writer);
                let owes = |member: &&Member| {
                    member.rank.is_some_and(|rank| missing.contains(&rank)) || writer == Some(member.id)
                };
                (format!("the last orders, at step {step},"), world().filter(owes).collect())
            }
            None => {
                // Those who only wait for others are not to blame, unless everyone says so.
                let owes = |member: &&Member| running.losses.owes(member.lanes(running.world_size(), lanes));
                let busy: Vec<&Member> = world().filter(|member| member.is_busy()).collect();
                let blamed = if busy.is_empty() { world().filter(owes).collect() } else { busy };
                (format!("step {}", self.course.step()), blamed)
            }
        };
        let mut named: Vec<&&Member> = blamed.iter().collect();
        named.sort_by_key(|member| member.rank);
        let who: Vec<String> = named.iter().take(8).map(|member| describe(member)).collect();
        let more = named.len().saturating_sub(8);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        let limit = self.plan.config.run.step_timeout;
        let text = format!(
            "{what} did not finish within {limit} s (run.step_timeout); held up by {}{more}",
            if who.is_empty() { "nobody in particular".to_owned() } else { who.join("; ") }
        );
        (text, blamed.iter().map(|member| member.id).collect())
    }

    /// A step takes too long. Who holds it up is put out, unless that would be everyone: then it is not a trainer that hangs.
    fn stalled(&mut self, text: String, blamed: &[MemberId], now: Duration, out: &mut Decisions) {
        let Phase::Running(running) = &self.phase else {
            return;
        };
        let busy = |id: &MemberId| self.members.get(*id).is_some_and(Member::is_busy);
        let owes_the_last = self.course.stopping.is_some() && !blamed.is_empty();
        if !owes_the_last && !blamed.iter().any(busy) {
            // All wait for each other: it is their connections that are lost.
            return self.end_generation(Cause::Lost(text), now, out);
        }
        if blamed.len() >= running.world.len() {
            return self.end_generation(Cause::Hopeless(text), now, out);
        }
        for &id in blamed {
            let why = format!("{} is put out of the run: {text}", self.members.describe(id));
            self.expel(id, false, why, out);
        }
        self.end_generation(Cause::Lost(text), now, out);
    }
}
