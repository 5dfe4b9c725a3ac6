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

/// Keeps what the machine is told.
#[derive(Debug, Default)]
pub struct InputLog;

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

    /// Hands it to the journal with the decisions it led to.
    pub fn decided(&self, noted: Noted, decisions: &[Decision], recorder: &Recorder) {
        let Noted { at, event } = noted;
        if event.is_none() && decisions.is_empty() {
            return;
        }
        let event = event.unwrap_or_else(|| postcard::to_stdvec(&Event::Tick).unwrap_or_default());
        let mut bytes = postcard::to_stdvec(&at).unwrap_or_default();
        bytes.extend_from_slice(&event);
        bytes.extend(postcard::to_stdvec(&digest(decisions)).unwrap_or_default());
        recorder.record(Record::Input(bytes));
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
