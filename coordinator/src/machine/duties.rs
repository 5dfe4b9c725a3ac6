//! What trainers were ordered to do, checked off as it is done: digests, checkpoints, samples, and with the last of them
//! the end.
//!
//! A report of something that was not ordered changes nothing. A run must never end well without its last checkpoint.

use std::time::Duration;

use began::Step;

use super::digests::Compared;
use super::event::{Act, Decision, Digest, Written};
use super::members::{Member, MemberId};
use super::regrouping::Cause;
use super::{Decisions, Machine, Note, Phase, SAMPLE_WAIT};

impl Machine {
    pub(super) fn digest(
        &mut self,
        from: MemberId,
        digest: Digest,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let Some(rank) = self.members.get(from).and_then(|member| member.rank) else {
            return Ok(());
        };
        let step = digest.step;
        match running.digests.add(rank, digest)? {
            Compared::Waiting | Compared::Again => Ok(()),
            Compared::Agreed(digest) => {
                let text = format!("all {} trainers hold {} at step {step}", running.world.len(), digest.digest);
                self.course.agreed = self.course.agreed.max(step);
                let note = Note { step, ..self.note("digest", None) };
                out.push(Decision { act: Act::Digest(digest), why: text.clone() });
                out.push(Decision { act: Act::Note(note), why: text });
                self.stop_if_done(now, out);
                Ok(())
            }
            Compared::Differs { ranks, clear } => {
                let who = ranks.iter().filter_map(|&rank| self.members.ranked(rank)).map(|member| member.id).collect();
                self.digests_differ(step, who, clear, now, out);
                Ok(())
            }
        }
    }

    /// A checkpoint was written, or could not be, whenever it was ordered.
    pub(super) fn checkpoint(
        &mut self,
        from: MemberId,
        written: Written,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Written { step, error } = written;
        let who = self.members.describe(from);
        let rank = self.members.get(from).and_then(|member| member.rank);
        let ordered = self.course.ordered.get(&step).copied();
        let Some(ordered) = ordered.filter(|ordered| ordered.writer.is_none_or(|writer| writer == from)) else {
            if self.course.void.remove(&step) && error.is_empty() {
                let why = format!("the checkpoint of step {step} is of a state that was found unsound, and goes");
                out.push(Decision { act: Act::SetAside(step), why });
                return Ok(());
            }
            // Said again after a stream broke, or written while a coordinator was missing.
            if self.course.checkpoints.contains_key(&step) {
                return Ok(());
            }
            return Err(format!("a checkpoint of step {step}, which is not asked for"));
        };
        self.course.ordered.remove(&step);
        let last = self.course.stopping == Some(step);
        if !error.is_empty() {
            let text = format!("{who} could not write the checkpoint of step {step}: {error}");
            if last && matches!(self.phase, Phase::Running(_)) {
                self.end_generation(Cause::End(text), now, out);
            } else {
                let text = format!("{text}; the run goes on");
                let note = Note { step, ..self.note("warning", rank) };
                out.push(Decision { act: Act::Note(note), why: text });
                self.saved(step, false, now, out);
            }
            return Ok(());
        }
        self.course.void.remove(&step);
        self.course.checkpoints.insert(step, ordered.equilibrium);
        // Old checkpoints go only once this one has brought forth finite losses: a diverged state must not push out
        // the last good ones.
        let proven = last || self.course.step() > step;
        if !proven {
            self.course.unproven = Some(step);
        }
        let text = format!("the checkpoint of step {step} is written");
        let note = Note { step, ..self.note("checkpoint", None) };
        out.push(Decision { act: Act::Note(note), why: text.clone() });
        if proven {
            self.prune(text, out);
        }
        self.saved(step, true, now, out);
        self.stop_if_done(now, out);
        Ok(())
    }

    /// Lets old checkpoints go.
    pub(super) fn prune(&mut self, why: String, out: &mut Decisions) {
        let gone = self.course.prune();
        if !gone.is_empty() {
            out.push(Decision { act: Act::Prune(gone), why });
        }
    }

    /// A checkpoint that a generation was to begin with cannot be used: it is passed over.
    pub(super) fn unusable(&mut self, from: MemberId, written: Written, now: Duration, out: &mut Decisions) {
        let Written { step, error } = written;
        let who = self.members.describe(from);
        if self.course.checkpoints.remove(&step).is_some() {
            let before = self.course.checkpoint_up_to(step);
            let text = format!(
                "the checkpoint of step {step} cannot be used ({error}), as {who} found; the one of step {before} is taken"
            );
            out.push(Decision { act: Act::SetAside(step), why: text.clone() });
            out.push(Decision { act: Act::Note(self.note("warning", None)), why: text });
        }
        let text = format!("{who} cannot use the checkpoint of step {step}: {error}");
        self.end_generation(Cause::Lost(text), now, out);
    }

    pub(super) fn sample(
        &mut self,
        written: Written,
        diversity: f64,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Written { step, error } = written;
        if let Phase::Running(running) = &mut self.phase
            && !running.samples_due.remove(&step)
            && !running.samples_past.remove(&step)
        {
            return Err(format!("samples of step {step}, which are not asked for"));
        }
        let (kind, text) = match error.as_str() {
            "" => ("sample", format!("samples of step {step} are drawn")),
            error => ("warning", format!("samples of step {step} could not be drawn: {error}; the run goes on")),
        };
        if kind == "sample" {
            out.push(Decision { act: Act::Sample(step), why: text.clone() });
        }
        let note = Note { step, ..self.note(kind, None) };
        out.push(Decision { act: Act::Note(note), why: text });
        if let Some(firing) = began::guard::diversity(step, diversity, &self.plan.config.guard)
            && self.guard_fired(firing, now, out)
        {
            return Ok(());
        }
        self.stop_if_done(now, out);
        Ok(())
    }

    /// Whether the generation cannot go on without this trainer.
    pub(super) fn is_needed(&self, id: MemberId) -> bool {
        let (Phase::Running(running), Some(member)) = (&self.phase, self.members.get(id)) else {
            return false;
        };
        let Some(rank) = member.rank else {
            return false;
        };
        let Some(last) = self.course.stopping else { return true };
        let writes =
            self.course.ordered.get(&last).is_some_and(|ordered| ordered.writer.is_none_or(|writer| writer == id));
        writes || running.digests.missing().contains(&rank)
    }

    /// Ends the run once all that the last orders asked for is there.
    pub(super) fn stop_if_done(&mut self, now: Duration, out: &mut Decisions) {
        let (Phase::Running(running), Some(step)) = (&self.phase, self.course.stopping) else {
            return;
        };
        let owed = running.digests.is_waiting() || self.course.ordered.contains_key(&step);
        let patience = SAMPLE_WAIT.min(self.step_timeout() / 2);
        let drawing = !running.samples_due.is_empty() && now.saturating_sub(running.since) <= patience;
        if owed || drawing {
            return;
        }
        let why = match self.course.asked.stop() {
            Some(reason) if step.0 < self.plan.config.run.steps => {
                format!("stopped on request at step {step} ({reason}); {}", self.how_to_resume())
            }
            _ => format!("all {step} steps are done"),
        };
        self.end(false, step, why, out);
    }

    /// What a lost trainer was to write is written by nobody.
    pub(super) fn forget_orders_of(&mut self, member: &Member, out: &mut Decisions) {
        let of = |ordered: &super::course::Ordered| ordered.writer == Some(member.id);
        let lost: Vec<Step> = self.course.ordered.iter().filter(|(_, o)| of(o)).map(|(step, _)| *step).collect();
        for step in lost {
            self.course.ordered.remove(&step);
            let text = format!("{} was to write the checkpoint of step {step}, and may not have", member.describe());
            out.push(Decision { act: Act::Note(Note { step, ..self.note("warning", member.rank) }), why: text });
        }
    }
}
