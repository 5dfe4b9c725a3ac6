//! `coordinator replay RUN`: tells the machine again what it was told, and compares every decision.
//!
//! It reads the journal and nothing else, and changes nothing. What does not come out the same is named by its place, the
//! event and the time.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use began_record::{Journal, RecordError, RunDir};

use crate::inputs::{self, Kept};
use crate::machine::{Act, Decision, Machine, Plan};

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Starts of the coordinator.
    pub starts: u64,
    /// Events that the machine was told again.
    pub events: u64,
    /// Decisions that came out again.
    pub decisions: u64,
    /// Steps among them.
    pub steps: u64,
    /// Generations that were opened.
    pub generations: u64,
    /// What did not come out the same, or could not be told again.
    pub differences: Vec<String>,
}

/// Why there was nothing to replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The files of the run.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A journal of another version.
    #[error("the journal of {run} holds no decisions to replay: {reason}")]
    Nothing {
        /// The run.
        run: String,
        /// Why.
        reason: String,
    },
}

/// Replays the journal of a run. `show` gets a line for each decision that people may want to read.
///
/// # Errors
/// If there is no journal, or none of this version.
pub fn replay(path: &Path, mut show: impl FnMut(&str)) -> Result<Found, ReplayError> {
    let run = RunDir::open(path)?;
    let journal = Journal::read(&run)?;
    let nothing = |reason: &str| ReplayError::Nothing { run: path.display().to_string(), reason: reason.into() };
    let mut found = Found::default();
    for start in journal.starts()? {
        found.starts += 1;
        let plan: Plan = postcard::from_bytes(&start.plan)
            .map_err(|error| nothing(&format!("start {} is of another version ({error})", start.id)))?;
        let machine = Machine::new(plan).map_err(|error| nothing(&error.to_string()))?;
        let mut again = Again { machine, start: start.id, next: 0, broken: false, found: &mut found, show: &mut show };
        journal.inputs::<RecordError>(start.id, |row| {
            again.row(row.first, row.count, &row.data);
            Ok(())
        })?;
    }
    if found.starts == 0 {
        return Err(nothing("no coordinator of this version has driven it"));
    }
    Ok(found)
}

struct Again<'a> {
    machine: Machine,
    start: u64,
    next: u64,
    broken: bool,
    found: &'a mut Found,
    show: &'a mut dyn FnMut(&str),
}

impl Again<'_> {
    fn row(&mut self, first: u64, count: u64, data: &[u8]) {
        if self.broken {
            return;
        }
        if first != self.next {
            return self.give_up(format!("inputs {} to {first} are missing in the journal", self.next));
        }
        match inputs::read(data, count) {
            Ok(kept) => kept.into_iter().for_each(|kept| self.tell(kept)),
            Err(why) => self.give_up(why),
        }
    }

    fn give_up(&mut self, why: String) {
        self.broken = true;
        self.found.differences.push(format!("start {}: {why}", self.start));
    }

    fn tell(&mut self, Kept { at, event, decided }: Kept) {
        let place = self.next;
        self.next += 1;
        if self.broken {
            return;
        }
        let told = format!("{event:?}");
        let decisions = self.machine.handle(event, Duration::from_micros(at));
        self.found.events += 1;
        self.found.decisions += decisions.len() as u64;
        let seconds = at as f64 / 1e6;
        for Decision { act, why } in &decisions {
            match act {
                Act::Step { .. } => self.found.steps += 1,
                Act::Open { .. } => self.found.generations += 1,
                Act::Note(note) => (self.show)(&format!(
                    "start {} {seconds:10.3} s  step {:>6}  {:<11} {why}",
                    self.start, note.step, note.kind
                )),
                _ => {}
            }
        }
        if inputs::digest(&decisions) != decided {
            let mut text = String::new();
            let _ = write!(text, "input {place} at {seconds:.6} s led to other decisions than it did: ");
            let _ = write!(text, "{} were made again, of ", decisions.len());
            text.extend(told.chars().take(300));
            // Everything after this would differ for this reason.
            self.give_up(text);
        }
    }
}
