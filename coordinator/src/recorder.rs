//! The run's own record: journal, TensorBoard, manifest and old checkpoints, on a thread of their own.
//!
//! A step must never wait for a disk, so everything goes through a bounded queue and is written about ten times a second in
//! one transaction. A disk that is full or gone costs the record, not the run: what cannot be written is kept for a
//! while, tried again, and complained about each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use began::Step;
use began::score::Weights;
use began_record::tensorboard::Writer;
use began_record::{Entry, EvaluationRow, InputsRow, Journal, Launch, RunDir, StepRow};

use crate::courtesy;

/// Between two transactions.
const BATCH: Duration = Duration::from_millis(100);
/// Between two attempts on a disk that refuses.
const RETRY: Duration = Duration::from_secs(10);
/// How long, and how often, the last entries of a run are tried on a disk that refuses.
const LAST: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(1));
/// Commands that may wait, and entries that are kept while the disk refuses.
const QUEUE: usize = 1 << 16;
/// Bytes of a sample grid that TensorBoard is given.
const LARGEST_IMAGE: u64 = 32 << 20;

/// Something to be recorded.
#[derive(Clone, Debug)]
pub enum Record {
    /// A row of the journal; steps go to TensorBoard too.
    Entry(Entry),
    /// A sample grid is there.
    Sample(Step),
    /// A launch, for the manifest.
    Launch(Launch),
    /// These checkpoints may go.
    Prune(Vec<Step>),
    /// Checkpoints above this step hold a fault, and go.
    Discard(Step),
    /// This checkpoint is put aside, for whoever wants to look at it.
    SetAside(Step),
    /// So many things that the machine was told, in the form they are kept in.
    Inputs(Vec<u8>, u64),
    /// Write what there is now: a generation opens, and who joins it remembers nothing of the steps before.
    Now,
}

/// Told when something could not be recorded.
pub type Trouble = Box<dyn Fn(String) + Send>;

enum Command {
    Record(Record),
    /// Write what there is, and say so once it is all written.
    Sync(SyncSender<()>),
    Finish,
}

/// Hands records to the thread. Clones share it.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: SyncSender<Command>,
    lost: Arc<AtomicU64>,
    silent: bool,
}

/// The thread's end, to be waited for.
#[derive(Debug)]
pub struct Recording {
    recorder: Recorder,
    thread: thread::JoinHandle<()>,
}

impl Recorder {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn start(
        run: RunDir,
        journal: Journal,
        start: u64,
        durable: Arc<AtomicU64>,
        trouble: Trouble,
    ) -> std::io::Result<(Self, Recording)> {
        let (queue, commands) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let recorder = Self { queue, lost: lost.clone(), silent: false };
        let desk = Desk {
            run,
            journal,
            start,
            durable,
            trouble,
            lost,
            board: Board::Unopened,
            unwritten: Vec::new(),
            inputs: Vec::new(),
            pending: 0,
            noted: 0,
            retry: None,
        };
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || {
            courtesy::give_way(courtesy::RECORD);
            desk.work(&commands);
        })?;
        Ok((recorder.clone(), Recording { recorder, thread }))
    }

    /// One that records nothing.
    #[must_use]
    pub fn silenced(self) -> Self {
        Self { silent: true, ..self }
    }

    /// Puts a record into the queue; never waits. A full queue loses it, and says so.
    pub fn record(&self, record: Record) {
        if self.silent {
            return;
        }
        if self.queue.try_send(Command::Record(record)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has everything written at once, and waits for it, at most `limit`; whether it is.
    pub fn sync(&self, limit: Duration) -> bool {
        if self.silent {
            return true;
        }
        let (done, written) = sync_channel(1);
        self.queue.try_send(Command::Sync(done)).is_ok() && written.recv_timeout(limit).is_ok()
    }
}

impl Recording {
    /// Writes what is left, and ends the thread. Blocks, at most `limit`.
    pub fn finish(self, limit: Duration) {
        end(&self.recorder.queue, || Command::Finish, &self.thread, limit);
    }
}

/// Tells a thread over its queue to finish, and waits for its end. Blocks, at most `limit`.
pub(crate) fn end<T>(queue: &SyncSender<T>, finish: impl Fn() -> T, thread: &thread::JoinHandle<()>, limit: Duration) {
    let until = Instant::now() + limit;
    // The thread may be deep in a queue that is full: the wish to finish waits its turn like everything else.
    while queue.try_send(finish()).is_err() && !thread.is_finished() {
        if Instant::now() > until {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    while !thread.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Seconds since 1970.
#[must_use]
pub fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

enum Board {
    Unopened,
    Open(Writer),
    /// It failed once: pictures of a run are not worth more complaints.
    Given,
}

struct Desk {
    run: RunDir,
    journal: Journal,
    /// Which start of the coordinator this is.
    start: u64,
    /// Steps below this one are in the journal.
    durable: Arc<AtomicU64>,
    trouble: Trouble,
    lost: Arc<AtomicU64>,
    board: Board,
    unwritten: Vec<Entry>,
    /// Inputs for the next row, how many, and how many came before them.
    inputs: Vec<u8>,
    pending: u64,
    noted: u64,
    /// When to try a disk again that refused.
    retry: Option<Instant>,
}

impl Desk {
    fn work(mut self, commands: &Receiver<Command>) {
        let mut next = Instant::now() + BATCH;
        loop {
            match commands.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Record(record)) => self.take(record),
                Ok(Command::Sync(done)) => {
                    self.write();
                    if self.unwritten.is_empty() {
                        // Who asked may have gone on without it.
                        let _ = done.try_send(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => return self.write_the_last(),
            }
            if Instant::now() >= next {
                self.write();
                next = Instant::now() + BATCH;
            }
        }
    }

    /// What is left when the run is over; a disk that is full may get room again.
    fn write_the_last(&mut self) {
        let (limit, pause) = LAST;
        let until = Instant::now() + limit;
        loop {
            self.retry = None;
            self.write();
            if self.unwritten.is_empty() {
                return;
            }
            if Instant::now() >= until {
                break;
            }
            thread::sleep(pause);
        }
        tracing::error!(
            "the last {} entries of the journal are lost: {} could not be written for {} s",
            self.unwritten.len(),
            self.run.journal().display(),
            limit.as_secs()
        );
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => {
                match &entry {
                    Entry::Step(row) => self.draw(row),
                    Entry::Evaluation(row) => self.draw_scores(row),
                    _ => {}
                }
                if self.unwritten.len() < QUEUE {
                    self.unwritten.push(entry);
                } else {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Record::Sample(step) => self.show(step),
            Record::Launch(launch) => {
                let written = self.run.manifest().and_then(|mut manifest| {
                    manifest.launches.push(launch);
                    self.run.write_manifest(&manifest)
                });
                if let Err(error) = written {
                    (self.trouble)(format!("the launch is not in the manifest: {error}"));
                }
            }
            Record::Prune(steps) => {
                for step in steps {
                    self.remove_checkpoint(step);
                }
            }
            Record::Discard(above) => {
                let found = self.run.checkpoints().unwrap_or_default();
                for checkpoint in found.into_iter().filter(|checkpoint| checkpoint.step > above) {
                    self.put_aside("suspect", checkpoint.step);
                }
            }
            Record::SetAside(step) => self.put_aside("damaged", step),
            Record::Now => self.write(),
            Record::Inputs(bytes, count) => {
                self.inputs.extend_from_slice(&bytes);
                self.pending += count;
            }
        }
    }

    fn remove_checkpoint(&self, step: Step) {
        let name = RunDir::step_name(step);
        let (place, doomed) =
            (self.run.checkpoint_folder().join(&name), self.run.checkpoint_folder().join(format!(".removing-{name}")));
        // Renamed first: a checkpoint that is half removed must not look whole.
        match std::fs::rename(&place, &doomed).and_then(|()| std::fs::remove_dir_all(&doomed)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                (self.trouble)(format!("the old checkpoint {} stays: {error}", place.display()));
            }
            _ => {}
        }
    }

    /// Nothing picks up what has such a name.
    fn put_aside(&self, why: &str, step: Step) {
        let name = RunDir::step_name(step);
        let folder = self.run.checkpoint_folder();
        let (place, aside) = (folder.join(&name), folder.join(format!("{why}-{name}")));
        let _ = std::fs::remove_dir_all(&aside);
        match std::fs::rename(&place, &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                (self.trouble)(format!("the {why} checkpoint {} could not be put aside: {error}", place.display()));
            }
            _ => {}
        }
    }

    /// Makes a row of the inputs that came since the last one.
    fn close_row(&mut self) {
        if self.pending == 0 {
            return;
        }
        let (count, first) = (std::mem::take(&mut self.pending), self.noted);
        self.noted += count;
        let data = std::mem::take(&mut self.inputs);
        if self.unwritten.len() < QUEUE {
            self.unwritten.push(Entry::Inputs(InputsRow { start: self.start, first, count, data }));
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The first step that the journal has not got once all of `unwritten` is in it. Steps that are computed again are in it.
    fn reached(&self) -> u64 {
        self.unwritten.iter().fold(self.durable.load(Ordering::Relaxed), |reached, entry| match entry {
            Entry::Step(row) => reached.max(row.record.step.0 + 1),
            Entry::Rewind(step) => reached.min(step.0),
            _ => reached,
        })
    }

    fn write(&mut self) {
        self.close_row();
        if let Board::Open(board) = &mut self.board
            && let Err(error) = board.flush()
        {
            self.give_up_board(&error.to_string());
        }
        if self.unwritten.is_empty() || self.retry.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.journal.write(&self.unwritten) {
            Ok(()) => {
                self.durable.store(self.reached(), Ordering::Relaxed);
                self.unwritten.clear();
                self.retry = None;
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    (self.trouble)(format!("{lost} entries are missing in the journal: the disk was too slow or full"));
                }
            }
            Err(error) => {
                self.retry = Some(Instant::now() + RETRY);
                let what = if error.disk_full() { "the disk is full" } else { "the journal cannot be written" };
                let kept = self.unwritten.len();
                (self.trouble)(format!(
                    "{what}, the run goes on without a record ({kept} entries wait, tried again every {} s): {error}",
                    RETRY.as_secs()
                ));
            }
        }
    }

    fn board(&mut self, draw: impl FnOnce(&mut Writer) -> Result<(), began_record::RecordError>) {
        if matches!(self.board, Board::Unopened) {
            match Writer::create(&self.run.tensorboard(), wall_clock()) {
                Ok(writer) => self.board = Board::Open(writer),
                Err(error) => return self.give_up_board(&error.to_string()),
            }
        }
        if let Board::Open(board) = &mut self.board
            && let Err(error) = draw(board)
        {
            self.give_up_board(&error.to_string());
        }
    }

    fn give_up_board(&mut self, error: &str) {
        self.board = Board::Given;
        (self.trouble)(format!("TensorBoard gets no more of this launch: {error}"));
    }

    fn draw(&mut self, row: &StepRow) {
        let StepRow { record, seconds, time, .. } = *row;
        let scalars = [
            ("loss/real", record.real),
            ("loss/fake", record.fake),
            ("equilibrium/k", record.k),
            ("equilibrium/m_global", record.m_global),
            ("optimizer/rate", record.rate),
            ("time/step_seconds", seconds),
        ];
        self.board(|board| board.scalars(time, record.step.0, &scalars));
    }

    fn draw_scores(&mut self, row: &EvaluationRow) {
        let suffix = match row.weights {
            Weights::Live => "",
            Weights::Average => "-average",
        };
        let named: Vec<(String, f64)> =
            row.scores.iter().map(|(metric, value)| (format!("evaluation/{metric}{suffix}"), *value)).collect();
        let scalars: Vec<(&str, f64)> = named.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.board(|board| board.scalars(wall_clock(), row.step.0, &scalars));
    }

    fn show(&mut self, step: Step) {
        // The path is ours, not the trainer's: nobody can have another file read.
        let path = self.run.samples().join(format!("{}.png", RunDir::step_name(step)));
        let png = match std::fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() <= LARGEST_IMAGE => std::fs::read(&path),
            Ok(_) => Err(std::io::Error::other("not a file of a sensible size")),
            Err(error) => Err(error),
        };
        match png.map(|png| (png_size(&png), png)) {
            Ok((Some((width, height)), png)) => {
                self.board(|board| board.image(wall_clock(), step.0, "samples", width, height, png));
            }
            Ok((None, _)) => {
                tracing::debug!(path = %path.display(), "not a PNG, TensorBoard goes without it")
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "no samples for TensorBoard")
            }
        }
    }
}

/// Width and height of a PNG: the first fields of its first chunk.
fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    if !png.starts_with(b"\x89PNG\r\n\x1a\n") || png.get(12..16)? != b"IHDR" {
        return None;
    }
    let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    Some((number(16)?, number(20)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::RunConfig;
    use began_record::{EventRow, RunManifest};
    use std::sync::Mutex;

    type Result = std::result::Result<(), Box<dyn std::error::Error>>;

    fn event(text: &str) -> Record {
        Record::Entry(Entry::Event(EventRow {
            time: 0.0,
            kind: "test".into(),
            text: text.into(),
            step: 0,
            generation: 1,
            rank: None,
            node: None,
        }))
    }

    #[test]
    fn a_journal_that_cannot_be_written_is_complained_about_and_caught_up_with_later() -> Result {
        let folder = tempfile::tempdir()?;
        let manifest = RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        let journal = Journal::create_or_open(&run)?;
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let heard = complaints.clone();
        let trouble = Box::new(move |text| {
            if let Ok(mut heard) = heard.lock() {
                heard.push(text);
            }
        });
        let durable = Arc::new(AtomicU64::new(0));
        let (recorder, recording) = Recorder::start(run.clone(), journal, 1, durable, trouble)?;

        rusqlite::Connection::open(run.journal())?.execute_batch("DROP TABLE events")?;
        recorder.record(event("while it fails"));
        let until = Instant::now() + Duration::from_secs(5);
        while complaints.lock().is_ok_and(|heard| heard.is_empty()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let heard = complaints.lock().map(|heard| heard.join("; ")).unwrap_or_default();
        assert!(heard.contains("the run goes on without a record (1 entries wait"), "{heard}");

        drop(Journal::create_or_open(&run)?);
        recorder.record(event("after it was mended"));
        recording.finish(Duration::from_secs(5));
        let kept: Vec<String> = Journal::read(&run)?.events()?.into_iter().map(|e| e.text).collect();
        assert_eq!(kept, ["while it fails", "after it was mended"]);
        Ok(())
    }

    #[test]
    fn only_a_png_has_a_size() {
        assert_eq!(png_size(b"not a picture at all, not even close"), None);
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x20\x08\x02";
        assert_eq!(png_size(png), Some((64, 32)));
        assert_eq!(png_size(&png[..18]), None);
    }
}
