//! The trainer's side of the stream with the coordinator: drives the pure machine of `began-session` over gRPC.
//!
//! It runs on a thread of its own, so that heartbeats go out and orders come in while the device computes, and so that a
//! coordinator that went away is found again. What comes in lands in one inbox, together with finished sums: the training loop
//! waits in one place, always with a bound.

mod activity;
mod driver;
mod timeline;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use began::{Equilibrium, LaneLosses, Step, equilibrium::Stall};
use began_credentials::Client;
use began_proto::v1 as wire;
use began_session::{News, Say};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use activity::Activity;
use driver::{Command, Driver};

use crate::coordination::Coordination;
use crate::leases::LeaseTable;
use crate::reduction_thread::Reduced;

/// What lands in the training loop's inbox.
#[derive(Debug)]
pub enum Incoming {
    /// The coordinator's words.
    News(News),
    /// The group of peers of this generation is there, or is not.
    Connected(u64, crate::peers::Connected),
    /// A sum over the world is there, or failed.
    Reduced(Result<Reduced>),
}

/// The run ended before this trainer was let in.
#[derive(Debug)]
pub struct TooLate {
    /// Why it ended.
    pub reason: String,
    /// Whether it failed.
    pub failed: bool,
}

impl std::fmt::Display for TooLate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the run had ended before this trainer joined: {}", self.reason)
    }
}

impl std::error::Error for TooLate {}

/// What the coordinator said when it let this trainer in.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The run's identity.
    pub run: String,
    /// `run.toml`.
    pub config: String,
    /// Digest of the data this run is about.
    pub data_digest: String,
}

/// A session with the coordinator, over as many streams as it takes.
pub struct Session {
    /// What the coordinator said first.
    pub welcome: Welcome,
    activity: Arc<Activity>,
    leases: Arc<LeaseTable>,
    /// This trainer's name.
    pub trainer: String,
    runtime: Runtime,
    channel: driver::SharedChannel,
    commands: UnboundedSender<Command>,
    inbox: Receiver<Incoming>,
    into_inbox: Sender<Incoming>,
}

impl Session {
    /// Connects, shows its credentials, says hello and waits to be let in. `run` is the run's directory, in which a coordinator that was started
    /// again says where it is.
    ///
    /// # Errors
    /// If the coordinator cannot be reached within `patience`, or refuses.
    pub fn open(
        address: &str,
        credentials: Client,
        run: Option<PathBuf>,
        hello: wire::Hello,
        patience: Duration,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("session")
            .enable_all()
            .build()
            .context("cannot start the session's thread")?;
        let (into_inbox, inbox) = channel();
        let (commands, orders) = unbounded_channel();
        let trainer = hello.trainer.clone();
        let activity = Arc::new(Activity::new());
        let leases = Arc::new(LeaseTable::default());
        let channel = driver::SharedChannel::default();
        let driver = Driver::new(
            (address, credentials),
            run,
            hello,
            patience,
            driver::Ends {
                inbox: into_inbox.clone(),
                activity: activity.clone(),
                leases: leases.clone(),
                channel: channel.clone(),
            },
        )?;
        runtime.spawn(driver.run(orders));
        let at = || format!("coordinator at {address}");
        // The driver's own bound ends the wait; this one is for a driver that does not.
        let first = inbox.recv_timeout(patience + Duration::from_secs(30)).with_context(at)?;
        let welcome = match first {
            Incoming::News(News::Welcome { run, config, data_digest }) => Welcome { run, config, data_digest },
            Incoming::News(News::Refused(reason)) => {
                return Err(anyhow::anyhow!("it refused this trainer: {reason}")).with_context(at);
            }
            Incoming::News(News::Stop(stop)) => {
                return Err(TooLate { reason: stop.reason, failed: stop.failed }.into());
            }
            Incoming::News(News::Lost(why)) => {
                return Err(anyhow::anyhow!("no answer within {} s: {why}", patience.as_secs())).with_context(at);
            }
            other => bail!("{}: its first message was neither a welcome nor a refusal: {other:?}", at()),
        };
        Ok(Self { welcome, activity, leases, trainer, runtime, channel, commands, inbox, into_inbox })
    }

    /// A way to say something from another thread.
    pub fn reporter(&self) -> impl Fn(Say) + Send + use<> {
        let commands = self.commands.clone();
        move |say| drop(commands.send(Command::Say(say)))
    }

    /// From now on a coordinator that is gone is looked for this long.
    pub fn set_patience(&self, patience: Duration) {
        let _ = self.commands.send(Command::Patience(patience));
    }

    /// The generation's rendezvous.
    ///
    /// # Errors
    /// If there is no stream with the coordinator.
    pub fn exchange(&self, generation: u64) -> Result<crate::exchange::Exchange> {
        let client = self.channel.client().context("there is no coordinator to find the peers through")?;
        let handle = self.runtime.handle().clone();
        Ok(crate::exchange::Exchange::new(client, handle, self.welcome.run.clone(), generation, self.trainer.clone()))
    }

    /// Gives messages under way a moment to leave before the process ends.
    pub fn close(self) {
        // What is queued leaves within a millisecond; a runtime that is shut down at once would drop it.
        std::thread::sleep(Duration::from_millis(100));
        self.runtime.shutdown_timeout(Duration::from_millis(200));
    }
}

impl Coordination for Session {
    fn say(&self, say: Say) {
        let _ = self.commands.send(Command::Say(say));
    }

    fn next(&self, patience: Duration) -> Option<Incoming> {
        match self.inbox.recv_timeout(patience) {
            Ok(incoming) => Some(incoming),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Incoming::News(News::Lost("the session's thread ended".into())))
            }
        }
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
        &self.welcome.run
    }
}

/// An equilibrium off the wire.
#[must_use]
pub fn from_wire(equilibrium: &wire::Equilibrium) -> Equilibrium {
    Equilibrium {
        step: Step(equilibrium.step),
        k: equilibrium.k,
        rate: equilibrium.rate,
        stall: Stall { sum: equilibrium.stall_sum, count: equilibrium.stall_count, best: equilibrium.stall_best },
    }
}

/// Losses onto the wire; `first` is the first one's lane.
#[must_use]
pub fn to_wire(first: u32, losses: &[LaneLosses]) -> Vec<wire::LaneLosses> {
    let lane = |(lane, l): (u32, &LaneLosses)| wire::LaneLosses { lane, real: l.real, fake: l.fake, drawn: l.drawn };
    (first..).zip(losses).map(lane).collect()
}

/// A lock whose holder panicked is still good: what these guard is whole between statements.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
