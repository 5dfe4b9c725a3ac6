//! How many connections there may be: a pure account of who waits in the door and who is inside.
//!
//! Who has shown nothing can never keep out who could: where too many wait, the one that has waited longest goes, and one
//! address can push out only its own. So a flood of silent connections costs others nothing but a short race.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::pace::Bucket;

/// Addresses whose pace is remembered.
const REMEMBERED: usize = 4096;
/// Files that a coordinator needs for itself.
const OWN_FILES: u64 = 128;

/// How many, how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections inside.
    pub connections: usize,
    /// Of which from one address.
    pub from_one: usize,
    /// Connections that have not shown yet who they are.
    pub waiting: usize,
    /// Of which from one address.
    pub waiting_from_one: usize,
    /// New connections from one address at once.
    pub burst: f64,
    /// New connections from one address a second, for good.
    pub per_second: f64,
}

impl Limits {
    /// For a world of so many trainers, in a process that may have so many files open.
    #[must_use]
    pub fn of(world: u32, files: u64) -> Self {
        // Twice: one that comes back does so before the old connection is known to be gone. The rest: who looks on.
        let wanted = 2 * world as usize + 256;
        let there = usize::try_from(files.saturating_sub(OWN_FILES) / 2).unwrap_or(usize::MAX).max(16);
        let most = wanted.min(there);
        Self {
            connections: most,
            from_one: most - most / 16,
            waiting: most,
            waiting_from_one: most.div_ceil(2),
            burst: 1024.0 + 2.0 * f64::from(world),
            per_second: 500.0,
        }
    }
}

/// Whether one that comes may show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may, under this number; another has to go for it.
    ShowYourself {
        /// Its number.
        number: u64,
        /// Who goes.
        instead_of: Option<Waiting>,
    },
    /// It came too often.
    TooFast,
}

/// One that has not shown yet who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub number: u64,
    /// From where.
    pub from: IpAddr,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    next: u64,
    /// By number, which is the order in which they came.
    waiting: BTreeMap<u64, IpAddr>,
    waiting_from: HashMap<IpAddr, usize>,
    inside: usize,
    inside_from: HashMap<IpAddr, usize>,
    paces: HashMap<IpAddr, Bucket>,
}

impl Admission {
    /// Nobody is there.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            waiting: BTreeMap::new(),
            waiting_from: HashMap::new(),
            inside: 0,
            inside_from: HashMap::new(),
            paces: HashMap::new(),
        }
    }

    /// A connection comes, at a time of a clock of the caller's.
    pub fn comes(&mut self, from: IpAddr, now: Duration) -> Verdict {
        let Limits { burst, per_second, .. } = self.limits;
        if self.paces.len() >= REMEMBERED {
            // Who was away for long is as one who was never here.
            self.paces.retain(|_, bucket| !bucket.is_full(now, burst, per_second));
            if self.paces.len() >= REMEMBERED {
                self.paces.clear();
            }
        }
        let bucket = self.paces.entry(from).or_insert_with(|| Bucket::full(now, burst));
        if bucket.take(now, burst, per_second).is_err() {
            return Verdict::TooFast;
        }
        let own = self.waiting_from.get(&from).copied().unwrap_or(0);
        let instead_of = if own >= self.limits.waiting_from_one {
            self.longest(|address| address == from)
        } else if self.waiting.len() >= self.limits.waiting {
            self.longest(|_| true)
        } else {
            None
        };
        if let Some(Waiting { number, .. }) = instead_of {
            self.leaves_the_door(number);
        }
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, from);
        *self.waiting_from.entry(from).or_default() += 1;
        Verdict::ShowYourself { number, instead_of }
    }

    /// One that waited has shown who it is and may come in, or not.
    ///
    /// # Errors
    /// If it may, and there is no place.
    pub fn shown(&mut self, number: u64, may: bool) -> Result<(), &'static str> {
        let Some(from) = self.leaves_the_door(number) else { return Err("it had waited longest of too many") };
        if !may {
            return Ok(());
        }
        let own = self.inside_from.get(&from).copied().unwrap_or(0);
        if self.inside >= self.limits.connections {
            return Err("there are too many connections");
        }
        if own >= self.limits.from_one {
            return Err("there are too many connections from its address");
        }
        self.inside += 1;
        *self.inside_from.entry(from).or_default() += 1;
        Ok(())
    }

    /// One that was inside is gone.
    pub fn closed(&mut self, from: IpAddr) {
        self.inside = self.inside.saturating_sub(1);
        one_less(&mut self.inside_from, from);
    }

    fn longest(&self, who: impl Fn(IpAddr) -> bool) -> Option<Waiting> {
        let found = self.waiting.iter().find(|(_, from)| who(**from));
        found.map(|(&number, &from)| Waiting { number, from })
    }

    fn leaves_the_door(&mut self, number: u64) -> Option<IpAddr> {
        let from = self.waiting.remove(&number)?;
        one_less(&mut self.waiting_from, from);
        Some(from)
    }
}

fn one_less(counts: &mut HashMap<IpAddr, usize>, from: IpAddr) {
    if let Some(count) = counts.get_mut(&from) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn from(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn limits() -> Limits {
        Limits { connections: 4, from_one: 3, waiting: 4, waiting_from_one: 2, burst: 1e3, per_second: 1.0 }
    }

    fn number(verdict: Verdict) -> (u64, Option<u64>) {
        match verdict {
            Verdict::ShowYourself { number, instead_of } => (number, instead_of.map(|waiting| waiting.number)),
            Verdict::TooFast => panic!("too fast"),
        }
    }

    #[test]
    fn a_flood_from_one_address_pushes_out_its_own_and_nobody_elses() {
        let mut admission = Admission::new(limits());
        let honest = number(admission.comes(from(1), NOW)).0;
        let mut pushed_out = Vec::new();
        for _ in 0..500 {
            pushed_out.extend(number(admission.comes(from(9), NOW)).1);
        }
        assert_eq!(pushed_out.len(), 498);
        assert!(!pushed_out.contains(&honest));
        assert_eq!(admission.shown(honest, true), Ok(()));
    }

    #[test]
    fn where_too_many_wait_the_longest_goes_and_the_newest_may_still_show_itself() {
        let mut admission = Admission::new(limits());
        let first = number(admission.comes(from(1), NOW)).0;
        for last in 2..=4 {
            assert_eq!(number(admission.comes(from(last), NOW)).1, None);
        }
        let (newest, gone) = number(admission.comes(from(5), NOW));
        assert_eq!(gone, Some(first));
        assert!(admission.shown(first, true).is_err());
        assert_eq!(admission.shown(newest, true), Ok(()));
    }

    #[test]
    fn places_are_counted_in_all_and_by_address_and_are_free_again_when_left() {
        let mut admission = Admission::new(limits());
        let enter = |admission: &mut Admission, last| {
            let number = number(admission.comes(from(last), NOW)).0;
            admission.shown(number, true)
        };
        for _ in 0..3 {
            assert_eq!(enter(&mut admission, 1), Ok(()));
        }
        assert!(enter(&mut admission, 1).is_err_and(|why| why.contains("its address")));
        assert_eq!(enter(&mut admission, 2), Ok(()));
        assert!(enter(&mut admission, 3).is_err_and(|why| why.contains("too many connections")));
        admission.closed(from(1));
        assert_eq!(enter(&mut admission, 3), Ok(()));
        assert!(admission.waiting.is_empty() && admission.waiting_from.is_empty());
    }

    #[test]
    fn who_comes_too_often_is_sent_away_until_time_has_passed() {
        let mut admission = Admission::new(Limits { burst: 3.0, ..limits() });
        let came = (0..10).filter(|_| admission.comes(from(1), NOW) != Verdict::TooFast).count();
        assert_eq!(came, 3);
        assert_ne!(admission.comes(from(2), NOW), Verdict::TooFast);
        assert_ne!(admission.comes(from(1), 2 * NOW), Verdict::TooFast);
    }

    #[test]
    fn many_addresses_are_not_remembered_without_end() {
        let mut admission = Admission::new(limits());
        for address in 0..20_000u32 {
            admission.comes(IpAddr::V4(address.into()), NOW);
        }
        assert!(admission.paces.len() <= REMEMBERED && admission.waiting.len() <= 4);
    }

    #[test]
    fn the_limits_follow_the_world_and_the_files_there_are() {
        assert_eq!(Limits::of(1024, 1 << 20).connections, 2304);
        let few = Limits::of(1024, 1024);
        assert!(few.connections + few.waiting <= 1024 - 128, "{few:?}");
    }
}
