//! What was said and may have been lost with a stream: said again on the next one.
//!
//! Saying something twice never harms: the coordinator knows it by its step.

use std::collections::VecDeque;

use began_proto::v1::trainer_message::Body;

/// Reports that are kept of each kind.
const KEPT: usize = 2;

/// The last losses, digests and reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    losses: VecDeque<Body>,
    digests: VecDeque<Body>,
    checkpoints: VecDeque<Body>,
}

impl Outbox {
    /// Keeps what must not be lost.
    pub(crate) fn keep(&mut self, body: &Body) {
        let shelf = match body {
            Body::Losses(_) => &mut self.losses,
            Body::Digest(_) => &mut self.digests,
            Body::Checkpoint(_) => &mut self.checkpoints,
            _ => return,
        };
        shelf.push_back(body.clone());
        if shelf.len() > KEPT {
            shelf.pop_front();
        }
    }

    /// A new generation begins: its losses and digests are new; what lies on the disk stays there.
    pub(crate) fn begin(&mut self) {
        self.losses.clear();
        self.digests.clear();
    }

    /// The last digest, for a halt that asks for it.
    pub(crate) fn last_digest(&self) -> Option<&Body> {
        self.digests.back()
    }

    /// Everything to be said again, in the order in which it may be said.
    pub(crate) fn again(&self) -> impl Iterator<Item = &Body> {
        self.losses.iter().chain(&self.digests).chain(&self.checkpoints)
    }
}
