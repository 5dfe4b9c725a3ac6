//! The gRPC face: takes calls, hands them to the actor, and brings back what it says.
//!
//! Nothing is decided here about a run. What a peer sends may be anything: a stream that does not begin with a hello, or is
//! silent instead, is closed; messages that make no sense are named and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use began_proto::v1::coordinator_server::Coordinator;
use began_proto::v1::{
    ControlRequest, ControlResponse, CoordinatorMessage, ExchangeRequest, ExchangeResponse, StatusRequest,
    StatusResponse, StepLosses, TrainerMessage, WatchEvent, WatchRequest, trainer_message,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::actor::{self, Input, OUTGOING, Outlet, Unanswered};
use crate::diagnosis::Collector;
use crate::downlink::{Downlink, Queue};
use crate::exchange::Exchange;
use crate::gate::Peer;
use crate::gate::pace::Pace;
use crate::gate::turned_away::TurnedAway;
use crate::machine::{Body, ConnectionId, Said};
use crate::meters::{Meter, Meters, Unsent};
use crate::watchers::Watchers;
use crate::wire;

/// How long a stream may stay silent before its hello.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Senseless messages on one stream before it is closed.
const PATIENCE: u32 = 1000;

/// The face.
#[derive(Debug)]
pub struct Face {
    actor: mpsc::Sender<Input>,
    exchange: Arc<Exchange>,
    watchers: Arc<Watchers>,
    turned_away: Arc<TurnedAway>,
    diagnosis: Collector,
    meters: Arc<Meters>,
    connections: AtomicU64,
}

impl Face {
    /// A face for this actor.
    #[must_use]
    pub fn new(
        actor: mpsc::Sender<Input>,
        exchange: Arc<Exchange>,
        watchers: Arc<Watchers>,
        turned_away: Arc<TurnedAway>,
        diagnosis: Collector,
        meters: Arc<Meters>,
    ) -> Self {
        Self { actor, exchange, watchers, turned_away, diagnosis, meters, connections: AtomicU64::new(0) }
    }

    /// Asks the actor, with a bound.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, Status> {
        actor::ask(&self.actor, question).await.map_err(|why| match why {
            Unanswered::Gone => Status::unavailable(why.to_string()),
            Unanswered::Late => Status::deadline_exceeded(why.to_string()),
        })
    }
}

#[tonic::async_trait]
impl Coordinator for Face {
    /// What a trainer is told travels as a [`Downlink`].
    type SessionStream = tokio_stream::Empty<Result<CoordinatorMessage, Status>>;
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<TrainerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        let peer = request.extensions().get::<Peer>().cloned();
        let unsent =
            peer.as_ref().map_or_else(|| Arc::new(Unsent::new(self.meters.clone())), |peer| peer.unsent.clone());
        let (queue, downlink) = Downlink::new(OUTGOING, unsent);
        // The answer goes out at once: a client may wait for its headers before it sends a hello.
        let stranger = Stranger { peer, turned_away: self.turned_away.clone() };
        let ends = Ends { actor: self.actor.clone(), diagnosis: self.diagnosis.clone(), meters: self.meters.clone() };
        tokio::spawn(listen(connection, request.into_inner(), queue, ends, stranger));
        let mut response = Response::new(tokio_stream::empty());
        response.extensions_mut().insert(downlink);
        Ok(response)
    }

    async fn exchange(&self, request: Request<ExchangeRequest>) -> Result<Response<ExchangeResponse>, Status> {
        self.exchange.serve(request.into_inner()).await.map(Response::new)
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let mut status = self.ask(Input::Status).await?;
        self.meters.complete(&mut status.trainers);
        Ok(Response::new(status))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(ReceiverStream::new(self.watchers.watch())))
    }

    async fn control(&self, request: Request<ControlRequest>) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        let action = wire::action(&request).map_err(Status::invalid_argument)?;
        let reason = match wire::text(&request.reason) {
            reason if reason.trim().is_empty() => "no reason given".into(),
            reason => reason,
        };
        let grace = wire::grace(&request);
        let step = self.ask(|reply| Input::Control { action, reason, grace, reply }).await?;
        let step = step.map_err(Status::failed_precondition)?;
        Ok(Response::new(ControlResponse { step: step.0 }))
    }
}

/// Where what one trainer says goes to.
struct Ends {
    actor: mpsc::Sender<Input>,
    diagnosis: Collector,
    meters: Arc<Meters>,
}

/// The meter of one trainer, for as long as its stream lives.
struct Metered {
    meter: Arc<Meter>,
    meters: Arc<Meters>,
    trainer: String,
}

impl Metered {
    fn of(hello: &Said, meters: Arc<Meters>) -> Self {
        let trainer = match &hello.body {
            Body::Hello(hello, _) => hello.trainer.0.clone(),
            _ => String::new(),
        };
        Self { meter: meters.of(&trainer), meters, trainer }
    }

    fn losses(&self, losses: &StepLosses) {
        self.meters.heard();
        self.meter.losses(losses);
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.meters.forget(&self.trainer, &self.meter);
    }
}

/// Where a stream comes from that may have nothing to say.
struct Stranger {
    peer: Option<Peer>,
    turned_away: Arc<TurnedAway>,
}

impl Stranger {
    fn is_closed(&self, why: &str) {
        let why = format!("a stream is closed: {why}");
        match &self.peer {
            Some(peer) => self.turned_away.note(peer.address.ip().to_canonical(), &why),
            None => self.turned_away.say(why),
        }
    }
}

/// Brings what one trainer says to the actor, until the stream ends on either side.
async fn listen(
    connection: ConnectionId,
    mut incoming: Streaming<TrainerMessage>,
    queue: Queue,
    Ends { actor, diagnosis, meters }: Ends,
    stranger: Stranger,
) {
    let pace = Pace::of_messages();
    let first = first_message(&mut incoming).await;
    let first = match first.and_then(|hello| wire::said(hello).map_err(Status::invalid_argument)) {
        Ok(hello) => hello,
        Err(status) => {
            stranger.is_closed(status.message());
            let _ = queue.send(Err(status)).await;
            return;
        }
    };
    let meter = Metered::of(&first, meters);
    let (alive, mut closed) = oneshot::channel();
    if actor.send(Input::Connected(connection, Outlet { queue, alive })).await.is_err()
        || actor.send(Input::Said(connection, first)).await.is_err()
    {
        return;
    }
    let mut senseless = 0;
    let reason = loop {
        pace.keep().await;
        let message = tokio::select! {
            received = incoming.message() => match received {
                Ok(Some(message)) => message,
                Ok(None) => break "it closed its stream".to_owned(),
                Err(status) => break format!("its stream broke ({})", wire::text(status.message())),
            },
            // The actor dropped the outlet: it was refused, or told to stop.
            _ = &mut closed => return,
        };
        let message = match message.body {
            Some(trainer_message::Body::Images(images)) => {
                diagnosis.images(images);
                continue;
            }
            Some(trainer_message::Body::Evaluation(done)) => {
                diagnosis.evaluated(done, message.generation);
                continue;
            }
            Some(trainer_message::Body::Sample(ref sample)) => {
                diagnosis.diversity(sample.step, sample.diversity);
                message
            }
            Some(trainer_message::Body::Losses(ref losses)) => {
                meter.losses(losses);
                message
            }
            Some(trainer_message::Body::Heartbeat(ref beat)) => {
                meter.meter.heartbeat(beat);
                message
            }
            _ => message,
        };
        match wire::said(message) {
            Ok(said) => {
                if actor.send(Input::Said(connection, said)).await.is_err() {
                    return;
                }
            }
            Err(why) => {
                senseless += 1;
                if senseless > PATIENCE {
                    break format!("it sent {senseless} messages that make no sense, the last: {why}");
                }
                if u32::is_power_of_two(senseless) {
                    tracing::warn!(connection = connection.0, times = senseless, "ignored: {why}");
                }
            }
        }
    };
    let _ = actor.send(Input::Broken(connection, reason)).await;
}

/// The hello that a stream must begin with.
async fn first_message(incoming: &mut Streaming<TrainerMessage>) -> Result<TrainerMessage, Status> {
    let late = |_| Status::deadline_exceeded(format!("no hello within {} s", HELLO_WAIT.as_secs()));
    let message = tokio::time::timeout(HELLO_WAIT, incoming.message()).await.map_err(late)??;
    let message = message.ok_or_else(|| Status::invalid_argument("the stream ended before a hello"))?;
    if !matches!(message.body, Some(trainer_message::Body::Hello(_))) {
        return Err(Status::failed_precondition("the first message of a session must be a hello"));
    }
    Ok(message)
}
