//! What was decided, as the claims ask for it.

use std::time::Duration;

use crate::machine::Decisions;
use crate::machine::event::{Act, Decision};

/// How the run ended: whether it failed, at which step, and why.
pub(super) fn end(decisions: &Decisions) -> Option<(bool, u64, &str)> {
    decisions.iter().find_map(|decision| match decision.act {
        Act::End { failed, step } => Some((failed, step.0, decision.why.as_str())),
        _ => None,
    })
}

/// Why a message was dropped, where nothing else came of it.
pub(super) fn ignored(decisions: &Decisions) -> Option<&str> {
    match decisions.as_slice() {
        [Decision { act: Act::Ignore(_), why }] => Some(why),
        _ => None,
    }
}

/// The texts of the notes of a kind.
pub(super) fn notes<'a>(decisions: &'a Decisions, kind: &str) -> Vec<&'a str> {
    let of_kind = |decision: &&'a Decision| matches!(&decision.act, Act::Note(note) if note.kind == kind);
    decisions.iter().filter(of_kind).map(|decision| decision.why.as_str()).collect()
}

/// The generation that was opened, with the step it begins with and how many are in it.
pub(super) fn opening(decisions: &Decisions) -> Option<(u64, u64, usize)> {
    decisions.iter().find_map(|decision| match &decision.act {
        Act::Open { generation, step, world } => Some((generation.0, step.0, world.len())),
        _ => None,
    })
}

pub(super) fn has(decisions: &Decisions, act: &Act) -> bool {
    decisions.iter().any(|decision| decision.act == *act)
}

pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
