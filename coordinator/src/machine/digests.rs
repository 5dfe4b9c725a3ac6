//! The digests of one generation: every trainer holds the same state, so every digest of a step must be the same.

use std::collections::{BTreeMap, BTreeSet};

use began::{Rank, Step};

use super::event::Digest;

/// Digests that are ordered and not yet complete.
#[derive(Clone, Debug, Default)]
pub(super) struct DigestBook {
    world: usize,
    pending: BTreeMap<Step, Vec<Option<Digest>>>,
    /// Those of `pending` that somebody waits for.
    waited_for: BTreeSet<Step>,
    /// All agreed up to there.
    done: Step,
    /// The first step of the generation: its digest is welcome, and nobody waits for it unless it was ordered.
    start: Step,
}

/// What a digest led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Others are still to come.
    Waiting,
    /// The same as before, once more.
    Again,
    /// All are there and equal; this is rank 0's, with its tensors.
    Agreed(Digest),
    /// All are there and these ranks differ from the most frequent one.
    Differs {
        /// Which.
        ranks: Vec<Rank>,
        /// Whether the others are the majority, so that these are in the wrong.
        clear: bool,
    },
}

impl DigestBook {
    pub(super) fn new(world: usize, start: Step) -> Self {
        let pending = BTreeMap::from([(start, vec![None; world])]);
        Self { world, pending, waited_for: BTreeSet::new(), done: Step(0), start }
    }

    /// The step the generation began with.
    pub(super) fn start(&self) -> Step {
        self.start
    }

    /// Trainers were told to digest the state of `step`; with the first one's, it is waited for.
    pub(super) fn expect(&mut self, step: Step) {
        self.waited_for.insert(step);
        self.pending.entry(step).or_insert_with(|| vec![None; self.world]);
    }

    /// Of a generation that ended: the states that some digested and nobody differently. Those who did not are gone.
    pub(super) fn undisputed(&self) -> Vec<Digest> {
        let undisputed = |digests: &Vec<Option<Digest>>| {
            let mut there = digests.iter().flatten();
            let first = there.next()?;
            there.all(|other| other.digest == first.digest).then(|| first.clone())
        };
        self.pending.values().filter_map(undisputed).collect()
    }

    /// Whether digests are missing.
    pub(super) fn is_waiting(&self) -> bool {
        self.ordered().next().is_some()
    }

    /// The ranks whose digest is missing.
    pub(super) fn missing(&self) -> Vec<Rank> {
        let mut ranks: Vec<Rank> = self.ordered().flat_map(|digests| places(digests, Option::is_none)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    fn ordered(&self) -> impl Iterator<Item = &Vec<Option<Digest>>> {
        self.pending.iter().filter(|(step, _)| self.waited_for.contains(step)).map(|(_, digests)| digests)
    }

    /// Takes a digest in.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn add(&mut self, rank: Rank, digest: Digest) -> Result<Compared, String> {
        let step = digest.step;
        if digest.digest.is_empty() {
            return Err(format!("an empty digest of step {step}"));
        }
        let Some(digests) = self.pending.get_mut(&step) else {
            if step <= self.done {
                return Ok(Compared::Again);
            }
            return Err(format!("a digest of step {step}, where none is asked for"));
        };
        let Some(place) = digests.get_mut(rank.0 as usize) else {
            return Err(format!("a digest of rank {rank}, which is not in the world"));
        };
        match place {
            Some(known) if *known == digest => return Ok(Compared::Again),
            Some(_) => return Err(format!("a second, different digest of step {step}")),
            None => *place = Some(digest),
        }
        if digests.iter().any(Option::is_none) {
            return Ok(Compared::Waiting);
        }
        let digests: Vec<Digest> = self.pending.remove(&step).into_iter().flatten().flatten().collect();
        let compared = compare(digests);
        if matches!(compared, Compared::Agreed(_)) {
            self.done = self.done.max(step);
        }
        Ok(compared)
    }
}

fn places(digests: &[Option<Digest>], holds: impl Fn(&Option<Digest>) -> bool) -> Vec<Rank> {
    (0..).map(Rank).zip(digests).filter(|(_, digest)| holds(digest)).map(|(rank, _)| rank).collect()
}

fn compare(mut digests: Vec<Digest>) -> Compared {
    let count = |digest: &str| digests.iter().filter(|other| other.digest == digest).count();
    // Of equally frequent ones the first: rank 0's word counts.
    let usual = digests.iter().map(|d| &d.digest).rev().max_by_key(|digest| count(digest)).cloned();
    let differing: Vec<Rank> = (0..)
        .map(Rank)
        .zip(&digests)
        .filter(|(_, d)| Some(&d.digest) != usual.as_ref())
        .map(|(rank, _)| rank)
        .collect();
    if differing.is_empty() {
        return Compared::Agreed(digests.swap_remove(0));
    }
    let clear = 2 * differing.len() < digests.len();
    Compared::Differs { ranks: differing, clear }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest { step: Step(5), digest: text.into(), tensors: vec![] }
    }

    fn compared(texts: &[&str]) -> Result<Compared, String> {
        let mut book = DigestBook::new(texts.len(), Step(0));
        book.expect(Step(5));
        let mut last = Compared::Waiting;
        for (rank, text) in (0..).map(Rank).zip(texts) {
            assert_eq!(last, Compared::Waiting);
            last = book.add(rank, digest(text))?;
        }
        assert!(!book.is_waiting());
        Ok(last)
    }

    #[test]
    fn the_one_that_differs_from_the_majority_is_named_even_if_it_is_rank_0() -> Result<(), String> {
        assert_eq!(compared(&["a", "a", "a"])?, Compared::Agreed(digest("a")));
        assert_eq!(compared(&["a", "b", "a"])?, Compared::Differs { ranks: vec![Rank(1)], clear: true });
        assert_eq!(compared(&["b", "a", "a"])?, Compared::Differs { ranks: vec![Rank(0)], clear: true });
        assert_eq!(compared(&["a", "b"])?, Compared::Differs { ranks: vec![Rank(1)], clear: false });
        Ok(())
    }

    #[test]
    fn the_state_a_generation_begins_with_is_compared_but_never_waited_for() {
        let mut book = DigestBook::new(2, Step(5));
        assert!(book.undisputed().is_empty());
        assert!(!book.is_waiting() && book.missing().is_empty());
        assert_eq!(book.add(Rank(0), digest("a")), Ok(Compared::Waiting));
        assert!(!book.is_waiting());
        assert_eq!(book.add(Rank(1), digest("b")), Ok(Compared::Differs { ranks: vec![Rank(1)], clear: false }));
    }

    #[test]
    fn a_digest_that_was_not_asked_for_is_refused() {
        assert!(DigestBook::new(2, Step(0)).add(Rank(0), digest("a")).is_err());
    }
}
