//! Going back: what follows when a state turns out unsound, because trainers disagree or because a guard fired.
//!
//! A state that differs on one trainer has spoilt everyone's since, through its gradients; so the run goes back to a checkpoint
//! from before. No state from before a step back is ever taken up again: it carries an older lineage.

use std::time::Duration;

use began::Step;
use began::config::{GuardAction, OnCorruption};
use began::guard::{Firing, Kind};

use super::event::{Act, Back, Decision, Digest};
use super::members::{MemberId, Standing};
use super::regrouping::Cause;
use super::{Decisions, Machine, Note, Phase};

/// Tensors that are named before the rest is only counted.
const NAMED: usize = 4;

/// One whose digest differed; it may be gone by the time that is settled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Accused {
    id: MemberId,
    place: (u32, u32),
    who: String,
}

impl Machine {
    /// The digests of a step are not all the same.
    pub(super) fn digests_differ(
        &mut self,
        step: Step,
        who: Vec<MemberId>,
        clear: bool,
        now: Duration,
        out: &mut Decisions,
    ) {
        let names: Vec<String> = who.iter().map(|&id| self.members.describe(id)).collect();
        let text = format!("{} differs from the other trainers in the digest of step {step}", names.join(" and "));
        out.push(Decision {
            act: Act::Note(Note { step, ..self.note("corruption", None) }),
            why: if clear { text.clone() } else { format!("{text}; it cannot be told which of them is wrong") },
        });
        if self.plan.config.run.on_corruption == OnCorruption::Stop {
            let doubt = if self.course.checkpoints.contains_key(&step) {
                format!("; the checkpoint of step {step} may hold the same fault, those before it do not")
            } else {
                String::new()
            };
            return self.end_generation(Cause::End(format!("{text}{doubt}")), now, out);
        }
        let accused = |&id: &MemberId| {
            let member = self.members.get(id)?;
            Some(Accused { id, place: member.place(), who: member.describe() })
        };
        let accused = who.iter().filter_map(accused).collect();
        let sound = self.course.agreed.min(Step(step.0.saturating_sub(1)));
        let to = self.course.checkpoint_up_to(sound);
        self.step_back(to, None, &text, out);
        self.end_generation(Cause::Back { text, to, accused: Some((accused, clear)) }, now, out);
    }

    /// All states above `to` are void; the learning rate from there on, if that is another by `factor`.
    fn step_back(&mut self, to: Step, factor: Option<f64>, text: &str, out: &mut Decisions) -> Option<f64> {
        self.course.step_back(to);
        let rate = factor.map(|factor| self.course.lower_rate(to, factor));
        for member in self.members.iter_mut().filter(|member| matches!(member.standing, Standing::Outside(_))) {
            member.standing = Standing::Outside(None);
        }
        let why = match self.course.checkpoint_up_to(to) {
            from if from == to => format!("{text}; the run goes back to step {to}, the last checkpoint from before"),
            from => format!("{text}; the run goes back to step {to}, which is computed again from step {from}"),
        };
        out.push(Decision { act: Act::Back(Back { to, lineage: self.course.lineage, rate }), why });
        rate
    }

    /// Everyone has said what it holds: the one that differed is named down to the tensor, and put out if that is wanted.
    pub(super) fn settle_accusation(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Regrouping(regrouping) = &mut self.phase else { return };
        let Some((accused, clear)) = regrouping.accused.take() else { return };
        let evidence = std::mem::take(&mut regrouping.evidence);
        let differed = |id: &MemberId| accused.iter().any(|accused| accused.id == *id);
        let sound = evidence.iter().find(|(id, _)| !differed(id)).map(|(_, digest)| digest.clone());
        for Accused { id, place, who } in accused {
            let text = match (&sound, evidence.get(&id)) {
                (Some(sound), Some(its)) => format!("{who} {}", difference(sound, its)),
                _ => format!("{who} differed, and did not say in which tensor"),
            };
            let step = evidence.get(&id).map_or(self.course.step(), |digest| digest.step);
            out.push(Decision { act: Act::Note(Note { step, ..self.note("corruption", None) }), why: text.clone() });
            if self.plan.config.run.on_corruption == OnCorruption::SetAside && clear {
                self.aside.insert(place);
                self.expel(id, true, format!("{text}; it is set aside (run.on_corruption)"), out);
            }
        }
        self.try_open(now, out);
    }

    /// A guard fired; whether the generation is over for it.
    pub(super) fn guard_fired(&mut self, firing: Firing, now: Duration, out: &mut Decisions) -> bool {
        let Firing { kind, action, text, trouble_from } = firing;
        let note = Note { step: trouble_from, ..self.note("guard", None) };
        match action {
            GuardAction::Off => false,
            GuardAction::Warn => {
                out.push(Decision { act: Act::Note(note), why: text });
                false
            }
            GuardAction::Stop => {
                out.push(Decision { act: Act::Note(note), why: text.clone() });
                let cause = if kind == Kind::NotFinite { Cause::End(text) } else { Cause::Hopeless(text) };
                self.end_generation(cause, now, out);
                true
            }
            GuardAction::Rollback => {
                self.roll_back(kind, text, trouble_from, now, out);
                true
            }
        }
    }

    fn roll_back(&mut self, kind: Kind, text: String, trouble_from: Step, now: Duration, out: &mut Decisions) {
        let guard = self.plan.config.guard;
        let note = self.note("guard", None);
        if self.course.rollbacks >= guard.most_rollbacks {
            let text =
                format!("{text}; the run went back {} times already (guard.most_rollbacks)", self.course.rollbacks);
            out.push(Decision { act: Act::Note(note), why: text.clone() });
            let cause = if kind == Kind::NotFinite { Cause::End(text) } else { Cause::Hopeless(text) };
            return self.end_generation(cause, now, out);
        }
        self.course.rollbacks += 1;
        let before = Step(trouble_from.0.saturating_sub(1));
        let to = self.course.turning_point_up_to(before);
        let rate = self.step_back(to, Some(guard.rate_factor), &text, out);
        let rate = rate.map_or(String::new(), |rate| format!(", with the learning rate {rate:.3e}"));
        let text = format!("{text}; rollback {} to step {to}{rate}", self.course.rollbacks);
        out.push(Decision { act: Act::Note(note), why: text.clone() });
        self.end_generation(Cause::Back { text, to, accused: None }, now, out);
    }

    /// A loss is not a number: the state of this step, which gave it, may be unsound already.
    pub(super) fn not_finite(&mut self, state: Step, error: &str, now: Duration, out: &mut Decisions) {
        let doubt = match self.course.checkpoints.contains_key(&state) {
            true => format!("; the checkpoint of step {state} may hold the same fault, those before it do not"),
            false => String::new(),
        };
        let action = self.plan.config.guard.not_finite;
        let text = if action == GuardAction::Rollback { error.to_owned() } else { format!("{error}{doubt}") };
        let firing = Firing { kind: Kind::NotFinite, action, text, trouble_from: state };
        self.guard_fired(firing, now, out);
    }
}

/// In which tensors a digest differs from the sound one.
fn difference(sound: &Digest, its: &Digest) -> String {
    if sound.step != its.step || its.tensors.is_empty() || sound.tensors.len() != its.tensors.len() {
        return format!("differed at step {}, and did not say in which tensor", its.step);
    }
    let differing: Vec<&str> = sound
        .tensors
        .iter()
        .zip(&its.tensors)
        .filter(|(sound, its)| sound != its)
        .map(|(_, (name, _))| name.as_str())
        .collect();
    let named = differing[..differing.len().min(NAMED)].join(", ");
    let more = differing.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more tensors") } else { String::new() };
    match differing.is_empty() {
        true => format!("differed at step {} outside its tensors", its.step),
        false => format!("differed at step {} in {named}{more}", its.step),
    }
}
