//! The account of a run's samples: what its journal says was drawn, held against the order that its seed and data give.
//!
//! Pure, and bounded in memory: one bit a sample for each epoch that a step can still reach into. It must never count a sample
//! that the journal does not vouch for, except where the journal recorded nothing; those steps are counted apart.

use std::collections::{BTreeMap, BTreeSet};

use began::order::{SampleOrder, drawn_by_all, drawn_by_lane};
use began::{Lane, Step};
use began_record::{EventRow, StepRow};
use serde::Serialize;

/// A journal that claims more epochs has a damaged step in it, and the missing steps are told anyway.
const MOST_EPOCHS: u64 = 1 << 24;

/// The account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Steps in the journal.
    pub steps: u64,
    /// Of those, how many do not say what was drawn.
    pub unrecorded: u64,
    /// What does not hold, in order of steps.
    pub wrong: Vec<Wrong>,
    /// Every epoch that was begun.
    pub epochs: Vec<Epoch>,
    /// Which generation committed which steps, in order of steps.
    pub spans: Vec<Span>,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Wrong {
    /// Steps that are not in the journal.
    Missing {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// A step that is there more than once.
    Twice {
        /// Which.
        step: u64,
    },
    /// The lanes drew other samples than the order says.
    Drawn {
        /// In which step.
        step: u64,
        /// Which generation computed it.
        generation: u64,
        /// What tells the order's samples.
        expected: u64,
        /// What the journal has.
        found: u64,
    },
}

/// One epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Epoch {
    /// Which.
    pub epoch: u64,
    /// Samples that were drawn, each counted once.
    pub seen: u64,
    /// Draws of a sample that had been drawn before in the epoch.
    pub repeated: u64,
    /// Samples that had to be drawn up to the last step.
    pub due: u64,
    /// Samples of the data set.
    pub of: u64,
    /// The first step that draws from it.
    pub first_step: u64,
    /// The last that did.
    pub last_step: u64,
}

impl Epoch {
    /// Whether every sample that was due came exactly once.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.seen == self.due && self.repeated == 0
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.due == self.of
    }
}

/// Consecutive steps that one generation committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The generation.
    pub generation: u64,
    /// Its first step.
    pub first: u64,
    /// Its last step.
    pub last: u64,
}

/// What the order is drawn over.
#[derive(Clone, Debug)]
pub struct Books {
    order: SampleOrder,
    /// Where each shard's samples begin in a bitmap over all.
    offsets: Vec<u64>,
    total: u64,
    lanes: u32,
    batch: u32,
}

/// The samples of one epoch that were drawn.
struct Bits {
    words: Vec<u64>,
    entry: Epoch,
}

impl Books {
    /// The books of a run over shards of these sizes.
    ///
    /// # Errors
    /// If there is no order over them.
    pub fn new(seed: u64, shard_samples: Vec<u64>, lanes: u32, batch: u32) -> Result<Self, began::order::OrderError> {
        let before = |total: &mut u64, samples: &u64| {
            let start = *total;
            *total += samples;
            Some(start)
        };
        let offsets = shard_samples.iter().scan(0, before).collect();
        let total = shard_samples.iter().sum();
        let order = SampleOrder::new(seed, shard_samples, lanes, batch)?;
        Ok(Self { order, offsets, total, lanes, batch })
    }

    /// Holds the journal's steps, in order, against the order of samples.
    #[must_use]
    pub fn balance(&self, rows: &[StepRow]) -> Account {
        let mut account = Account { steps: rows.len() as u64, ..Account::default() };
        let mut open: BTreeMap<u64, Bits> = BTreeMap::new();
        let end = rows.iter().map(|row| row.record.step.0 + 1).max().unwrap_or(0);
        let mut next = 0;
        for row in rows {
            let step = row.record.step.0;
            if step < next {
                account.wrong.push(Wrong::Twice { step });
            } else if step > next {
                account.wrong.push(Wrong::Missing { first: next, last: step - 1 });
            }
            next = next.max(step + 1);
            account.extend_spans(row.generation, step);
            self.draw(row, end, &mut open, &mut account);
            // No later step reaches into an epoch before the one it begins in.
            let reached = self.order.epoch(Step(next));
            while open.first_key_value().is_some_and(|(epoch, _)| *epoch < reached) {
                account.epochs.extend(open.pop_first().map(|(_, bits)| bits.entry));
            }
        }
        account.epochs.extend(open.into_values().map(|bits| bits.entry));
        account.epochs.sort_by_key(|entry| entry.epoch);
        self.enter_passed_over(end, &mut account.epochs);
        account
    }

    /// Epochs of which every step is missing are told of, too.
    fn enter_passed_over(&self, end: u64, epochs: &mut Vec<Epoch>) {
        let Some(last) = epochs.last().map(|entry| entry.epoch).filter(|last| *last < MOST_EPOCHS) else { return };
        let there: BTreeSet<u64> = epochs.iter().map(|entry| entry.epoch).collect();
        epochs.extend((0..last).filter(|epoch| !there.contains(epoch)).map(|epoch| self.entry(epoch, end)));
        epochs.sort_by_key(|entry| entry.epoch);
    }

    /// Enters one step.
    fn draw(&self, row: &StepRow, end: u64, open: &mut BTreeMap<u64, Bits>, account: &mut Account) {
        let step = row.record.step;
        let lanes: Vec<_> = (0..self.lanes).map(|lane| self.order.batch(step, Lane(lane))).collect();
        let expected = drawn_by_all(
            lanes.iter().map(|lane| drawn_by_lane(lane.iter().map(|drawn| (drawn.sample.shard, drawn.sample.index)))),
        );
        if row.drawn == 0 {
            account.unrecorded += 1;
        } else if row.drawn != expected {
            let (generation, found) = (row.generation, row.drawn);
            account.wrong.push(Wrong::Drawn { step: step.0, generation, expected, found });
        }
        let vouched = row.drawn == 0 || row.drawn == expected;
        for drawn in lanes.into_iter().flatten() {
            let bits = open.entry(drawn.epoch).or_insert_with(|| self.open(drawn.epoch, end));
            bits.entry.last_step = bits.entry.last_step.max(step.0);
            if vouched {
                bits.count(self.offsets[drawn.sample.shard as usize] + drawn.sample.index);
            }
        }
    }

    fn open(&self, epoch: u64, end: u64) -> Bits {
        Bits { words: vec![0; self.total.div_ceil(64) as usize], entry: self.entry(epoch, end) }
    }

    /// An epoch of which nothing was drawn yet.
    fn entry(&self, epoch: u64, end: u64) -> Epoch {
        let consumed = u128::from(end) * u128::from(self.lanes) * u128::from(self.batch);
        let due = consumed.saturating_sub(u128::from(epoch) * u128::from(self.total)).min(u128::from(self.total));
        let first_step = self.order.first_step(epoch).0;
        Epoch { epoch, seen: 0, repeated: 0, due: due as u64, of: self.total, first_step, last_step: first_step }
    }
}

impl Bits {
    fn count(&mut self, sample: u64) {
        let (word, bit) = (&mut self.words[(sample / 64) as usize], 1 << (sample % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.entry.seen += 1;
        } else {
            self.entry.repeated += 1;
        }
    }
}

impl Account {
    /// Whether every step is there once, drew what it should have, and every epoch holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.wrong.is_empty() && self.epochs.iter().all(Epoch::holds)
    }

    fn extend_spans(&mut self, generation: u64, step: u64) {
        match self.spans.last_mut() {
            Some(span) if span.generation == generation && span.last + 1 == step => span.last = step,
            _ => self.spans.push(Span { generation, first: step, last: step }),
        }
    }
}

/// The generations that events tell of and that committed no step which is still in the journal, with what was said of them.
#[must_use]
pub fn without_steps<'a>(account: &Account, events: &'a [EventRow]) -> Vec<&'a EventRow> {
    let committed = |generation| account.spans.iter().any(|span| span.generation == generation);
    events.iter().filter(|event| event.kind == "generation" && !committed(event.generation)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::StepRecord;

    /// Two lanes of three from shards of 7, 0 and 9: 16 samples, 6 a step, so that epochs begin inside steps.
    fn books() -> Books {
        Books::new(5, vec![7, 0, 9], 2, 3).expect("there are samples")
    }

    fn journal(steps: u64) -> Vec<StepRow> {
        let order = SampleOrder::new(5, vec![7, 0, 9], 2, 3).expect("there are samples");
        let lane = |step, lane| {
            drawn_by_lane(order.batch(Step(step), Lane(lane)).iter().map(|d| (d.sample.shard, d.sample.index)))
        };
        let row = |step| StepRow {
            record: StepRecord { step: Step(step), real: 0.5, fake: 0.25, k: 0.0, rate: 1e-4, m_global: 0.5 },
            generation: 1 + step / 10,
            seconds: 0.1,
            time: 0.0,
            drawn: drawn_by_all([lane(step, 0), lane(step, 1)]),
        };
        (0..steps).map(row).collect()
    }

    #[test]
    fn a_whole_journal_has_every_sample_exactly_once_an_epoch() {
        let account = books().balance(&journal(25));
        assert!(account.holds() && account.unrecorded == 0, "{account:?}");
        // 150 samples: nine epochs of 16 and 6 samples of the tenth.
        assert_eq!(account.epochs.len(), 10);
        assert!(account.epochs[..9].iter().all(|entry| entry.is_complete() && entry.seen == 16));
        let last = &account.epochs[9];
        assert_eq!((last.seen, last.due, last.of, last.is_complete()), (6, 6, 16, false));
        // The first ends inside step 2, in which the second begins.
        assert_eq!((account.epochs[0].last_step, account.epochs[1].first_step), (2, 2));
        let spans: Vec<_> = account.spans.iter().map(|span| (span.generation, span.first, span.last)).collect();
        assert_eq!(spans, [(1, 0, 9), (2, 10, 19), (3, 20, 24)]);
    }

    #[test]
    fn a_missing_step_is_named_and_its_samples_are_missed() {
        let mut rows = journal(25);
        rows.remove(11);
        let account = books().balance(&rows);
        assert_eq!(account.wrong, [Wrong::Missing { first: 11, last: 11 }]);
        let torn: Vec<u64> = account.epochs.iter().filter(|entry| !entry.holds()).map(|entry| entry.epoch).collect();
        // Step 11 is the samples 66 to 71, all of epoch 4.
        assert_eq!(torn, [4]);
        assert_eq!(account.epochs[4].seen, 10);
    }

    #[test]
    fn an_epoch_of_which_every_step_is_missing_is_told_of() {
        let mut rows = journal(25);
        rows.drain(4..12);
        let account = books().balance(&rows);
        assert_eq!(account.wrong, [Wrong::Missing { first: 4, last: 11 }]);
        let seen: Vec<u64> = account.epochs.iter().map(|entry| entry.seen).collect();
        assert_eq!(seen, [16, 8, 0, 0, 8, 16, 16, 16, 16, 6]);
    }

    #[test]
    fn a_step_that_drew_something_else_is_named_and_its_samples_do_not_count() {
        let mut rows = journal(25);
        rows[7].drawn ^= 1;
        let account = books().balance(&rows);
        let [Wrong::Drawn { step: 7, generation: 1, expected, found }] = account.wrong[..] else {
            panic!("{:?}", account.wrong)
        };
        assert_eq!(expected ^ 1, found);
        assert!(!account.holds() && account.epochs.iter().any(|entry| !entry.holds()));
    }

    #[test]
    fn a_step_that_comes_twice_is_named_and_its_samples_repeat() {
        let mut rows = journal(5);
        rows.insert(3, rows[2]);
        let account = books().balance(&rows);
        assert_eq!(account.wrong, [Wrong::Twice { step: 2 }]);
        assert!(account.epochs.iter().map(|entry| entry.repeated).sum::<u64>() > 0);
    }

    #[test]
    fn steps_that_say_nothing_are_counted_apart() {
        let mut rows = journal(5);
        rows[1].drawn = 0;
        let account = books().balance(&rows);
        assert!(account.holds());
        assert_eq!(account.unrecorded, 1);
    }

    #[test]
    fn no_steps_are_an_empty_account() {
        let account = books().balance(&[]);
        assert!(account.holds() && account.epochs.is_empty() && account.spans.is_empty());
    }
}
