//! The course of a run: what lasts from one generation to the next. Equilibria, what is recorded, what is on the disk, what
//! people asked for.
//!
//! An equilibrium is a function of the losses, so whoever brings the losses of a step can bring the course up to date; and a
//! step that is computed again must give the same bits. Nothing here knows who is in the run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use began::guard::{Firing, Watch};
use began::{Equilibrium, Lane, LaneLosses, RunConfig, Step, StepRecord};

use super::event::{Given, Orders, Past};
use super::members::MemberId;
use super::orders::Asked;
use super::plan::Plan;

/// Equilibria that are kept: members hold states no older than the step before the one in progress.
const KEPT: usize = 4;

/// A checkpoint that was ordered and is not reported yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    /// Who writes it; nobody knows after a restart of the coordinator.
    pub(super) writer: Option<MemberId>,
    pub(super) equilibrium: Equilibrium,
}

/// A step that became complete.
#[derive(Clone, Debug)]
pub(super) struct Completed {
    pub(super) record: StepRecord,
    pub(super) drawn: u64,
    /// Whether the journal has not got it yet.
    pub(super) fresh: bool,
    /// What was ordered for the state after it.
    pub(super) done: Orders,
    pub(super) fired: Option<Firing>,
    /// Lanes whose losses were others when the step was computed before.
    pub(super) changed: Vec<Lane>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Course {
    config: RunConfig,
    /// As sent, oldest first, of consecutive steps; the last is for the step in progress.
    given: VecDeque<Given>,
    /// What was sent for steps that are computed again, or by a coordinator before this one.
    promised: BTreeMap<Step, Given>,
    /// The last complete step's losses.
    last: Option<(Step, Vec<LaneLosses>)>,
    /// The first step that the journal has not got.
    pub(super) recorded: Step,
    /// The lineage that the journal's last steps belong to.
    pub(super) recorded_lineage: u64,
    pub(super) asked: Asked,
    /// Whole on the disk, each with the equilibrium that belongs to it.
    pub(super) checkpoints: BTreeMap<Step, Equilibrium>,
    pub(super) ordered: BTreeMap<Step, Ordered>,
    /// The highest state whose digest all trainers agreed on.
    pub(super) agreed: Step,
    /// A checkpoint that is not yet known to be sound.
    pub(super) unproven: Option<Step>,
    /// The last state, once it is ordered.
    pub(super) stopping: Option<Step>,
    /// How often the run has gone back.
    pub(super) lineage: u64,
    /// How often a guard made it do so.
    pub(super) rollbacks: u32,
    watch: Watch,
    /// The equilibrium of step 0.
    origin: Equilibrium,
    /// Learning rates that guards lowered, each by the step from which it holds; whatever that step is computed from.
    lowered: BTreeMap<Step, f64>,
    /// The step the launch goes on from.
    least: Step,
    /// Checkpoints that were ordered of states that turned out unsound: should one be written yet, it must go.
    pub(super) void: BTreeSet<Step>,
    /// Whether this machine has seen the steps up to the one in progress; not after a restart, until someone brings them.
    pub(super) caught_up: bool,
}

impl Course {
    pub(super) fn new(plan: &Plan) -> Self {
        let equilibrium = plan.start();
        let mut course = Self {
            config: plan.config.clone(),
            given: VecDeque::new(),
            promised: BTreeMap::new(),
            last: None,
            recorded: plan.recorded,
            recorded_lineage: plan.lineage,
            asked: Asked::default(),
            checkpoints: plan.checkpoints.clone(),
            ordered: BTreeMap::new(),
            agreed: plan.digested,
            unproven: None,
            stopping: None,
            lineage: plan.lineage,
            rollbacks: plan.rollbacks,
            watch: Watch::over(plan.recent.iter().copied()),
            origin: plan.origin(),
            lowered: plan.lowered.clone(),
            least: equilibrium.step,
            void: BTreeSet::new(),
            caught_up: false,
        };
        let orders = course.orders(equilibrium.step, false);
        course.given.push_back(Given { equilibrium, m_global: 0.0, orders });
        course
    }

    /// For the step in progress, as sent.
    pub(super) fn newest(&self) -> Given {
        self.given[self.given.len() - 1]
    }

    pub(super) fn step(&self) -> Step {
        self.newest().equilibrium.step
    }

    /// What was given for a step, if that is still known.
    pub(super) fn given(&self, step: Step) -> Option<Given> {
        self.given.iter().find(|given| given.equilibrium.step == step).copied()
    }

    /// The orders that ride with the equilibrium for `step`.
    fn orders(&mut self, step: Step, stopped: bool) -> Orders {
        match self.promised.remove(&step) {
            Some(promised) if !stopped => promised.orders,
            _ if stopped => Orders::default(),
            _ => self.asked.orders(step, &self.config.run),
        }
    }

    /// What a step promised before was: the same equilibrium, if all is well.
    fn was_promised(&self, step: Step) -> Option<Equilibrium> {
        self.promised.get(&step).map(|given| given.equilibrium)
    }

    /// All losses of the step in progress are in. On an error nothing has changed.
    pub(super) fn advance(
        &mut self,
        losses: Vec<LaneLosses>,
    ) -> Result<Completed, began::equilibrium::EquilibriumError> {
        let given = self.newest();
        let (mut equilibrium, record) =
            given.equilibrium.advance(&self.config.objective, &self.config.optimizer, &losses)?;
        if let Some(&rate) = self.lowered.get(&equilibrium.step) {
            equilibrium.rate = rate;
        }
        let changed = match &self.last {
            Some((step, before)) if *step == record.step => differing(before, &losses),
            _ => Vec::new(),
        };
        let state = equilibrium.step;
        // Promised by losses that were others: the promise is void.
        if self.was_promised(state).is_some_and(|before| before != equilibrium) {
            self.promised.clear();
        }
        let orders = self.orders(state, given.orders.stop);
        self.given.push_back(Given { equilibrium, m_global: record.m_global, orders });
        if self.given.len() > KEPT {
            self.given.pop_front();
        }
        if given.orders.stop {
            self.stopping = Some(state);
        }
        let drawn = began::order::drawn_by_all(losses.iter().map(|lane| lane.drawn));
        self.last = Some((record.step, losses));
        let fresh = record.step >= self.recorded;
        self.recorded = self.recorded.max(state);
        let reach = Watch::reach(&self.config.guard, 20 * self.config.run.checkpoint_every.clamp(1, 50_000));
        let fired = self.watch.observe(record, &self.config.guard, reach);
        Ok(Completed { record, drawn, fresh, done: given.orders, fired, changed })
    }

    /// Changes the orders for the step in progress before they are sent.
    pub(super) fn order_regroup(&mut self) {
        if let Some(newest) = self.given.back_mut() {
            newest.orders.regroup = true;
        }
    }

    /// Takes over what a member remembers of the way to `held`. Every step that the journal has not got comes out, in order.
    ///
    /// # Errors
    /// If it does not lead there.
    pub(super) fn adopt(&mut self, held: Step, steps: &[Past], given: &[Given]) -> Result<Vec<Completed>, String> {
        let lanes = self.config.run.lanes as usize;
        let mut way: Vec<Given> = steps.iter().map(|past| past.given).collect();
        way.extend(given.iter().filter(|given| given.equilibrium.step >= held));
        // The step after the last one that is known is computed, whether or not it was given.
        let complete = steps.last().map_or(held, |past| past.given.equilibrium.step.next());
        if complete != held {
            return Err(format!("it holds step {held} and remembers the steps up to {complete}"));
        }
        for pair in way.windows(2) {
            if pair[1].equilibrium.step != pair[0].equilibrium.step.next() {
                let (a, b) = (pair[0].equilibrium.step, pair[1].equilibrium.step);
                return Err(format!("after step {a} it remembers step {b}"));
            }
        }
        if let Some(past) = steps.iter().find(|past| past.losses.len() != lanes) {
            let step = past.given.equilibrium.step;
            return Err(format!("it remembers {} lanes of step {step}, the run has {lanes}", past.losses.len()));
        }
        let Some(first) = way.first().filter(|first| first.equilibrium.step <= held) else {
            return Err(format!("it remembers nothing of step {held}"));
        };
        let finite = |given: &Given| given.equilibrium.k.is_finite() && given.equilibrium.rate.is_finite();
        if !way.iter().all(finite) {
            return Err("an equilibrium it remembers is not finite".into());
        }
        let mut trial = self.clone();
        trial.begin_at(Given { ..*first });
        for given in &way[1..] {
            trial.promised.insert(given.equilibrium.step, *given);
        }
        let mut completed = Vec::new();
        for past in steps {
            let given = trial.newest();
            if given.equilibrium != past.given.equilibrium {
                return Err(format!("its equilibrium of step {} does not follow", given.equilibrium.step));
            }
            let done = trial.advance(past.losses.clone()).map_err(|error| error.to_string())?;
            completed.push(done);
        }
        if let Some(given) = way.iter().find(|given| given.equilibrium.step == held)
            && given.equilibrium != trial.newest().equilibrium
        {
            return Err(format!("its equilibrium of step {held} does not follow from its losses"));
        }
        trial.caught_up = true;
        *self = trial;
        Ok(completed)
    }

    /// What another member was given for a later step: it stays so when that step comes.
    pub(super) fn promise(&mut self, given: Given) {
        if given.equilibrium.step > self.step() {
            self.promised.entry(given.equilibrium.step).or_insert(given);
        }
    }

    fn begin_at(&mut self, given: Given) {
        self.given.clear();
        self.given.push_back(given);
        self.promised.clear();
    }

    /// Goes back to `step`, whose equilibrium is still known; what was sent for later steps stays promised.
    pub(super) fn back_to_known(&mut self, step: Step) {
        while self.step() > step && self.given.len() > 1 {
            if let Some(mut given) = self.given.pop_back() {
                given.orders.regroup = false;
                self.promised.insert(given.equilibrium.step, given);
            }
        }
        if let Some(newest) = self.given.back_mut() {
            newest.orders.regroup = false;
        }
        self.rewound(step);
    }

    /// Goes back to a checkpoint (or to the beginning, step 0).
    pub(super) fn back_to_checkpoint(&mut self, step: Step) {
        let equilibrium = self.checkpoints.get(&step).copied().unwrap_or(self.origin);
        self.promised.clear();
        self.given.clear();
        self.last = None;
        let orders = self.orders(step, false);
        self.given.push_back(Given { equilibrium, m_global: 0.0, orders });
        self.rewound(step);
        self.caught_up = true;
    }

    fn rewound(&mut self, step: Step) {
        self.watch.rewind(step);
        self.agreed = self.agreed.min(step);
        if self.stopping.is_some_and(|stopping| stopping > step) {
            self.stopping = None;
        }
        if self.unproven.is_some_and(|unproven| unproven > step) {
            self.unproven = None;
        }
    }

    /// From which step on a coordinator that was started again needs to hear: the last one in the journal, whose successor's
    /// equilibrium may have been lost.
    pub(super) fn recall_from(&self) -> Step {
        Step(self.recorded.0.saturating_sub(1))
    }

    /// The newest checkpoint that can be gone on from without a hole in the journal; where the journal was lost, the newest.
    pub(super) fn newest_checkpoint(&self) -> Step {
        self.checkpoint_up_to(self.recorded.max(self.least))
    }

    /// The newest checkpoint up to `step`; step 0 is always there, made from the seed.
    pub(super) fn checkpoint_up_to(&self, step: Step) -> Step {
        self.checkpoints.range(..=step).next_back().map_or(Step(0), |(step, _)| *step)
    }

    /// The step up to `step` that a guard goes back to: by the clock of `run.checkpoint_every` alone, so that it is the same step
    /// in a run that lost a checkpoint, or has not heard of it yet, and in one that has it. A step without a checkpoint is computed
    /// again from the one before.
    pub(super) fn turning_point_up_to(&self, step: Step) -> Step {
        let every = self.config.run.checkpoint_every;
        let point = Step(step.0.checked_rem(every).map_or(0, |beyond| step.0 - beyond));
        // Where the journal was lost, what the rate was there may be unknown; that of a checkpoint is not.
        if self.rate_at(point).is_some() { point } else { self.checkpoint_up_to(point) }
    }

    /// The learning rate of the step, if that is known.
    fn rate_at(&self, step: Step) -> Option<f64> {
        if step.0 == 0 {
            return Some(self.origin.rate);
        }
        let known = self.given(step).map(|given| given.equilibrium);
        let known = known.or_else(|| self.ordered.get(&step).map(|ordered| ordered.equilibrium));
        let known = known.or_else(|| self.checkpoints.get(&step).copied());
        known.map(|equilibrium| equilibrium.rate).or_else(|| self.watch.record(step).map(|record| record.rate))
    }

    /// From `step` on, whose rate is known, the rate is this many times what it was, but not below its floor.
    pub(super) fn lower_rate(&mut self, step: Step, factor: f64) -> f64 {
        let before = self.rate_at(step).unwrap_or(self.origin.rate);
        let rate = (before * factor).max(self.config.optimizer.rate_floor).min(before);
        self.lowered.insert(step, rate);
        if step.0 == 0 {
            self.origin.rate = rate;
        }
        if let Some(equilibrium) = self.checkpoints.get_mut(&step) {
            equilibrium.rate = rate;
        }
        if let Some(ordered) = self.ordered.get_mut(&step) {
            ordered.equilibrium.rate = rate;
        }
        rate
    }

    /// The states above `step` are void: nothing of them may be gone on from.
    pub(super) fn step_back(&mut self, step: Step) {
        self.lineage += 1;
        self.lowered.split_off(&step.next());
        // What is reported lies on the disk, and is put aside there; what is not may be written yet.
        self.checkpoints.split_off(&step.next());
        self.void.extend(self.ordered.split_off(&step.next()).into_keys());
    }

    /// The checkpoints that may go now that the newest is known to be sound: all but the newest `run.keep_checkpoints`, those
    /// kept for good, and what a guard may have to go back to.
    pub(super) fn prune(&mut self) -> Vec<Step> {
        let (run, guard) = (&self.config.run, &self.config.guard);
        let newest = self.checkpoints.keys().rev().take(run.keep_checkpoints.max(1) as usize);
        let mut kept: BTreeSet<Step> = newest.copied().collect();
        kept.extend(self.checkpoints.keys().filter(|step| run.keep_every > 0 && step.0.is_multiple_of(run.keep_every)));
        if guard.goes_back() {
            let reach = guard.window.max(guard.pinned_steps);
            kept.insert(self.checkpoint_up_to(self.turning_point_up_to(Step(self.step().0.saturating_sub(reach + 1)))));
        }
        let gone: Vec<Step> = self.checkpoints.keys().filter(|step| !kept.contains(step)).copied().collect();
        for step in &gone {
            self.checkpoints.remove(step);
        }
        gone
    }

    /// What is due in the state of `step` when a generation begins with it.
    pub(super) fn due_at(&self, step: Step) -> Orders {
        let run = &self.config.run;
        let stop = self.stopping == Some(step) || self.asked.stop().is_some() || step.0 >= run.steps;
        let regular = |every: u64| step.0 > 0 && every > 0 && step.0.is_multiple_of(every);
        let written = self.checkpoints.contains_key(&step) || self.ordered.contains_key(&step);
        Orders {
            digest: stop || regular(run.digest_every),
            checkpoint: (stop || regular(run.checkpoint_every)) && !written && step.0 > 0,
            sample: regular(run.sample_every) && !written || step.0 >= run.steps,
            stop,
            regroup: false,
        }
    }
}

fn differing(before: &[LaneLosses], now: &[LaneLosses]) -> Vec<Lane> {
    let same = |a: &LaneLosses, b: &LaneLosses| {
        a.real.to_bits() == b.real.to_bits() && a.fake.to_bits() == b.fake.to_bits() && a.drawn == b.drawn
    };
    (0..).map(Lane).zip(before.iter().zip(now)).filter(|(_, (a, b))| !same(a, b)).map(|(lane, _)| lane).collect()
}
