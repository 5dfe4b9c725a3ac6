//! Which shards this trainer may read, as the coordinator leases them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use began_proto::v1::ShardLease;

use crate::session::locked;

/// The leases of a generation, by epoch.
#[derive(Debug, Default)]
pub struct LeaseTable {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    epochs: BTreeMap<u64, BTreeSet<u32>>,
    /// Counts generations, so that a reader of an old one ends.
    era: u64,
}

impl LeaseTable {
    /// Takes a lease in.
    pub fn grant(&self, lease: ShardLease) {
        locked(&self.inner).epochs.entry(lease.epoch).or_default().extend(lease.shards);
        self.changed.notify_all();
    }

    /// Forgets all leases: a generation begins or ends.
    pub fn clear(&self) {
        let mut inner = locked(&self.inner);
        inner.epochs.clear();
        inner.era += 1;
        self.changed.notify_all();
    }

    /// Which generation of leases this is.
    #[must_use]
    pub fn era(&self) -> u64 {
        locked(&self.inner).era
    }

    /// Whether `shard` is leased for `epoch`, waiting for the epoch's lease to come. Nothing, if the leases were cleared or
    /// none came in time.
    #[must_use]
    pub fn holds(&self, era: u64, epoch: u64, shard: u32, patience: Duration) -> Option<bool> {
        let waiting = |inner: &mut Inner| inner.era == era && !inner.epochs.contains_key(&epoch);
        let guard = locked(&self.inner);
        let (inner, _) = self
            .changed
            .wait_timeout_while(guard, patience, waiting)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if inner.era != era {
            return None;
        }
        inner.epochs.get(&epoch).map(|shards| shards.contains(&shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_waits_for_its_lease_and_ends_with_its_generation() {
        let table = LeaseTable::default();
        let era = table.era();
        assert_eq!(table.holds(era, 0, 3, Duration::from_millis(1)), None);
        table.grant(ShardLease { epoch: 0, first_step: 0, end_step: 9, shards: vec![3] });
        assert_eq!(table.holds(era, 0, 3, Duration::ZERO), Some(true));
        assert_eq!(table.holds(era, 0, 4, Duration::ZERO), Some(false));
        table.clear();
        assert_eq!(table.holds(era, 0, 3, Duration::from_secs(9)), None);
    }
}
