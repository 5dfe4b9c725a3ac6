//! Between two generations: the old one is left, who holds what is found out, and the next one opens.
//!
//! The next generation goes on from the highest step that anyone holds whole. Whatever happens here ends: those who do not
//! say what they hold are put out after a while, a world that stays too small ends the run with its state saved. A state that may
//! be unsound is never gone on from, and never becomes a checkpoint.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use began::Step;

use super::course::Ordered;
use super::event::{Act, Decision, Digest, Given, Message, Past};
use super::members::{Member, MemberId, Standing};
use super::setbacks::Accused;
use super::{Decisions, HELD_WAIT, MOST_FRUITLESS, Machine, Phase, SAVE_WAIT, send};

/// Fruitless generations after which the newest member is left out, and for how long.
const BENCH_AFTER: u32 = 4;
const BENCH: Duration = Duration::from_secs(300);

/// Why a generation ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cause {
    /// A trainer is gone, or the group of its peers broke.
    Lost(String),
    /// A state may be unsound: go back.
    Back {
        /// Why.
        text: String,
        /// To where.
        to: Step,
        /// Those whose digest differed, and whether the others are the majority.
        accused: Option<(Vec<Accused>, bool)>,
    },
    /// The run cannot go on, but what it holds is worth saving.
    Hopeless(String),
    /// Someone asked for the end and cannot wait for the step.
    StopNow(String),
    /// The run cannot go on, and there is nothing to save, or nothing that may be.
    End(String),
}

impl Cause {
    fn text(&self) -> &str {
        match self {
            Self::Lost(text) | Self::Hopeless(text) | Self::StopNow(text) | Self::End(text) => text,
            Self::Back { text, .. } => text,
        }
    }
}

/// The time between two generations.
#[derive(Clone, Debug)]
pub(super) struct Regrouping {
    /// Why the last generation ended.
    pub(super) cause: String,
    since: Duration,
    /// Until then those who are leaving are waited for.
    ask_until: Duration,
    /// Nothing opens before, unless everyone who is wanted is there.
    settle_until: Duration,
    /// How many trainers there were.
    wanted: usize,
    /// They leave by themselves, after the step that was ordered.
    in_order: bool,
    /// Who is asked for what led to the step it holds, until when, and from which step on.
    recalling: Option<(MemberId, Step, Duration, Step)>,
    /// Nothing above this step may be gone on from: the newest checkpoint up to it is.
    back_to: Option<Step>,
    /// What members digested last, where that was asked for.
    pub(super) evidence: BTreeMap<MemberId, Digest>,
    /// Those whose digest differed, and whether the others are the majority, until that is settled.
    pub(super) accused: Option<(Vec<Accused>, bool)>,
    /// Whether it was looked at who might be left out.
    benched: bool,
    /// The run ends after this, for this reason.
    ending: Option<String>,
    saving: Option<(MemberId, Step, Duration)>,
}

impl Regrouping {
    fn new(cause: String, wanted: usize, now: Duration) -> Self {
        Self {
            cause,
            since: now,
            ask_until: Duration::MAX,
            settle_until: now,
            wanted,
            in_order: false,
            recalling: None,
            back_to: None,
            evidence: BTreeMap::new(),
            accused: None,
            benched: false,
            ending: None,
            saving: None,
        }
    }
}

impl Machine {
    /// Ends the generation, or the attempt to form one.
    pub(super) fn end_generation(&mut self, cause: Cause, now: Duration, out: &mut Decisions) {
        let text = cause.text().to_owned();
        match (&mut self.phase, &cause) {
            (Phase::Ended { .. }, _) => {}
            (_, Cause::End(_)) => {
                let why = format!("{text}; {}", self.how_to_resume());
                self.end(true, self.course.step(), why, out);
            }
            (Phase::Forming(_), _) => {
                let wanted = self.plan.world as usize;
                self.leave(Regrouping::new(text, wanted, now), cause, now, out);
            }
            (Phase::Running(_), _) => {
                let Phase::Running(running) = &self.phase else { return };
                let wanted = running.world.len();
                let undisputed = running.digests.undisputed();
                if !running.fruitful {
                    self.fruitless += 1;
                }
                for digest in undisputed {
                    let text = format!("those who were still there held {} at step {}", digest.digest, digest.step);
                    out.push(Decision { act: Act::Digest(digest), why: text });
                }
                self.leave(Regrouping::new(text, wanted, now), cause, now, out);
            }
            // It is being ended already; whatever comes now only adds to it.
            (Phase::Regrouping(regrouping), Cause::Hopeless(_)) => {
                regrouping.ending.get_or_insert(text);
                self.try_open(now, out);
            }
            (Phase::Regrouping(regrouping), Cause::Back { to, .. }) => {
                regrouping.back_to = Some(regrouping.back_to.map_or(*to, |before| before.min(*to)));
                self.try_open(now, out);
            }
            (Phase::Regrouping(_), _) => {}
        }
    }

    fn leave(&mut self, mut regrouping: Regrouping, cause: Cause, now: Duration, out: &mut Decisions) {
        regrouping.ask_until = now + self.held_wait();
        let ask_digests = matches!(cause, Cause::Back { accused: Some(_), .. });
        match cause {
            Cause::Back { to, accused, .. } => (regrouping.back_to, regrouping.accused) = (Some(to), accused),
            Cause::Hopeless(text) => regrouping.ending = Some(text),
            _ => {}
        }
        // A world that breaks again and again before it has done a step is given more and more time.
        if self.fruitless > 1 {
            let pause = Duration::from_millis(100) * 2u32.saturating_pow(self.fruitless.min(6));
            regrouping.settle_until = now + pause.min(Duration::from_secs(5));
        }
        if self.fruitless >= MOST_FRUITLESS && regrouping.ending.is_none() {
            regrouping.ending = Some(format!(
                "{MOST_FRUITLESS} generations in a row ended before they had done a step, the last because {}",
                regrouping.cause
            ));
        }
        let why = format!("generation {} ends in step {}: {}", self.generation, self.course.step(), regrouping.cause);
        self.reason.clone_from(&why);
        self.phase = Phase::Regrouping(Box::new(regrouping));
        self.halt_the_working(ask_digests, &why, out);
        out.push(Decision { act: Act::Close(self.generation), why: why.clone() });
        out.push(Decision { act: Act::Note(self.note("halt", None)), why });
        self.try_open(now, out);
    }

    fn halt_the_working(&mut self, digest: bool, why: &str, out: &mut Decisions) {
        let mut told = Vec::new();
        for member in self.members.iter_mut().filter(|member| member.standing == Standing::Working) {
            member.standing = Standing::Leaving;
            told.push(member.connection);
        }
        send(out, told, Message::Halt { digest }, why);
    }

    /// After a step that was ordered to be the generation's last: everyone leaves by itself.
    pub(super) fn regroup_in_order(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Running(running) = &self.phase else { return };
        let mut regrouping = Regrouping::new("more trainers are there".into(), running.world.len(), now);
        regrouping.in_order = true;
        regrouping.ask_until = now + self.step_timeout();
        let undisputed = running.digests.undisputed();
        let why = format!(
            "generation {} ends before step {}, in order: more trainers are there",
            self.generation,
            self.course.step()
        );
        for member in self.members.iter_mut().filter(|member| member.standing == Standing::Working) {
            member.standing = Standing::Leaving;
        }
        for digest in undisputed {
            out.push(Decision { act: Act::Digest(digest), why: why.clone() });
        }
        self.reason.clone_from(&why);
        self.phase = Phase::Regrouping(Box::new(regrouping));
        out.push(Decision { act: Act::Note(self.note("halt", None)), why });
        self.try_open(now, out);
    }

    /// A member has left its generation.
    pub(super) fn held(
        &mut self,
        from: MemberId,
        step: Option<Step>,
        digest: Option<Digest>,
        lineage: u64,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Some(member) = self.members.get_mut(from) else { return Ok(()) };
        member.lineage = lineage;
        let was_working = member.standing == Standing::Working;
        member.standing = Standing::Outside(step);
        match &mut self.phase {
            Phase::Running(_) if was_working && self.course.newest().orders.regroup => {}
            Phase::Running(_) if was_working => {
                let text = format!("{} has left its generation", self.members.describe(from));
                self.end_generation(Cause::Lost(text), now, out);
            }
            Phase::Regrouping(regrouping) => {
                if let Some(digest) = digest {
                    regrouping.evidence.insert(from, digest);
                }
                self.try_open(now, out);
            }
            Phase::Forming(_) => self.forming_outside(now, out),
            Phase::Running(_) | Phase::Ended { .. } => {}
        }
        Ok(())
    }

    /// One lost its peers while the generation was to end in order: the others may wait for it in vain.
    pub(super) fn severed_in_order(&mut self, from: MemberId, now: Duration, out: &mut Decisions) {
        self.one_fewer(from, now, out);
    }

    /// One of the members is gone while a generation is to open.
    pub(super) fn one_fewer(&mut self, gone: MemberId, now: Duration, out: &mut Decisions) {
        let held_wait = self.held_wait();
        let Phase::Regrouping(regrouping) = &mut self.phase else {
            return;
        };
        if regrouping.recalling.is_some_and(|(whom, ..)| whom == gone) {
            regrouping.recalling = None;
        }
        if regrouping.saving.is_some_and(|(whom, ..)| whom == gone) {
            regrouping.saving = None;
        }
        if std::mem::take(&mut regrouping.in_order) {
            // The others may be in a sum that will never end.
            regrouping.ask_until = now + held_wait;
            let mut told = Vec::new();
            for member in self.members.iter().filter(|member| member.is_leaving()) {
                told.push(member.connection);
            }
            let why = format!("generation {} ends: a trainer is gone", self.generation);
            send(out, told, Message::Halt { digest: false }, why.clone());
            out.push(Decision { act: Act::Close(self.generation), why });
        }
        self.try_open(now, out);
    }

    /// Opens the next generation if nothing more is to be waited for; else does what comes before it.
    pub(super) fn try_open(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Regrouping(regrouping) = &mut self.phase else {
            return;
        };
        if self.members.iter().any(|member| member.is_leaving() && member.rank.is_some()) {
            return;
        }
        if regrouping.recalling.is_some() || regrouping.saving.is_some() {
            return;
        }
        if regrouping.accused.is_some() {
            return self.settle_accusation(now, out);
        }
        if !regrouping.benched {
            regrouping.benched = true;
            self.bench_the_newest(now, out);
        }
        let Phase::Regrouping(regrouping) = &self.phase else {
            return;
        };
        let lanes = self.plan.config.run.lanes as usize;
        let world = self.eligible(lanes, now);
        if let Some(reason) = regrouping.ending.clone() {
            return self.save_and_end(&world, &reason, true, now, out);
        }
        let enough = (self.plan.config.run.min_trainers as usize).min(lanes).max(1);
        let rejoin = Duration::from_secs_f64(self.plan.config.run.rejoin_wait);
        let wanted = regrouping.wanted.min(lanes);
        let waiting = now < regrouping.settle_until.max(regrouping.since + rejoin);
        if let Some(reason) = self.course.asked.stop()
            && world.len() < enough
            && !world.is_empty()
        {
            let reason = format!("stopped on request ({reason}) with {} of {enough} trainers there", world.len());
            return self.save_and_end(&world, &reason, false, now, out);
        }
        if world.len() < enough
            || (world.len() < wanted && waiting)
            || (self.fruitless > 1 && now < regrouping.settle_until)
        {
            return;
        }
        let back_to = regrouping.back_to;
        let Some(start) = self.choose_start(&world, back_to, now, out) else { return };
        self.open_generation(world, start, now, out);
    }

    /// Those who may be in the next generation, in the order of their places: those who hold the most if there are too many.
    fn eligible(&self, lanes: usize, now: Duration) -> Vec<MemberId> {
        let held = |id: &MemberId| self.members.get(*id).and_then(|member| member.holds(self.course.lineage));
        let mut world = self.members.outside();
        let place = |id: &MemberId| self.members.get(*id).map(Member::place);
        let on_the_bench = |id: &MemberId| self.members.get(*id).is_some_and(|member| member.benched_until > now);
        if world.iter().any(|id| !on_the_bench(id)) {
            world.retain(|id| !on_the_bench(id));
        }
        if world.len() > lanes {
            world.sort_by_key(|id| (Reverse(held(id)), place(id)));
            world.truncate(lanes);
            world.sort_by_key(place);
        }
        world
    }

    /// Generation after generation ends before its first step: the one that came last is left out for a while. It may be one
    /// that the others cannot reach.
    fn bench_the_newest(&mut self, now: Duration, out: &mut Decisions) {
        let enough = (self.plan.config.run.min_trainers as usize).max(1);
        let outside = self.members.outside();
        if self.fruitless < BENCH_AFTER || !self.fruitless.is_multiple_of(BENCH_AFTER) || outside.len() <= enough {
            return;
        }
        let newest = outside.iter().filter_map(|id| self.members.get(*id)).max_by_key(|member| member.since);
        let Some(id) = newest.map(|member| member.id) else { return };
        let text = format!(
            "{} generations in a row ended before their first step: {}, which came last, is left out for {} s",
            self.fruitless,
            self.members.describe(id),
            BENCH.as_secs()
        );
        if let Some(member) = self.members.get_mut(id) {
            member.benched_until = now + BENCH;
        }
        out.push(Decision { act: Act::Note(self.note("warning", None)), why: text });
    }

    /// The step to go on from, and whether from a checkpoint; nothing while someone is asked for what led to it.
    fn choose_start(
        &mut self,
        world: &[MemberId],
        back_to: Option<Step>,
        now: Duration,
        out: &mut Decisions,
    ) -> Option<Start> {
        if let Some(step) = back_to {
            return Some(Start::Checkpoint(self.course.checkpoint_up_to(step)));
        }
        let held = |id: &MemberId| self.members.get(*id)?.holds(self.course.lineage);
        let on_disk = self.course.newest_checkpoint();
        // Nobody can be more than one step ahead of a coordinator that was there all the time.
        let newest = self.course.step();
        let plausible = |step: &Step| !self.course.caught_up || *step <= newest.next();
        let best = world.iter().filter_map(|id| Some((held(id)?, *id))).filter(|(step, _)| plausible(step));
        let remembers = |id: &MemberId| self.members.get(*id).map(|member| member.remembers);
        let best = best.max_by_key(|(step, id)| (*step, Reverse(remembers(id)), Reverse(*id)));
        match best {
            Some((step, _)) if step >= on_disk && self.course.given(step).is_some() => Some(Start::Held(step)),
            Some((step, holder)) if step >= on_disk => {
                let from = if self.course.caught_up { newest.min(step) } else { self.course.recall_from().min(step) };
                self.recall(holder, from, now, out);
                None
            }
            _ => Some(Start::Checkpoint(on_disk)),
        }
    }

    fn recall(&mut self, holder: MemberId, from: Step, now: Duration, out: &mut Decisions) {
        let Phase::Regrouping(regrouping) = &mut self.phase else { return };
        let Some(member) = self.members.get(holder) else { return };
        let Some(step) = member.holds(self.course.lineage) else { return };
        let connection = member.connection;
        regrouping.recalling = Some((holder, step, now + HELD_WAIT, from));
        let why = format!(
            "{} holds step {step}, the highest, and is asked for what led there",
            self.members.describe(holder)
        );
        send(out, vec![connection], Message::Recall(from), why);
    }

    /// A member brings what led to its state.
    pub(super) fn recalled(
        &mut self,
        from: MemberId,
        steps: &[Past],
        given: &[Given],
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        match &mut self.phase {
            Phase::Forming(_) => return self.reunion_recalled(from, steps, given, now, out),
            Phase::Regrouping(regrouping) => match regrouping.recalling {
                Some((whom, ..)) if whom == from => {}
                _ => return Ok(()),
            },
            _ => return Ok(()),
        }
        let Phase::Regrouping(regrouping) = &mut self.phase else { return Ok(()) };
        let Some((_, held, ..)) = regrouping.recalling.take() else { return Ok(()) };
        let adopted = self.adopt(held, steps, given, now, out);
        if let Err(why) = &adopted {
            // Whatever it holds cannot be gone on from.
            self.cannot_use_state_of(from, why, out);
        }
        self.try_open(now, out);
        adopted
    }

    /// What this member was asked for may have been lost with its stream.
    pub(super) fn ask_again(&mut self, id: MemberId, out: &mut Decisions) {
        let Phase::Regrouping(regrouping) = &self.phase else { return };
        let message = match (regrouping.recalling, regrouping.saving) {
            (Some((whom, _, _, from)), _) if whom == id => Message::Recall(from),
            (_, Some((whom, step, _))) if whom == id => match self.course.given(step) {
                Some(given) => Message::WriteCheckpoint(Given { orders: Default::default(), ..given }),
                None => return,
            },
            _ => return,
        };
        let why = format!("{} is asked again, on its new stream", self.members.describe(id));
        send(out, self.members.connections_of(&[id]), message, why);
    }

    fn cannot_use_state_of(&mut self, id: MemberId, why: &str, out: &mut Decisions) {
        let text = format!("the state of {} cannot be gone on from: {why}", self.members.describe(id));
        if let Some(member) = self.members.get_mut(id) {
            member.standing = Standing::Outside(None);
        }
        out.push(Decision { act: Act::Note(self.note("warning", None)), why: text });
    }

    /// Brings the course up to `held` by what a member remembers.
    pub(super) fn adopt(
        &mut self,
        held: Step,
        steps: &[Past],
        given: &[Given],
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let missing = self.course.recorded;
        let completed = self.course.adopt(held, steps, given)?;
        if let Some(first) = completed.first().filter(|first| first.fresh && first.record.step > missing) {
            let text = format!(
                "steps {missing} to {} are not in the journal: they were lost with the coordinator before this one",
                Step(first.record.step.0 - 1)
            );
            out.push(Decision { act: Act::Note(self.note("warning", None)), why: text });
        }
        let mut fired = None;
        for done in completed {
            let state = done.record.step.next();
            if done.done.checkpoint && !self.course.checkpoints.contains_key(&state) {
                let equilibrium = self.course.given(state).map_or(self.course.newest().equilibrium, |g| g.equilibrium);
                if equilibrium.step == state {
                    self.course.ordered.insert(state, Ordered { writer: None, equilibrium });
                }
            }
            fired = done.fired.clone().or(fired);
            if done.fresh {
                self.record(done, 0.0, 0.0, out);
            }
        }
        if let Some(firing) = fired {
            self.guard_fired(firing, now, out);
        }
        Ok(())
    }

    pub(super) fn regrouping_tick(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Regrouping(regrouping) = &mut self.phase else {
            return;
        };
        if now > regrouping.ask_until {
            let late: Vec<MemberId> = self
                .members
                .iter()
                .filter(|member| member.is_leaving() && member.rank.is_some())
                .map(|member| member.id)
                .collect();
            for id in late {
                let waited = self.held_wait().as_secs();
                let why = format!(
                    "{} did not say within {waited} s what it holds, and is put out",
                    self.members.describe(id)
                );
                self.expel(id, false, why, out);
            }
        }
        let Phase::Regrouping(regrouping) = &mut self.phase else {
            return;
        };
        if let Some((whom, _, until, _)) = regrouping.recalling
            && now > until
        {
            regrouping.recalling = None;
            let why = format!("it did not say within {} s what led to it", HELD_WAIT.as_secs());
            self.cannot_use_state_of(whom, &why, out);
        }
        let Phase::Regrouping(regrouping) = &mut self.phase else {
            return;
        };
        if let Some((whom, step, until)) = regrouping.saving
            && now > until
        {
            let (ending, cause) = (regrouping.ending.clone(), regrouping.cause.clone());
            let who = self.members.describe(whom);
            let why = format!(
                "{}; {who} did not write step {step} within {} s; {}",
                ending.unwrap_or(cause),
                SAVE_WAIT.as_secs(),
                self.how_to_resume()
            );
            return self.end(true, self.course.newest_checkpoint(), why, out);
        }
        let patience = self.plan.forming_timeout;
        if regrouping.ending.is_none() && now.saturating_sub(regrouping.since) > patience {
            let here = self.members.outside().len();
            let text = format!(
                "{}; {here} trainers were there {:.0} s later, and it takes {} to go on (run.min_trainers)",
                regrouping.cause,
                patience.as_secs_f64(),
                self.plan.config.run.min_trainers
            );
            regrouping.ending = Some(text.clone());
            // Said at once, though survivors may still be asked: a tick that decides nothing must change nothing.
            out.push(Decision { act: Act::Note(self.note("halt", None)), why: text });
        }
        self.try_open(now, out);
    }

    /// The run is to end: the highest state that is held is written first, if it is not on the disk yet.
    fn save_and_end(&mut self, world: &[MemberId], reason: &str, failed: bool, now: Duration, out: &mut Decisions) {
        let held = |id: &MemberId| self.members.get(*id)?.holds(self.course.lineage);
        let on_disk = self.course.newest_checkpoint();
        let best = world.iter().filter_map(|id| Some((held(id)?, *id))).max_by_key(|(step, id)| (*step, Reverse(*id)));
        let Some((step, holder)) = best.filter(|(step, _)| *step > on_disk) else {
            let why = format!("{reason}; {}", self.how_to_resume());
            return self.end(failed, on_disk, why, out);
        };
        let Some(given) = self.course.given(step) else {
            return self.recall(holder, self.course.recall_from().min(step), now, out);
        };
        let Phase::Regrouping(regrouping) = &mut self.phase else { return };
        regrouping.saving = Some((holder, step, now + SAVE_WAIT));
        self.course.ordered.insert(step, Ordered { writer: Some(holder), equilibrium: given.equilibrium });
        let given = Given { orders: Default::default(), ..given };
        let why = format!("{} holds step {step}, the highest, and writes it", self.members.describe(holder));
        send(out, self.members.connections_of(&[holder]), Message::WriteCheckpoint(given), why.clone());
        let rank = self.members.get(holder).and_then(|member| member.rank);
        out.push(Decision { act: Act::Note(self.note("save", rank)), why });
    }

    /// What was to be saved is written, or cannot be by this one.
    pub(super) fn saved(&mut self, step: Step, written: bool, now: Duration, out: &mut Decisions) {
        let Phase::Regrouping(regrouping) = &mut self.phase else {
            return;
        };
        let Some((holder, saving, _)) = regrouping.saving else { return };
        if saving != step {
            return;
        }
        regrouping.saving = None;
        if !written && let Some(member) = self.members.get_mut(holder) {
            member.standing = Standing::Outside(None);
        }
        self.try_open(now, out);
    }

    /// A restarted coordinator gives its trainers a moment to come back before it goes on with the first of them.
    pub(super) fn regroup_after_restart(&mut self, text: String, now: Duration, out: &mut Decisions) {
        let mut regrouping = Regrouping::new(text.clone(), self.plan.world as usize, now);
        regrouping.settle_until = now + super::RETURN_WAIT;
        regrouping.ask_until = now + self.held_wait();
        let why = format!("regrouping after a restart of the coordinator: {text}");
        self.reason.clone_from(&why);
        self.phase = Phase::Regrouping(Box::new(regrouping));
        self.halt_the_working(false, &why, out);
        out.push(Decision { act: Act::Note(self.note("halt", None)), why });
        self.try_open(now, out);
    }
}

/// What a generation begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A state that members hold.
    Held(Step),
    /// A checkpoint; step 0 is made from the seed.
    Checkpoint(Step),
}
