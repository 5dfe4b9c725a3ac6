//! What the training loop needs of a coordinator; and a stand-in for one, for benches.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use began::{LaneLosses, RunConfig};
use began_proto::v1::{Equilibrium, ShardLease, Stop};
use began_session::{News, Say};

use crate::leases::LeaseTable;
use crate::session::{Activity, Incoming, locked};

/// The coordinator as the training loop sees it.
pub trait Coordination {
    /// Tells it something. That it is gone shows in the inbox.
    fn say(&self, say: Say);
    /// The next thing in the inbox, or nothing within `patience`.
    fn next(&self, patience: Duration) -> Option<Incoming>;
    /// Where others drop what the training loop waits for.
    fn inbox(&self) -> Sender<Incoming>;
    /// What this trainer does, for heartbeats.
    fn activity(&self) -> &Activity;
    /// Which shards it may read.
    fn leases(&self) -> Arc<LeaseTable>;
    /// The run's identity.
    fn run(&self) -> &str;
}

/// A stand-in for a world of one: answers a step's losses with the next equilibrium, in this process, at once.
pub struct Alone {
    config: RunConfig,
    activity: Activity,
    leases: Arc<LeaseTable>,
    equilibrium: Mutex<began::Equilibrium>,
    inbox: Receiver<Incoming>,
    into_inbox: Sender<Incoming>,
}

impl Alone {
    /// From step 0 on; all shards are leased for good.
    #[must_use]
    pub fn new(config: RunConfig, shards: u32, epochs: u64) -> Self {
        let (into_inbox, inbox) = channel();
        let leases = LeaseTable::default();
        for epoch in 0..epochs {
            leases.grant(ShardLease { epoch, first_step: 0, end_step: u64::MAX, shards: (0..shards).collect() });
        }
        let equilibrium = Mutex::new(began::Equilibrium::start(&config.optimizer));
        Self { config, activity: Activity::new(), leases: Arc::new(leases), equilibrium, inbox, into_inbox }
    }
}

impl Coordination for Alone {
    fn say(&self, say: Say) {
        let Say::Losses(losses) = say else { return };
        let losses: Vec<_> =
            losses.lanes.iter().map(|l| LaneLosses { real: l.real, fake: l.fake, drawn: l.drawn }).collect();
        let mut now = locked(&self.equilibrium);
        let news = match now.advance(&self.config.objective, &self.config.optimizer, &losses) {
            Ok((next, record)) => {
                *now = next;
                News::Equilibrium(Box::new(Equilibrium {
                    step: next.step.0,
                    k: next.k,
                    rate: next.rate,
                    m_global: record.m_global,
                    stall_sum: next.stall.sum,
                    stall_count: next.stall.count,
                    stall_best: next.stall.best,
                    ..Equilibrium::default()
                }))
            }
            Err(error) => News::Stop(Stop { reason: error.to_string(), failed: true, ..Stop::default() }),
        };
        let _ = self.into_inbox.send(Incoming::News(news));
    }

    fn next(&self, patience: Duration) -> Option<Incoming> {
        self.inbox.recv_timeout(patience).ok()
    }

    fn inbox(&self) -> Sender<Incoming> {
        self.into_inbox.clone()
    }

    fn activity(&self) -> &Activity {
        &self.activity
    }

    fn leases(&self) -> Arc<LeaseTable> {
        self.leases.clone()
    }

    fn run(&self) -> &str {
        "alone"
    }
}
