//! Progress and events for whoever looks on: the launcher, later the page.
//!
//! A slow watcher never holds the run up: of progress it sees only the newest, of events all up to a bound, and where it
//! missed some it is told how many.

use began_proto::v1::{Ended, Event, Progress, WatchEvent, watch_event::Body};
use tokio::sync::{broadcast, mpsc, watch};
use tonic::Status;

/// Events a watcher may be behind.
const BEHIND: usize = 1024;

/// Where progress and events are told.
#[derive(Debug)]
pub struct Watchers {
    progress: watch::Sender<Option<Progress>>,
    events: broadcast::Sender<Event>,
    ended: watch::Sender<Option<Ended>>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            progress: watch::Sender::new(None),
            events: broadcast::Sender::new(BEHIND),
            ended: watch::Sender::new(None),
        }
    }
}

impl Watchers {
    /// A step was finished.
    pub fn progress(&self, progress: Progress) {
        self.progress.send_replace(Some(progress));
    }

    /// Something happened. That nobody looks on is no error.
    pub fn event(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// The run ended.
    pub fn ended(&self, ended: Ended) {
        self.ended.send_replace(Some(ended));
    }

    /// The newest progress.
    #[must_use]
    pub fn newest(&self) -> Option<Progress> {
        *self.progress.borrow()
    }

    /// A new watcher: sees what happens from now on, and the end even if it was before.
    #[must_use]
    pub fn watch(&self) -> mpsc::Receiver<Result<WatchEvent, Status>> {
        let (sender, receiver) = mpsc::channel(16);
        let mut progress = self.progress.subscribe();
        progress.mark_unchanged();
        let (events, ended) = (self.events.subscribe(), self.ended.subscribe());
        tokio::spawn(follow(progress, events, ended, sender));
        receiver
    }
}

async fn follow(
    mut progress: watch::Receiver<Option<Progress>>,
    mut events: broadcast::Receiver<Event>,
    mut ended: watch::Receiver<Option<Ended>>,
    sender: mpsc::Sender<Result<WatchEvent, Status>>,
) {
    loop {
        // What happened before the end is told before the end.
        let body = tokio::select! {
            biased;
            () = sender.closed() => return,
            event = events.recv() => match event {
                Ok(event) => Body::Event(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => Body::Event(Event {
                    kind: "missed".into(),
                    text: format!("{missed} events went by too fast for this watcher"),
                    ..Default::default()
                }),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            Ok(()) = progress.changed() => match *progress.borrow_and_update() {
                Some(progress) => Body::Progress(progress),
                None => continue,
            },
            Ok(end) = ended.wait_for(Option::is_some) => match end.clone() {
                Some(end) => Body::Ended(end),
                None => continue,
            },
            else => return,
        };
        let last = matches!(body, Body::Ended(_));
        if sender.send(Ok(WatchEvent { body: Some(body) })).await.is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(watcher: &mut mpsc::Receiver<Result<WatchEvent, Status>>) -> Option<Body> {
        watcher.recv().await?.ok()?.body
    }

    #[tokio::test]
    async fn a_slow_watcher_sees_the_newest_progress_and_every_event_before_the_end() {
        let watchers = Watchers::default();
        let mut watcher = watchers.watch();
        for step in 0..100 {
            watchers.progress(Progress { step, ..Default::default() });
        }
        for step in 0..100 {
            watchers.event(Event { step, ..Default::default() });
        }
        watchers.ended(Ended { step: 100, ..Default::default() });
        for step in 0..100 {
            assert!(matches!(next(&mut watcher).await, Some(Body::Event(event)) if event.step == step));
        }
        assert!(matches!(next(&mut watcher).await, Some(Body::Progress(progress)) if progress.step == 99));
        assert!(matches!(next(&mut watcher).await, Some(Body::Ended(ended)) if ended.step == 100));
        assert!(next(&mut watcher).await.is_none());
    }

    #[tokio::test]
    async fn who_comes_after_the_end_is_told_of_it() {
        let watchers = Watchers::default();
        watchers.ended(Ended { failed: true, ..Default::default() });
        assert!(matches!(next(&mut watchers.watch()).await, Some(Body::Ended(ended)) if ended.failed));
    }

    #[tokio::test]
    async fn a_watcher_that_missed_events_is_told_how_many() {
        let watchers = Watchers::default();
        let mut watcher = watchers.watch();
        for step in 0..2000 {
            watchers.event(Event { step, ..Default::default() });
        }
        let Some(Body::Event(first)) = next(&mut watcher).await else { panic!("no event") };
        assert!(first.kind == "missed" && first.text.contains("976"), "{first:?}");
    }
}
