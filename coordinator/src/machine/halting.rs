//! The end of a generation: why it ended, who holds what, and what is saved of it.
//!
//! What follows from the end of a generation is decided in one place, [`Cause::aftermath`]. Today the run stops, with
//! its highest state saved where that state can be trusted. Whatever happens here ends within [`super::HELD_WAIT`] and
//! [`super::SAVE_WAIT`], and a state that may be unsound never becomes a checkpoint.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use began::{Lane, LaneLosses, Rank, Step};

use super::event::{Act, ConnectionId, Decision, Given, Message, Orders, Written};
use super::losses::StepLosses;
use super::members::Member;
use super::{Decisions, HELD_WAIT, Machine, Phase, SAVE_WAIT, send};

/// Why a generation ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cause {
    /// A trainer is gone.
    Lost(String),
    /// A step, or the last orders, did not finish in time.
    Stalled(String),
    /// A loss is not finite; the state of this step may already be unsound.
    Diverged { text: String, state: Step },
    /// These hold another state than the others.
    Differs { text: String, state: Step, ranks: Vec<Rank> },
    /// The last checkpoint could not be written.
    NotSaved(String),
    /// The world did not come together.
    NotFormed(String),
    /// Someone ended everything at once.
    Aborted(String),
}

/// What follows from the end of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aftermath {
    /// Save the highest state a survivor holds, then stop.
    SaveThenStop,
    /// Stop at once: there is nothing to save, or nothing that may be.
    Stop,
}

impl Cause {
    fn aftermath(&self) -> Aftermath {
        match self {
            Self::Lost(_) | Self::Stalled(_) => Aftermath::SaveThenStop,
            Self::Diverged { .. } | Self::Differs { .. } => Aftermath::Stop,
            Self::NotSaved(_) | Self::NotFormed(_) | Self::Aborted(_) => Aftermath::Stop,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Lost(text) | Self::Stalled(text) | Self::NotSaved(text) => text,
            Self::NotFormed(text) | Self::Aborted(text) => text,
            Self::Diverged { text, .. } | Self::Differs { text, .. } => text,
        }
    }

    /// The state that may be unsound, if there is one.
    fn suspect(&self) -> Option<Step> {
        match self {
            Self::Diverged { state, .. } | Self::Differs { state, .. } => Some(*state),
            _ => None,
        }
    }
}

/// A generation that ended, while its highest state is found and saved.
#[derive(Clone, Debug)]
pub(super) struct Halting {
    cause: String,
    /// The first step of the generation.
    start: Step,
    /// Oldest first; held states from here on can be written.
    known: VecDeque<Given>,
    /// Of the step that was in progress.
    losses: StepLosses,
    checkpoints_due: BTreeSet<Step>,
    /// Who is still there, and the step each holds once it has said so.
    survivors: BTreeMap<ConnectionId, Option<Step>>,
    stage: Stage,
    /// When saving must be over, once it began.
    save_until: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Asking { until: Duration },
    Saving { holder: ConnectionId, step: Step },
}

impl Halting {
    /// The step that was in progress, or the one after if a survivor got that far.
    pub(super) fn step(&self) -> Step {
        self.known.back().map_or(self.start, |given| given.equilibrium.step)
    }
}

impl Machine {
    /// Ends the generation, or the attempt to form one.
    pub(super) fn end_generation(&mut self, cause: Cause, now: Duration, out: &mut Decisions) {
        let text = cause.text().to_owned();
        match (&self.phase, cause.aftermath()) {
            (Phase::Ended { .. }, _) => {}
            (Phase::Running(_), Aftermath::SaveThenStop) => self.halt(text, now, out),
            // It is being ended already, and slowly; only an abort is in more of a hurry.
            (Phase::Halting(_), Aftermath::SaveThenStop) => {}
            (_, _) => {
                let doubt = cause.suspect().filter(|state| self.checkpoints.contains(state)).map(|state| {
                    format!("; the checkpoint of step {state} may hold the same fault, those before it do not")
                });
                let why = format!("{text}{}; {}", doubt.unwrap_or_default(), self.how_to_resume());
                self.end(true, self.step(), why, out);
            }
        }
    }

    /// Asks the survivors what they hold.
    fn halt(&mut self, cause: String, now: Duration, out: &mut Decisions) {
        let survivors = self.members.connections();
        let Phase::Running(running) = &self.phase else {
            return;
        };
        let halting = Halting {
            cause: cause.clone(),
            start: running.start(),
            known: running.known().clone(),
            losses: running.losses_so_far().clone(),
            checkpoints_due: running.checkpoints_due().clone(),
            survivors: survivors.iter().map(|&on| (on, None)).collect(),
            stage: Stage::Asking { until: now + HELD_WAIT },
            save_until: None,
        };
        let why = format!("generation {} ends in step {}: {cause}", self.generation, halting.step());
        self.reason.clone_from(&why);
        self.phase = Phase::Halting(Box::new(halting));
        send(out, survivors, Message::Halt, why.clone());
        out.push(Decision { act: Act::Close(self.generation), why: why.clone() });
        out.push(Decision { act: Act::Note(self.note("halt", None)), why });
        self.choose_if_answered(now, out);
    }

    /// A survivor says what it holds.
    pub(super) fn held(
        &mut self,
        from: ConnectionId,
        step: Step,
        losses: &[(Lane, LaneLosses)],
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Halting(halting) = &mut self.phase else {
            return Ok(());
        };
        match halting.survivors.get(&from) {
            Some(None) => {}
            Some(Some(known)) if *known != step => {
                return Err(format!("says it holds step {step}, and said step {known} before"));
            }
            Some(Some(_)) | None => return Ok(()),
        }
        let newest = halting.step();
        if step == newest.next() && halting.losses.step() == newest {
            // It committed a step whose losses did not all arrive here; it brings them along.
            let config = &self.plan.config;
            let mut all = halting.losses.clone();
            all.add(0..config.run.lanes, losses)?;
            let all = all.complete().ok_or_else(|| format!("says it holds step {step} without all lanes' losses"))?;
            let Some(given) = halting.known.back() else {
                return Ok(());
            };
            let advanced = given.equilibrium.advance(&config.objective, &config.optimizer, &all);
            let (equilibrium, record) = advanced.map_err(|error| format!("says it holds step {step}: {error}"))?;
            let given = Given { equilibrium, m_global: record.m_global, orders: Orders::default() };
            halting.known.push_back(given);
            let why = format!("step {newest} was complete with a survivor");
            let act = Act::Step { record, generation: self.generation, seconds: 0.0, images_per_second: 0.0 };
            out.push(Decision { act, why });
        } else if step > newest {
            return Err(format!("says it holds step {step}, where step {newest} was in progress"));
        }
        halting.survivors.insert(from, Some(step));
        self.choose_if_answered(now, out);
        Ok(())
    }

    /// One of the survivors is gone too.
    pub(super) fn fewer_survivors(&mut self, gone: ConnectionId, now: Duration, out: &mut Decisions) {
        let Phase::Halting(halting) = &mut self.phase else {
            return;
        };
        halting.survivors.remove(&gone);
        match halting.stage {
            Stage::Saving { holder, .. } if holder == gone => self.choose(now, out),
            Stage::Saving { .. } => {}
            Stage::Asking { .. } => self.choose_if_answered(now, out),
        }
    }

    fn choose_if_answered(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Halting(halting) = &self.phase else {
            return;
        };
        if matches!(halting.stage, Stage::Asking { .. }) && halting.survivors.values().all(Option::is_some) {
            self.choose(now, out);
        }
    }

    /// Finds the highest state that is held, and has it written if it is not on the disk.
    fn choose(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Halting(halting) = &mut self.phase else {
            return;
        };
        let oldest = halting.known.front().map_or(halting.start, |given| given.equilibrium.step);
        let rank = |on: ConnectionId| self.members.on(on).and_then(|member| member.rank);
        let holders = halting.survivors.iter().filter_map(|(&on, held)| Some(((*held)?, on)));
        let best = holders
            .filter(|&(step, _)| step >= oldest)
            .max_by_key(|&(step, on)| (step, std::cmp::Reverse(rank(on).unwrap_or(Rank(u32::MAX)))));
        let Some((step, holder)) = best else {
            return self.conclude("no survivor holds a state that could be written", out);
        };
        if step == halting.start || self.checkpoints.contains(&step) {
            return self.conclude(&format!("the highest state held, step {step}, needs no writing"), out);
        }
        let Some(given) = halting.known.iter().find(|given| given.equilibrium.step == step) else {
            return self.conclude(&format!("the equilibrium of step {step} is not known"), out);
        };
        let given = Given { orders: Orders::default(), ..*given };
        halting.stage = Stage::Saving { holder, step };
        halting.save_until.get_or_insert(now + SAVE_WAIT);
        let who = self.members.on(holder).map(Member::describe).unwrap_or_default();
        let why = format!("{who} holds step {step}, the highest, and writes it");
        send(out, vec![holder], Message::WriteCheckpoint(given), why.clone());
        out.push(Decision { act: Act::Note(self.note("save", rank_of(self, holder))), why });
    }

    /// A survivor wrote a checkpoint, or could not.
    pub(super) fn saved(
        &mut self,
        from: ConnectionId,
        written: Written,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Halting(halting) = &mut self.phase else {
            return Ok(());
        };
        let Written { step, error } = written;
        let asked = matches!(halting.stage, Stage::Saving { holder, step: asked } if holder == from && asked == step);
        let ordered = halting.checkpoints_due.contains(&step) && rank_of_member(self.members.on(from)) == Some(Rank(0));
        if !asked && !ordered {
            return Err(format!("a checkpoint of step {step}, which is not asked for"));
        }
        halting.checkpoints_due.remove(&step);
        if error.is_empty() {
            self.checkpoints.insert(step);
            let text = format!("the checkpoint of step {step} is written");
            let note = super::Note { step, ..self.note("checkpoint", None) };
            out.push(Decision { act: Act::Note(note), why: text.clone() });
            if asked {
                out.push(Decision { act: Act::Prune, why: text });
                self.conclude("", out);
            }
            return Ok(());
        }
        let who = self.members.on(from).map(Member::describe).unwrap_or_default();
        let text = format!("{who} could not write the checkpoint of step {step}: {error}");
        out.push(Decision { act: Act::Note(self.note("warning", rank_of(self, from))), why: text });
        if asked {
            self.fewer_survivors(from, now, out);
        }
        Ok(())
    }

    pub(super) fn halting_tick(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Halting(halting) = &self.phase else {
            return;
        };
        match halting.stage {
            Stage::Asking { until } if now > until => {
                let silent = halting.survivors.iter().filter(|(_, held)| held.is_none());
                let who: Vec<String> =
                    silent.filter_map(|(&on, _)| self.members.on(on)).map(Member::describe).collect();
                let text = format!("{} did not say within {} s what they hold", who.join(" and "), HELD_WAIT.as_secs());
                out.push(Decision { act: Act::Note(self.note("warning", None)), why: text });
                self.choose(now, out);
            }
            Stage::Saving { holder, step } if halting.save_until.is_some_and(|until| now > until) => {
                let who = self.members.on(holder).map(Member::describe).unwrap_or_default();
                let limit = SAVE_WAIT.as_secs();
                self.conclude(&format!("{who} did not write step {step} within {limit} s"), out);
            }
            _ => {}
        }
    }

    /// The generation is done with; see [`Cause::aftermath`].
    fn conclude(&mut self, found: &str, out: &mut Decisions) {
        let Phase::Halting(halting) = &self.phase else {
            return;
        };
        let cause = halting.cause.clone();
        // What was computed beyond the last checkpoint is lost, so that is where the run ended.
        let step = self.checkpoints.last().copied().unwrap_or_default();
        let found = if found.is_empty() { String::new() } else { format!("; {found}") };
        let why = format!("{cause}{found}; {}", self.how_to_resume());
        self.end(true, step, why, out);
    }
}

fn rank_of_member(member: Option<&Member>) -> Option<Rank> {
    member.and_then(|member| member.rank)
}

fn rank_of(machine: &Machine, connection: ConnectionId) -> Option<Rank> {
    rank_of_member(machine.members.on(connection))
}
