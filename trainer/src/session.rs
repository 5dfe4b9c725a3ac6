//! The trainer's side of the stream with the coordinator.
//!
//! It runs on a thread of its own, so that heartbeats go out and orders come in while the device computes. What comes in
//! lands in one inbox, together with finished sums: the training loop waits in one place, always with a bound.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began::{Equilibrium, LaneLosses, Step, equilibrium::Stall};
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::coordinator_message::Body as Down;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{self as wire, CoordinatorMessage, Phase, TrainerMessage};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::coordination::Coordination;
use crate::leases::LeaseTable;
use crate::reduction_thread::Reduced;

/// What lands in the training loop's inbox.
#[derive(Debug)]
pub enum Incoming {
    /// A new generation, and my place in it.
    Opened(u64, wire::GenerationOpened),
    /// What a step needs, with what to do after it.
    Equilibrium(Equilibrium, wire::Orders),
    /// Leave the generation.
    Halt(String),
    /// Write the held state down.
    WriteCheckpoint(Equilibrium),
    /// End.
    Stop {
        /// Why.
        reason: String,
        /// Whether the run failed.
        failed: bool,
    },
    /// The stream broke.
    Lost(String),
    /// A sum over the world is there, or failed.
    Reduced(Result<Reduced>),
}

/// What this trainer is doing, as heartbeats tell it.
#[derive(Debug)]
pub struct Activity {
    started: Instant,
    phase: AtomicU8,
    since: AtomicU64,
    step: AtomicU64,
    generation: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Activity {
    /// Starting.
    #[must_use]
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let phase = AtomicU8::new(Phase::Starting as u8);
        Self { started: Instant::now(), phase, since: zero(), step: zero(), generation: zero() }
    }

    /// From now on, this.
    pub fn enter(&self, phase: Phase) {
        self.since.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// From now on, in this step.
    pub fn at_step(&self, step: Step) {
        self.step.store(step.0, Ordering::Relaxed);
    }

    fn heartbeat(&self) -> wire::Heartbeat {
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
        wire::Heartbeat {
            phase: self.phase.load(Ordering::Relaxed).into(),
            phase_seconds: self.started.elapsed().saturating_sub(since).as_secs_f64(),
            step: self.step.load(Ordering::Relaxed),
        }
    }
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

/// A live stream with the coordinator.
pub struct Session {
    /// What the coordinator said first.
    pub welcome: Welcome,
    activity: Arc<Activity>,
    leases: Arc<LeaseTable>,
    /// This trainer's name.
    pub trainer: String,
    runtime: Runtime,
    channel: Channel,
    up: UnboundedSender<TrainerMessage>,
    inbox: Receiver<Incoming>,
    into_inbox: Sender<Incoming>,
}

impl Session {
    /// Connects, says hello and waits to be let in.
    ///
    /// # Errors
    /// If the coordinator cannot be reached within `patience`, or refuses.
    pub fn open(address: &str, hello: wire::Hello, patience: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("session")
            .enable_all()
            .build()
            .context("cannot start the session's thread")?;
        let (into_inbox, inbox) = channel();
        let (up, sent) = unbounded_channel();
        let trainer = hello.trainer.clone();
        let say = |body| TrainerMessage { run: String::new(), generation: 0, body: Some(body) };
        let _ = up.send(say(Up::Hello(hello)));

        let seen = Mutex::new(String::new());
        let opened = runtime.block_on(async {
            tokio::time::timeout(patience, async {
                let channel = connect(address, &seen).await?;
                let mut client = CoordinatorClient::new(channel.clone())
                    .max_decoding_message_size(began_proto::MAX_MESSAGE)
                    .max_encoding_message_size(began_proto::MAX_MESSAGE);
                let mut down = client.session(UnboundedReceiverStream::new(sent)).await?.into_inner();
                let first = down.next().await.context("it closed the stream at once")??;
                let welcome = match first.body {
                    Some(Down::Welcome(welcome)) => (first.run, welcome),
                    Some(Down::Refused(refused)) => bail!("it refused this trainer: {}", refused.reason),
                    Some(Down::Stop(stop)) => {
                        return Err(TooLate { reason: stop.reason, failed: stop.failed }.into());
                    }
                    _ => bail!("its first message was neither a welcome nor a refusal"),
                };
                Ok((channel, down, welcome))
            })
            .await
            .unwrap_or_else(|_| bail!("no answer within {} s{}", patience.as_secs(), last_words(&seen)))
        });
        let (channel, down, (run, welcome)) = opened.with_context(|| format!("coordinator at {address}"))?;

        let activity = Arc::new(Activity::new());
        let leases = Arc::new(LeaseTable::default());
        let interval = Duration::from_secs_f64(welcome.heartbeat_seconds.clamp(0.01, 60.0));
        runtime.spawn(beat(activity.clone(), up.clone(), run.clone(), interval));
        runtime.spawn(listen(down, into_inbox.clone(), leases.clone()));
        let welcome = Welcome { run, config: welcome.config, data_digest: welcome.data_digest };
        Ok(Self { welcome, activity, leases, trainer, runtime, channel, up, inbox, into_inbox })
    }

    /// From now on messages carry this generation.
    pub fn enter_generation(&self, generation: u64) {
        self.activity.generation.store(generation, Ordering::Relaxed);
    }

    /// The generation's rendezvous.
    #[must_use]
    pub fn exchange(&self, generation: u64) -> crate::exchange::Exchange {
        let client = CoordinatorClient::new(self.channel.clone());
        let handle = self.runtime.handle().clone();
        crate::exchange::Exchange::new(client, handle, self.welcome.run.clone(), generation, self.trainer.clone())
    }

    /// Gives messages under way a moment to leave before the process ends.
    pub fn close(self) {
        // What is queued leaves within a millisecond; a runtime that is shut down at once would drop it.
        std::thread::sleep(Duration::from_millis(100));
        self.runtime.shutdown_timeout(Duration::from_millis(200));
    }
}

impl Coordination for Session {
    fn send(&self, body: Up) {
        let generation = self.activity.generation.load(Ordering::Relaxed);
        let _ = self.up.send(TrainerMessage { run: self.welcome.run.clone(), generation, body: Some(body) });
    }

    fn next(&self, patience: Duration) -> Option<Incoming> {
        match self.inbox.recv_timeout(patience) {
            Ok(incoming) => Some(incoming),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Incoming::Lost("the session's thread ended".into())),
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

fn last_words(seen: &Mutex<String>) -> String {
    let seen = locked(seen);
    if seen.is_empty() { String::new() } else { format!(": {seen}") }
}

async fn connect(address: &str, seen: &Mutex<String>) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not an address"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5));
    // The coordinator may be a moment behind; the caller bounds the whole.
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => {
                let error = anyhow::Error::from(error);
                *locked(seen) = format!("{error:#}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn beat(activity: Arc<Activity>, up: UnboundedSender<TrainerMessage>, run: String, interval: Duration) {
    let mut clock = tokio::time::interval(interval);
    loop {
        clock.tick().await;
        let generation = activity.generation.load(Ordering::Relaxed);
        let body = Some(Up::Heartbeat(activity.heartbeat()));
        if up.send(TrainerMessage { run: run.clone(), generation, body }).is_err() {
            return;
        }
    }
}

async fn listen(mut down: tonic::Streaming<CoordinatorMessage>, inbox: Sender<Incoming>, leases: Arc<LeaseTable>) {
    let lost = loop {
        let message = match down.next().await {
            Some(Ok(message)) => message,
            Some(Err(status)) => break status.to_string(),
            None => break "the coordinator closed the stream".to_owned(),
        };
        let incoming = match message.body {
            Some(Down::Opened(opened)) => {
                leases.clear();
                Incoming::Opened(message.generation, opened)
            }
            Some(Down::Lease(lease)) => {
                leases.grant(lease);
                continue;
            }
            Some(Down::Equilibrium(equilibrium)) => {
                let orders = equilibrium.orders.unwrap_or_default();
                Incoming::Equilibrium(from_wire(&equilibrium), orders)
            }
            Some(Down::Halt(halt)) => Incoming::Halt(halt.reason),
            Some(Down::WriteCheckpoint(write)) => match write.equilibrium {
                Some(equilibrium) => Incoming::WriteCheckpoint(from_wire(&equilibrium)),
                None => break "the coordinator ordered a checkpoint without an equilibrium".to_owned(),
            },
            Some(Down::Stop(stop)) => Incoming::Stop { reason: stop.reason, failed: stop.failed },
            Some(Down::Refused(refused)) => {
                tracing::warn!(reason = refused.reason, "the coordinator refused a message");
                continue;
            }
            Some(Down::Welcome(_) | Down::Recall(_)) | None => continue,
        };
        if inbox.send(incoming).is_err() {
            return;
        }
    };
    let _ = inbox.send(Incoming::Lost(lost));
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
