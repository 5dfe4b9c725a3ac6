//! What a communicator was last asked to do, so that a wait that fails can say what it waited for and on whom.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

use crate::element::Elements;
use crate::error::{named, others};

/// An operation and its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub name: &'static str,
    pub elements: Elements,
    /// The other side of a send or receive; `None` is everybody.
    pub peer: Option<usize>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.elements)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Issued {
    count: Cell<u64>,
    newest: Cell<Option<Operation>>,
    everybody: Cell<bool>,
    peers: RefCell<BTreeSet<usize>>,
}

impl Issued {
    pub(crate) fn note(&self, operation: Operation) {
        self.count.set(self.count.get() + 1);
        self.newest.set(Some(operation));
        match operation.peer {
            Some(peer) => drop(self.peers.borrow_mut().insert(peer)),
            None => self.everybody.set(true),
        }
    }

    /// A wait ended well: what was before it is nobody's concern any more.
    pub(crate) fn clear(&self) {
        self.everybody.set(false);
        self.peers.borrow_mut().clear();
    }

    /// The caller's name for it, and the newest operation.
    pub(crate) fn describe(&self, what: &str) -> String {
        match self.newest.get() {
            Some(newest) => format!("{what} (operation {}: {newest})", self.count.get()),
            None => format!("{what} (no operation was issued)"),
        }
    }

    /// The ranks that take part in what was issued since the last good wait.
    pub(crate) fn on(&self, rank: usize, size: usize) -> String {
        let peers = self.peers.borrow();
        let mut elsewhere = peers.iter().copied().filter(|peer| *peer != rank).peekable();
        if self.everybody.get() || elsewhere.peek().is_none() {
            return others(rank, size);
        }
        named(elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_to_point_waits_on_its_peers_and_a_collective_on_everybody() {
        let issued = Issued::default();
        let send = |peer| Operation { name: "send", elements: Elements::f32(3), peer: Some(peer) };
        issued.note(send(5));
        issued.note(send(2));
        issued.note(send(0));
        assert_eq!(issued.on(0, 8), "ranks 2, 5");
        assert_eq!(issued.describe("the pieces"), "the pieces (operation 3: send of 3 f32)");
        issued.note(Operation { peer: None, ..send(0) });
        assert_eq!(issued.on(0, 3), "ranks 1, 2");
        issued.clear();
        issued.note(send(1));
        assert_eq!(issued.on(0, 8), "rank 1");
    }
}
