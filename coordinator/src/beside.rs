//! Who hears of what happens beside the machine: the record, those who look on, and the page.

use std::sync::Arc;

use began_proto::v1::Event;
use began_record::{Entry, EventRow};

use crate::page::feed::{Feed, News};
use crate::recorder::{Record, Recorder};
use crate::watchers::Watchers;

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Writes it down.
    pub recorder: Recorder,
    /// Who looks on.
    pub watchers: Arc<Watchers>,
    /// The page.
    pub page: Feed,
}

impl Beside {
    /// Something happened; never waits.
    pub fn note(&self, row: EventRow) {
        let EventRow { time, step, rank, node, .. } = row;
        self.watchers.event(Event { time, kind: row.kind.clone(), text: row.text.clone(), step, rank, node });
        self.page.tell(|| News::Event(row.clone()));
        self.recorder.record(Record::Entry(Entry::Event(row)));
    }
}
