//! What trainers were ordered to do, checked off as it is done: digests, checkpoints, samples, and with the last of them
//! the end.
//!
//! A report of something that was not ordered changes nothing. A run must never end well without its last checkpoint.

use std::time::Duration;

use super::digests::Compared;
use super::event::{Act, ConnectionId, Decision, Digest, Written};
use super::halting::Cause;
use super::members::Member;
use super::{Decisions, Machine, Phase, SAMPLE_WAIT};

impl Machine {
    pub(super) fn digest(
        &mut self,
        from: ConnectionId,
        digest: Digest,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let Some(rank) = self.members.on(from).and_then(|member| member.rank) else {
            return Ok(());
        };
        if rank.0 != 0 && !digest.tensors.is_empty() {
            return Err(format!("digests of single tensors at step {}, which only rank 0 sends", digest.step));
        }
        let step = digest.step;
        match running.digests.add(rank, digest)? {
            Compared::Waiting | Compared::Again => Ok(()),
            Compared::Agreed(digest) => {
                let text = format!("all {} trainers hold {} at step {step}", running.world.len(), digest.digest);
                let note = super::Note { step, ..self.note("digest", None) };
                out.push(Decision { act: Act::Digest(digest), why: text.clone() });
                out.push(Decision { act: Act::Note(note), why: text });
                self.stop_if_done(now, out);
                Ok(())
            }
            Compared::Differs(ranks) => {
                let who: Vec<String> =
                    ranks.iter().filter_map(|&rank| self.members.ranked(rank)).map(Member::describe).collect();
                let text =
                    format!("{} differs from the other trainers in the digest of step {step}", who.join(" and "));
                self.end_generation(Cause::Differs { text, state: step, ranks }, now, out);
                Ok(())
            }
        }
    }

    pub(super) fn checkpoint(
        &mut self,
        from: ConnectionId,
        written: Written,
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let Written { step, error } = written;
        let Some(member) = self.members.on(from).filter(|member| member.rank.is_some_and(|rank| rank.0 == 0)) else {
            return Err(format!("a checkpoint of step {step}, which only rank 0 writes"));
        };
        if !running.checkpoints_due.remove(&step) {
            return Err(format!("a checkpoint of step {step}, which is not asked for"));
        }
        let last = running.stopping == Some(step);
        if !error.is_empty() {
            let text = format!("{} could not write the checkpoint of step {step}: {error}", member.describe());
            if last {
                self.end_generation(Cause::NotSaved(text), now, out);
            } else {
                let text = format!("{text}; the run goes on");
                let note = super::Note { step, ..self.note("warning", member.rank) };
                out.push(Decision { act: Act::Note(note), why: text });
            }
            return Ok(());
        }
        self.checkpoints.insert(step);
        // Old checkpoints go only once this one has brought forth finite losses: a diverged state must not push out
        // the last good ones.
        let proven = last || running.step() > step;
        if !proven {
            running.unproven = Some(step);
        }
        let text = format!("the checkpoint of step {step} is written");
        let note = super::Note { step, ..self.note("checkpoint", None) };
        out.push(Decision { act: Act::Note(note), why: text.clone() });
        if proven {
            out.push(Decision { act: Act::Prune, why: text });
        }
        self.stop_if_done(now, out);
        Ok(())
    }

    pub(super) fn sample(&mut self, written: Written, now: Duration, out: &mut Decisions) -> Result<(), String> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let Written { step, error } = written;
        if !running.samples_due.remove(&step) {
            return Err(format!("samples of step {step}, which are not asked for"));
        }
        let (kind, text) = match error.as_str() {
            "" => ("sample", format!("samples of step {step} are drawn")),
            error => ("warning", format!("samples of step {step} could not be drawn: {error}; the run goes on")),
        };
        if kind == "sample" {
            out.push(Decision { act: Act::Sample(step), why: text.clone() });
        }
        let note = super::Note { step, ..self.note(kind, None) };
        out.push(Decision { act: Act::Note(note), why: text });
        self.stop_if_done(now, out);
        Ok(())
    }

    /// Whether the generation cannot go on without this trainer.
    pub(super) fn is_needed(&self, connection: ConnectionId) -> bool {
        let (Phase::Running(running), Some(member)) = (&self.phase, self.members.on(connection)) else {
            return false;
        };
        let Some(rank) = member.rank else {
            return false;
        };
        let writes = rank.0 == 0 && !running.checkpoints_due.is_empty();
        running.stopping.is_none() || writes || running.digests.missing().contains(&rank)
    }

    /// Ends the run once all that the last orders asked for is there.
    pub(super) fn stop_if_done(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Running(running) = &self.phase else {
            return;
        };
        let Some(step) = running.stopping else { return };
        let owed = running.digests.is_waiting() || running.checkpoints_due.contains(&step);
        let patience = SAMPLE_WAIT.min(self.step_timeout() / 2);
        let drawing = !running.samples_due.is_empty() && now.saturating_sub(running.since) <= patience;
        if owed || drawing {
            return;
        }
        let why = match running.asked.stop() {
            Some(reason) if step.0 < self.plan.config.run.steps => {
                format!("stopped on request at step {step} ({reason}); {}", self.how_to_resume())
            }
            _ => format!("all {step} steps are done"),
        };
        self.end(false, step, why, out);
    }
}
