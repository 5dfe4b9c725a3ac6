//! What one trainer of a stage knows, and what it makes of what it is sent.

use began::{Generation, Rank, Step};

use crate::machine::event::*;

/// What one trainer knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Trainer {
    pub(super) stream: u64,
    /// The generation it is in, or was in last.
    pub(super) generation: u64,
    pub(super) rank: u32,
    pub(super) world: u32,
    /// It has its place, as far as it knows.
    pub(super) placed: bool,
    pub(super) held: Option<Step>,
    pub(super) lineage: u64,
    pub(super) given: Vec<Given>,
    pub(super) past: Vec<Past>,
}

impl Trainer {
    /// It is in no generation any more, and nobody heard of it yet.
    pub(super) fn leave(&mut self) {
        self.placed = false;
    }

    pub(super) fn given(&self, step: Step) -> Option<Given> {
        self.given.iter().find(|given| given.equilibrium.step == step).copied()
    }

    /// What it brings along on a new stream.
    pub(super) fn returning(&self) -> Returning {
        let claim = Claim { generation: Generation(self.generation), rank: Rank(self.rank), world: self.world };
        Returning {
            step: self.held,
            claim: self.placed.then_some(claim),
            given: self.given.last().copied(),
            lineage: self.lineage,
            remembers: self.past.first().map_or(self.held.unwrap_or_default(), |past| past.given.equilibrium.step),
        }
    }

    fn is_news(&self, given: &Given) -> bool {
        self.given.last().is_none_or(|newest| newest.equilibrium.step < given.equilibrium.step)
    }

    pub(super) fn take(&mut self, message: &Message, generation: u64) {
        match message {
            Message::Opened(opened) => {
                let step = opened.given.equilibrium.step;
                (self.generation, self.rank, self.world) = (generation, opened.rank.0, opened.world_size);
                self.placed = true;
                let receives = opened.heal.from.is_some() || !opened.checkpoint.is_empty() || step == Step(0);
                if receives || opened.lineage != self.lineage {
                    self.past.clear();
                    self.held = receives.then_some(step);
                }
                assert_eq!(self.held, Some(step), "nobody gives it the state of step {step}");
                self.lineage = opened.lineage;
                self.past.retain(|past| past.given.equilibrium.step < step);
                self.given = vec![opened.given];
            }
            Message::Equilibrium(given) if self.placed && self.is_news(given) => self.given.push(*given),
            _ => {}
        }
    }
}
