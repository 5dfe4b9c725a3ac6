//! What the machine was told, kept in the journal so that `coordinator replay` can tell it again.
//!
//! Each event is kept with its time and a digest of the decisions it led to. Ticks that decided nothing are left out: they
//! change nothing. The form is postcard's, one input after the other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{Decision, Event};
use crate::recorder::{Record, Recorder};

/// One event as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Microseconds awake since the start.
    pub at: u64,
    /// The event.
    pub event: Event,
    /// The beginning of the BLAKE3 of the decisions; 0 where there were none.
    pub decided: u64,
}

/// The beginning of the BLAKE3 of decisions, acts and reasons both; 0 for none.
#[must_use]
pub fn digest(decisions: &[Decision]) -> u64 {
    if decisions.is_empty() {
        return 0;
    }
    let mut hasher = blake3::Hasher::new();
    // A hasher takes everything, so this cannot fail but for a defect in a Serialize; then the digest differs and is seen.
    let _ = postcard::to_io(decisions, Hashing(&mut hasher));
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first).max(1)
}

struct Hashing<'a>(&'a mut blake3::Hasher);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes that wait for the journal at most before they are handed over.
const HELD_BACK: usize = 64 << 10;

/// Keeps what the machine is told.
///
/// Events that decided nothing wait for the one that does, or for the next tick: with a thousand trainers most losses only
/// complete the others, and waking the recorder for each of them would cost more than everything else about it.
#[derive(Debug, Default)]
pub struct InputLog {
    bytes: Vec<u8>,
    count: u64,
}

/// An event that is about to be handled.
#[derive(Debug)]
pub struct Noted {
    at: u64,
    /// The event in the form it is kept in; nothing for a tick.
    event: Option<Vec<u8>>,
}

impl InputLog {
    /// Takes down an event, before the machine uses it up.
    #[must_use]
    pub fn note(&self, event: &Event, at: Duration) -> Noted {
        let event = if matches!(event, Event::Tick) { None } else { postcard::to_stdvec(event).ok() };
        Noted { at: at.as_micros() as u64, event }
    }

    /// Takes down the decisions it led to. Before any of them is carried out, the journal is handed all that led to them.
    pub fn decided(&mut self, noted: Noted, decisions: &[Decision], recorder: &Recorder) {
        let Noted { at, event } = noted;
        let tick = event.is_none();
        if !(tick && decisions.is_empty()) {
            let event = event.unwrap_or_else(|| postcard::to_stdvec(&Event::Tick).unwrap_or_default());
            self.bytes.extend(postcard::to_stdvec(&at).unwrap_or_default());
            self.bytes.extend_from_slice(&event);
            self.bytes.extend(postcard::to_stdvec(&digest(decisions)).unwrap_or_default());
            self.count += 1;
        }
        if self.count > 0 && (tick || !decisions.is_empty() || self.bytes.len() >= HELD_BACK) {
            let (bytes, count) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count));
            recorder.record(Record::Inputs(bytes, count));
        }
    }
}

/// The inputs of one row of the journal.
///
/// # Errors
/// If they are not in this version's form.
pub fn read(mut bytes: &[u8], count: u64) -> Result<Vec<Kept>, String> {
    let mut kept = Vec::new();
    for _ in 0..count {
        let (one, rest) = postcard::take_from_bytes::<Kept>(bytes)
            .map_err(|error| format!("an input of the journal is of another version or damaged: {error}"))?;
        kept.push(one);
        bytes = rest;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Act, Action, ConnectionId, Ticket};
    use began::{RunConfig, Step};
    use began_record::{InputsRow, Journal, RecordError, RunDir, RunManifest};

    type Result = std::result::Result<(), Box<dyn std::error::Error>>;

    fn decided(why: &str) -> Vec<Decision> {
        vec![Decision { act: Act::Drop(ConnectionId(4)), why: why.into() }]
    }

    /// What a coordinator is told in its first second, and what it decides.
    fn history() -> Vec<(Event, Duration, Vec<Decision>)> {
        let broken = Event::Broken { connection: ConnectionId(4), reason: "connection reset".into() };
        let (ticket, action, grace) = (Ticket(1), Action::Stop, Duration::from_millis(1500));
        let control = Event::Control { ticket, action, reason: "a person, \u{1f600}".into(), grace };
        let answer = Decision { act: Act::Answer { ticket, answer: Ok(Step(9)) }, why: "asked for".into() };
        vec![
            (Event::Started, Duration::ZERO, decided("the run begins")),
            (Event::Tick, Duration::from_millis(25), vec![]),
            (broken, Duration::from_micros(30_001), vec![]),
            (Event::Tick, Duration::from_millis(50), decided("silent")),
            (control, Duration::from_secs(1), vec![answer]),
        ]
    }

    fn rows(journal: &Journal, start: u64) -> std::result::Result<Vec<InputsRow>, RecordError> {
        let mut rows = Vec::new();
        journal.inputs(start, |row| {
            rows.push(row);
            Ok::<(), RecordError>(())
        })?;
        Ok(rows)
    }

    #[test]
    fn what_the_machine_was_told_reads_back_from_the_journal_without_the_ticks_that_decided_nothing() -> Result {
        let folder = tempfile::tempdir()?;
        let manifest = RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        let mut journal = Journal::create_or_open(&run)?;
        let start = journal.start(0.0, b"a plan")?;
        let (recorder, recording) =
            Recorder::start(run.clone(), journal, start, Default::default(), Box::new(|trouble| panic!("{trouble}")))?;
        let mut log = InputLog::default();
        for (event, at, decisions) in history() {
            let noted = log.note(&event, at);
            log.decided(noted, &decisions, &recorder);
        }
        recording.finish(Duration::from_secs(10));

        let journal = Journal::read(&run)?;
        assert_eq!(journal.starts()?.len(), 1);
        let mut kept = Vec::new();
        for row in rows(&journal, start)? {
            assert_eq!(row.first, kept.len() as u64, "rows follow each other without a gap");
            kept.extend(read(&row.data, row.count)?);
        }
        let told = |(event, at, decisions): (Event, Duration, Vec<Decision>)| Kept {
            at: at.as_micros() as u64,
            event,
            decided: digest(&decisions),
        };
        let expected: Vec<Kept> =
            history().into_iter().filter(|(event, _, d)| *event != Event::Tick || !d.is_empty()).map(told).collect();
        assert_eq!(kept, expected);
        assert!(rows(&journal, start + 1)?.is_empty(), "of another start nothing is known");
        Ok(())
    }

    #[test]
    fn a_row_that_was_cut_anywhere_is_an_error_and_so_is_one_that_promises_more_than_it_has() -> Result {
        let kept: Vec<Kept> = history()
            .into_iter()
            .map(|(event, at, decisions)| Kept { at: at.as_micros() as u64, event, decided: digest(&decisions) })
            .collect();
        let whole: Vec<u8> = kept.iter().map(postcard::to_stdvec).collect::<std::result::Result<Vec<_>, _>>()?.concat();
        let count = kept.len() as u64;
        assert_eq!(read(&whole, count)?, kept);
        for cut in 0..whole.len() {
            let why = read(&whole[..cut], count).expect_err("a row that was cut");
            assert!(why.contains("of another version or damaged"), "{why}");
        }
        assert!(read(&whole, count + 1).is_err());
        assert!(read(&[0xff; 64], 1).is_err());
        Ok(())
    }

    #[test]
    fn decisions_differ_by_what_is_done_and_by_the_reason_given() {
        assert_eq!(digest(&[]), 0);
        assert_eq!(digest(&decided("silent")), digest(&decided("silent")));
        assert_ne!(digest(&decided("silent")), digest(&decided("silent for 2 s")));
        let other = vec![Decision { act: Act::Drop(ConnectionId(5)), why: "silent".into() }];
        assert_ne!(digest(&decided("silent")), digest(&other));
    }
}
