//! What happens in the run, on its way to the page: handed over by the actor without a wait, taken in on the page's own
//! thread, and passed on to every visitor who follows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use began::Step;
use began_proto::v1::Ended;
use began_record::{EventRow, StepRow};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::course::{QUANTITIES, quantities};

/// News that may wait for the page.
const WAITING: usize = 1 << 16;
/// Events that are kept for the page; all of them are in the journal.
const KEPT: usize = 20_000;
/// Steps in one message to visitors; who gets fewer than there were asks for the curves again.
const AT_ONCE: usize = 200;

/// Something happened.
#[derive(Clone, Debug)]
pub enum News {
    /// A step is finished; with the images a second.
    Step(StepRow, f64),
    /// Steps from this one on are void.
    Rewind(Step),
    /// An event.
    Event(EventRow),
    /// A window of the diagnosis that ends before this step is whole.
    Window(u64),
    /// The run ended.
    Ended(Ended),
}

/// The actor's end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Feed(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<News>,
    missed: AtomicBool,
}

/// The page's end.
#[derive(Debug)]
pub struct Taking {
    queue: mpsc::Receiver<News>,
    inner: Arc<Inner>,
}

/// A feed to a page.
#[must_use]
pub fn feed() -> (Feed, Taking) {
    let (sender, queue) = mpsc::channel(WAITING);
    let inner = Arc::new(Inner { queue: sender, missed: AtomicBool::new(false) });
    (Feed(Some(inner.clone())), Taking { queue, inner })
}

/// A feed to nobody.
#[must_use]
pub fn nobody() -> (Feed, Taking) {
    let (Feed(_), taking) = feed();
    (Feed(None), taking)
}

impl Feed {
    /// Hands something over; never waits. What finds no room is missed, and the page knows it.
    pub fn tell(&self, news: impl FnOnce() -> News) {
        if let Some(inner) = &self.0
            && inner.queue.try_send(news()).is_err()
        {
            inner.missed.store(true, Ordering::Relaxed);
        }
    }
}

impl Taking {
    /// The next news.
    pub async fn next(&mut self) -> Option<News> {
        self.queue.recv().await
    }

    /// Whether something was missed since it was last asked.
    pub fn missed(&self) -> bool {
        self.inner.missed.swap(false, Ordering::Relaxed)
    }
}

/// One event as the page knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Noted {
    /// Counts the events of the run.
    pub id: u64,
    time: f64,
    /// "joined", "generation", ...
    pub kind: String,
    text: String,
    step: u64,
    generation: u64,
    rank: Option<u32>,
    node: Option<u32>,
}

/// The latest events.
#[derive(Debug, Default)]
pub struct Log {
    events: VecDeque<Noted>,
    next: u64,
}

impl Log {
    /// Of events in order.
    #[must_use]
    pub fn of(events: Vec<EventRow>) -> Self {
        let mut log = Self::default();
        for event in events {
            log.note(event);
        }
        log
    }

    /// Takes one in.
    pub fn note(&mut self, event: EventRow) -> Noted {
        let EventRow { time, kind, text, step, generation, rank, node } = event;
        let noted = Noted { id: self.next, time, kind, text, step, generation, rank, node };
        self.next += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(noted.clone());
        noted
    }

    /// The newest before `before`, of `kinds` (of all, if there are none), at most `limit`; and whether there are more.
    #[must_use]
    pub fn before(&self, before: u64, kinds: &[&str], limit: usize) -> (Vec<&Noted>, bool) {
        let fits = |noted: &&Noted| noted.id < before && (kinds.is_empty() || kinds.contains(&noted.kind.as_str()));
        let mut found = self.events.iter().rev().filter(fits);
        let events = found.by_ref().take(limit).collect();
        (events, found.next().is_some())
    }
}

/// A message of `/api/live`.
#[must_use]
pub fn frame(event: &str, data: &impl Serialize) -> Bytes {
    // Plain fields and finite or null numbers: this cannot fail.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".into());
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}

/// Steps as they travel: columns in single precision, which is finer than any screen.
#[derive(Serialize)]
struct Steps {
    step: Vec<u64>,
    #[serde(flatten)]
    columns: BTreeMap<&'static str, Vec<f32>>,
}

/// Steps as a message; the newest, if there are many.
#[must_use]
pub fn steps(rows: &[StepRow]) -> Bytes {
    let rows = &rows[rows.len().saturating_sub(AT_ONCE)..];
    let column = |which: usize| rows.iter().map(|row| quantities(row)[which] as f32).collect();
    let columns = QUANTITIES.into_iter().enumerate().map(|(which, name)| (name, column(which))).collect();
    frame("steps", &Steps { step: rows.iter().map(|row| row.record.step.0).collect(), columns })
}

/// The end as a message.
#[must_use]
pub fn ended(ended: &Ended) -> Bytes {
    frame("ended", &json!({ "failed": ended.failed, "reason": ended.reason, "step": ended.step }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str) -> EventRow {
        EventRow {
            time: 0.0,
            kind: kind.into(),
            text: "line\nbreak".into(),
            step: 1,
            generation: 1,
            rank: None,
            node: None,
        }
    }

    #[test]
    fn events_are_found_backwards_by_kind_and_the_oldest_go() {
        let mut log = Log::of((0..10).map(|at| event(if at % 2 == 0 { "even" } else { "odd" })).collect());
        let (found, more) = log.before(u64::MAX, &["odd"], 2);
        assert_eq!((found.iter().map(|noted| noted.id).collect::<Vec<_>>(), more), (vec![9, 7], true));
        let (found, more) = log.before(7, &["odd"], 10);
        assert_eq!((found.iter().map(|noted| noted.id).collect::<Vec<_>>(), more), (vec![5, 3, 1], false));
        for _ in 0..KEPT {
            log.note(event("new"));
        }
        assert!(log.before(u64::MAX, &["odd"], 1).0.is_empty());
        assert_eq!(log.before(u64::MAX, &[], 1).0[0].id, KEPT as u64 + 9);
    }

    #[test]
    fn a_message_is_one_line_of_data_whatever_is_in_it() {
        let mut log = Log::default();
        let text = String::from_utf8_lossy(&frame("event", &log.note(event("x")))).into_owned();
        assert!(text.starts_with("event: event\ndata: {") && text.ends_with("}\n\n"), "{text}");
        assert_eq!(text.matches('\n').count(), 3);
    }

    #[test]
    fn what_finds_no_room_is_missed_and_known_to_be() {
        let (feed, taking) = feed();
        for step in 0..=WAITING as u64 {
            feed.tell(|| News::Window(step));
        }
        assert!(taking.missed() && !taking.missed());
        Feed::default().tell(|| unreachable!("nobody looks on"));
    }
}
