//! Drives the session's pure machine over gRPC: opens streams, carries messages, keeps time.
//!
//! It decides nothing. Each stream has a number; what comes of one that was given up already is dropped.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use began_credentials::Client;
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{self as wire, CoordinatorMessage, TrainerMessage};
use began_record::RunDir;
use began_session::{Identity, Input, News, Output, Protocol, Say, Settings, TICK};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{Activity, Incoming, locked};
use crate::commands::run::{EXPELLED, SET_ASIDE};
use crate::leases::LeaseTable;

/// A stream whose other end does not answer is given up after about this long.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Measurements for the diagnosis that may wait for a slow stream; more are dropped.
const IMAGES: usize = 64;
/// How long a trainer that was put out of the run has to end by itself.
const LAST_ACT: Duration = Duration::from_secs(5);

/// What the driver is told from this process.
#[derive(Debug)]
pub(super) enum Command {
    Say(Say),
    Patience(Duration),
}

/// The connection that is open now, for calls beside the stream.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedChannel(Arc<Mutex<Option<Channel>>>);

impl SharedChannel {
    pub(super) fn client(&self) -> Option<CoordinatorClient<Channel>> {
        locked(&self.0).clone().map(CoordinatorClient::new)
    }
}

/// Where things go.
pub(super) struct Ends {
    pub(super) inbox: Sender<Incoming>,
    pub(super) activity: Arc<Activity>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) channel: SharedChannel,
}

/// What a stream's own task tells.
enum Wire {
    Opened(UnboundedSender<TrainerMessage>, Channel),
    Received(Box<CoordinatorMessage>),
    Broken(String),
}

/// Of which stream, and what.
type Numbered = (u64, Wire);

pub(super) struct Driver {
    address: String,
    credentials: Client,
    run: Option<PathBuf>,
    protocol: Protocol,
    ends: Ends,
    started: Instant,
    /// Attempts so far; the number of the stream that counts.
    attempt: u64,
    up: Option<UnboundedSender<TrainerMessage>>,
    task: Option<tokio::task::JoinHandle<()>>,
    wires: (UnboundedSender<Numbered>, UnboundedReceiver<Numbered>),
    /// Measurements for the diagnosis that wait for the stream that is open now.
    images: Arc<AtomicUsize>,
}

impl Driver {
    pub(super) fn new(
        (address, credentials): (&str, Client),
        run: Option<PathBuf>,
        hello: wire::Hello,
        patience: Duration,
        ends: Ends,
    ) -> Result<Self> {
        endpoint(address)?;
        let settings = Settings { patience, heartbeat: Duration::from_secs(1) };
        Ok(Self {
            address: address.into(),
            credentials,
            run,
            protocol: Protocol::new(Identity { hello }, settings, Duration::ZERO),
            ends,
            started: Instant::now(),
            attempt: 0,
            up: None,
            task: None,
            wires: unbounded_channel(),
            images: Arc::default(),
        })
    }

    /// Runs until nobody is left to drive for.
    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                _ = ticks.tick() => Input::Tick,
                command = commands.recv() => match command {
                    Some(Command::Say(say)) => Input::Say(say),
                    Some(Command::Patience(patience)) => {
                        self.protocol.set_patience(patience);
                        continue;
                    }
                    None => return,
                },
                Some((number, wire)) = self.wires.1.recv() => {
                    if number != self.attempt {
                        continue;
                    }
                    match wire {
                        Wire::Opened(up, channel) => {
                            self.up = Some(up);
                            *locked(&self.ends.channel.0) = Some(channel);
                            Input::Opened
                        }
                        Wire::Received(message) => Input::Received(message),
                        Wire::Broken(reason) => {
                            self.up = None;
                            Input::Broken(reason)
                        }
                    }
                }
            };
            for output in self.protocol.handle(input, self.started.elapsed()) {
                self.carry_out(output);
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect => self.connect(),
            Output::Disconnect => self.disconnect(),
            Output::Send(message) => self.send(*message),
            Output::Beat => self.send(self.protocol.message(Up::Heartbeat(self.ends.activity.heartbeat()))),
            Output::Lease(lease) => self.ends.leases.grant(lease),
            Output::ForgetLeases => self.ends.leases.clear(),
            Output::Tell(news) => {
                if let News::Stop(stop) = &news
                    && stop.expelled
                {
                    end_even_if_hung(if stop.set_aside { SET_ASIDE } else { EXPELLED });
                }
                let _ = self.ends.inbox.send(Incoming::News(news));
            }
        }
    }

    fn send(&self, message: TrainerMessage) {
        let Some(up) = &self.up else { return };
        if matches!(message.body, Some(Up::Images(_)))
            && self.images.fetch_update(Relaxed, Relaxed, |waiting| (waiting < IMAGES).then_some(waiting + 1)).is_err()
        {
            return;
        }
        // A stream that is closed says so itself.
        let _ = up.send(message);
    }

    fn disconnect(&mut self) {
        self.attempt += 1;
        self.up = None;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn connect(&mut self) {
        self.disconnect();
        let (number, wires) = (self.attempt, self.wires.0.clone());
        let (address, credentials) = (self.where_to(), self.credentials.clone());
        // Of its own for every stream: what waited for the last one is gone.
        self.images = Arc::default();
        let images = self.images.clone();
        self.task = Some(tokio::spawn(async move {
            let ended = carry((&address, &credentials), number, &wires, images).await;
            let reason = match ended {
                Ok(()) => "the coordinator closed the stream".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            let _ = wires.send((number, Wire::Broken(reason)));
        }));
    }

    /// The address that was given, and in turn the one that a coordinator which was started again left in the run's directory.
    fn where_to(&self) -> String {
        let announced = || {
            let run = RunDir::open(self.run.as_deref()?).ok()?;
            let address = run.announcement().ok()??.address;
            let usable = address.parse().is_ok_and(|at: std::net::SocketAddr| !at.ip().is_unspecified());
            usable.then_some(address)
        };
        let other = if self.attempt.is_multiple_of(2) { announced() } else { None };
        other.unwrap_or_else(|| self.address.clone())
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not an address"))?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(2 * KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_timeout(2 * KEEPALIVE))
}

/// Opens a stream and carries what comes down it, to its end.
async fn carry(
    (address, credentials): (&str, &Client),
    number: u64,
    wires: &UnboundedSender<Numbered>,
    images: Arc<AtomicUsize>,
) -> Result<()> {
    let channel = credentials.connect(endpoint(address)?, address).await?;
    let mut client = CoordinatorClient::new(channel.clone())
        .max_decoding_message_size(began_proto::MAX_MESSAGE)
        .max_encoding_message_size(began_proto::MAX_MESSAGE);
    let (up, sent) = unbounded_channel();
    let sent = UnboundedReceiverStream::new(sent).map(move |message: TrainerMessage| {
        if matches!(message.body, Some(Up::Images(_))) {
            let _ = images.fetch_update(Relaxed, Relaxed, |waiting| waiting.checked_sub(1));
        }
        message
    });
    let mut down = client.session(sent).await?.into_inner();
    let _ = wires.send((number, Wire::Opened(up, channel)));
    while let Some(message) = down.message().await? {
        if wires.send((number, Wire::Received(Box::new(message)))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A trainer that is put out may hang, in a kernel or on a file server: it ends all the same.
fn end_even_if_hung(code: u8) {
    let end = move || {
        std::thread::sleep(LAST_ACT);
        std::process::exit(code.into());
    };
    let _ = std::thread::Builder::new().name("last-act".into()).spawn(end);
}
