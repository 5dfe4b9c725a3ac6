//! A generation at work: losses come in, the equilibrium goes out, orders are carried out and checked off.
//!
//! The step that counts is in [`Machine::losses`]: when all lanes are in, the equilibrium advances once, in lane order,
//! and the answer goes to everyone. No step may be skipped, answered twice with different numbers, or go on past a stop.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use began::{Lane, LaneLosses, Step};

use super::digests::DigestBook;
use super::event::{Act, Action, ConnectionId, Decision, Given, Message, Orders};
use super::halting::Cause;
use super::leases::{LeaseBook, Reach};
use super::losses::{StepLosses, Taken};
use super::members::Member;
use super::orders::Asked;
use super::plan::Plan;
use super::{Decisions, Machine, Phase, send};

/// Equilibria that are kept: survivors of a halt hold a state no older than the step before the one in progress.
const KEPT: usize = 4;
/// Steps over which the pace is taken.
const PACE: usize = 32;

/// A generation at work.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// Streams in rank order.
    pub(super) world: Vec<ConnectionId>,
    /// The step the generation began with.
    start: Step,
    /// As sent, oldest first; the last is for the step in progress.
    given: VecDeque<Given>,
    losses: StepLosses,
    /// Of the step before, to recognise what is sent again.
    earlier: Option<StepLosses>,
    /// When the step in progress began.
    pub(super) since: Duration,
    leases: LeaseBook,
    pub(super) digests: DigestBook,
    pub(super) asked: Asked,
    /// Checkpoints and sample grids that were ordered and not yet reported.
    pub(super) checkpoints_due: BTreeSet<Step>,
    pub(super) samples_due: BTreeSet<Step>,
    /// A checkpoint that is not yet known to be sound.
    pub(super) unproven: Option<Step>,
    /// Set once the last step is answered: the state everyone holds.
    pub(super) stopping: Option<Step>,
    /// When the last steps ended.
    pace: VecDeque<Duration>,
}

impl Running {
    pub(super) fn new(plan: &Plan, world: Vec<ConnectionId>, now: Duration) -> Self {
        let (equilibrium, run) = (plan.start(), &plan.config.run);
        let step = equilibrium.step;
        let mut asked = Asked::default();
        let orders = asked.orders(step, run);
        let size = world.len();
        Self {
            start: step,
            given: VecDeque::from([Given { equilibrium, m_global: 0.0, orders }]),
            losses: StepLosses::new(step, run.lanes),
            earlier: None,
            since: now,
            leases: LeaseBook::new(&plan.order, step, run.steps, size as u32, run.lanes),
            digests: DigestBook::new(size, step),
            asked,
            checkpoints_due: BTreeSet::new(),
            samples_due: orders.sample.then_some(step.next()).into_iter().collect(),
            unproven: None,
            stopping: None,
            pace: VecDeque::from([now]),
            world,
        }
    }

    /// For the step in progress, as sent.
    pub(super) fn given(&self) -> Given {
        self.given[self.given.len() - 1]
    }

    pub(super) fn step(&self) -> Step {
        self.given().equilibrium.step
    }

    pub(super) fn start(&self) -> Step {
        self.start
    }

    /// The equilibria that are still known.
    pub(super) fn known(&self) -> &VecDeque<Given> {
        &self.given
    }

    /// Of the step in progress.
    pub(super) fn losses_so_far(&self) -> &StepLosses {
        &self.losses
    }

    pub(super) fn checkpoints_due(&self) -> &BTreeSet<Step> {
        &self.checkpoints_due
    }

    pub(super) fn world_size(&self) -> u32 {
        self.world.len() as u32
    }

    /// Over the last steps.
    pub(super) fn images_per_second(&self, images_a_step: f64) -> f64 {
        match (self.pace.front(), self.pace.back()) {
            (Some(first), Some(last)) if last > first => {
                (self.pace.len() - 1) as f64 * images_a_step / (*last - *first).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// The step in progress is complete, and `done` is due; `next` begins. Returns how long the step took.
    fn turn(&mut self, next: Given, done: Orders, now: Duration) -> f64 {
        let state = next.equilibrium.step;
        self.given.push_back(next);
        if self.given.len() > KEPT {
            self.given.pop_front();
        }
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
        if done.checkpoint {
            self.checkpoints_due.insert(state);
        }
        // Due from the moment it is ordered: samples need no equilibrium, so they may be drawn before the last losses of
        // their step arrive here on another stream.
        if next.orders.sample {
            self.samples_due.insert(state.next());
        }
        if done.stop {
            self.stopping = Some(state);
        }
        seconds
    }

    /// Takes a request of a person in; returns the step after which it is done.
    pub(super) fn ask(&mut self, action: Action, reason: &str) -> Step {
        let sent = self.given();
        // What is sent already cannot change. If it holds the end, the end brings all that can be asked for.
        if sent.orders.stop || self.stopping.is_some() {
            return if self.stopping.is_some() { Step(self.step().0.saturating_sub(1)) } else { self.step() };
        }
        self.asked.add(action, reason);
        self.step().next()
    }
}

impl Machine {
    /// The losses of one trainer; the last of a step advance the run.
    pub(super) fn losses(
        &mut self,
        from: ConnectionId,
        step: Step,
        losses: &[(Lane, LaneLosses)],
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let Some(member) = self.members.on(from) else {
            return Ok(());
        };
        let own = member.lanes(running.world_size(), self.plan.config.run.lanes);
        if let Some(earlier) = running.earlier.as_mut().filter(|earlier| earlier.step() == step) {
            return match earlier.add(own, losses)? {
                // The answer may be lost on the way, so it is given once more.
                Taken::Again => {
                    let again = Message::Equilibrium(running.given());
                    send(out, vec![from], again, format!("losses of step {step} came again"));
                    Ok(())
                }
                Taken::Waiting | Taken::Complete => Err(format!("new losses of step {step}, which is complete")),
            };
        }
        if running.stopping.is_some() || step != running.step() {
            return Err(format!("losses of step {step}, the run is in step {}", running.step()));
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
        let config = &self.plan.config;
        let given = running.given();
        let losses = running.losses.complete().unwrap_or_default();
        let (equilibrium, record) = match given.equilibrium.advance(&config.objective, &config.optimizer, &losses) {
            Ok(advanced) => advanced,
            Err(error) => {
                let state = given.equilibrium.step;
                return self.end_generation(Cause::Diverged { text: error.to_string(), state }, now, out);
            }
        };
        let (step, state) = (record.step, equilibrium.step);
        let done = given.orders;
        let orders = if done.stop { Default::default() } else { running.asked.orders(state, &config.run) };
        let next = Given { equilibrium, m_global: record.m_global, orders };
        let why = format!("step {step} is complete");
        send(out, running.world.clone(), Message::Equilibrium(next), why.clone());

        let seconds = running.turn(next, done, now);
        let lanes = config.run.lanes;
        let images_per_second = running.images_per_second(f64::from(lanes) * f64::from(config.run.batch));
        let generation = self.generation;
        out.push(Decision { act: Act::Step { record, generation, seconds, images_per_second }, why });
        if running.unproven.is_some_and(|checkpoint| checkpoint <= step) {
            running.unproven = None;
            let why = format!("the losses of step {step} are finite, so the checkpoint before it is sound");
            out.push(Decision { act: Act::Prune, why });
        }
        if done.stop {
            self.stop_if_done(now, out);
        } else {
            self.lease(Reach::Needed, out);
        }
    }

    /// Gives out the leases that are due.
    pub(super) fn lease(&mut self, reach: Reach, out: &mut Decisions) {
        let Phase::Running(running) = &mut self.phase else {
            return;
        };
        let step = running.step();
        for (rank, lease) in running.leases.due(&self.plan.order, step, reach) {
            let (epoch, shards) = (lease.epoch, lease.shards.len());
            let why = format!("rank {rank} may read {shards} shards in epoch {epoch}");
            let to = running.world.get(rank.0 as usize).copied().into_iter().collect();
            send(out, to, Message::Lease(lease.clone()), why.clone());
            out.push(Decision { act: Act::Lease { rank, generation: self.generation, lease }, why });
        }
    }

    pub(super) fn running_tick(&mut self, now: Duration, out: &mut Decisions) {
        self.stop_if_done(now, out);
        let limit = self.step_timeout();
        let Phase::Running(running) = &self.phase else {
            return;
        };
        let waited = now.saturating_sub(running.since);
        if waited > limit {
            let text = self.stall(running, now);
            return self.end_generation(Cause::Stalled(text), now, out);
        }
        if running.stopping.is_none() {
            self.lease(Reach::Ahead, out);
        }
    }

    /// Who holds a step up.
    fn stall(&self, running: &Running, now: Duration) -> String {
        let lanes = self.plan.config.run.lanes;
        let world = || self.members.iter().filter(|member| member.rank.is_some());
        let describe = |member: &Member| format!("{}, {}", member.describe(), member.doing(now));
        let (what, blamed): (String, Vec<&Member>) = match running.stopping {
            Some(step) => {
                let missing = running.digests.missing();
                let writes = !running.checkpoints_due.is_empty();
                let owes = |member: &&Member| {
                    member.rank.is_some_and(|rank| missing.contains(&rank) || (writes && rank.0 == 0))
                };
                (format!("the last orders, at step {step},"), world().filter(owes).collect())
            }
            None => {
                // Those who only wait for others are not to blame, unless everyone says so.
                let owes = |member: &&Member| running.losses.owes(member.lanes(running.world_size(), lanes));
                let busy: Vec<&Member> = world().filter(|member| member.is_busy()).collect();
                let blamed = if busy.is_empty() { world().filter(owes).collect() } else { busy };
                (format!("step {}", running.step()), blamed)
            }
        };
        let mut named: Vec<&&Member> = blamed.iter().collect();
        named.sort_by_key(|member| member.rank);
        let who: Vec<String> = named.iter().take(8).map(|member| describe(member)).collect();
        let more = named.len().saturating_sub(8);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        let limit = self.plan.config.run.step_timeout;
        format!("{what} did not finish within {limit} s (run.step_timeout); held up by {}{more}", who.join("; "))
    }
}
