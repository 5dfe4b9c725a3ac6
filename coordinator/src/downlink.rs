//! The way down to one trainer: messages that are bytes already, encoded once however many trainers they go to.
//!
//! An equilibrium goes to a thousand trainers at the same moment, and each of them waits for it. tonic's own stream would copy and
//! encode it for each; this body hands on the same bytes. The service leaves it with its answer, and the layer here puts it in
//! the place of that answer's empty body.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use began_proto::MAX_MESSAGE;
use began_proto::v1::{CoordinatorMessage, coordinator_message};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::meters::Unsent;

/// A gRPC message begins with a byte that says that it is not compressed, and four of its length.
const PREFIX: usize = 5;

/// A message as it travels. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct Letter {
    bytes: Bytes,
    is_equilibrium: bool,
}

impl Letter {
    /// This message.
    ///
    /// # Errors
    /// If it is larger than any trainer takes.
    pub fn of(message: &CoordinatorMessage) -> Result<Self, Status> {
        let length = message.encoded_len();
        let Some(told) = u32::try_from(length).ok().filter(|_| length <= MAX_MESSAGE) else {
            return Err(Status::out_of_range(format!("a message of {length} bytes, at most {MAX_MESSAGE} are sent")));
        };
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(told);
        message.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
        let is_equilibrium = matches!(message.body, Some(coordinator_message::Body::Equilibrium(_)));
        Ok(Self { bytes: bytes.freeze(), is_equilibrium })
    }
}

/// Where messages for one trainer are put; dropped, the stream ends behind the last one.
pub type Queue = mpsc::Sender<Result<Letter, Status>>;

/// What a call's answer carries beside its empty stream.
#[derive(Clone, Debug)]
pub struct Downlink(Arc<Mutex<Option<Stream>>>);

impl Downlink {
    /// For at most `longest` messages that wait; `unsent` is that of the connection.
    #[must_use]
    pub fn new(longest: usize, unsent: Arc<Unsent>) -> (Queue, Self) {
        let (queue, letters) = mpsc::channel(longest);
        (queue, Self(Arc::new(Mutex::new(Some(Stream { letters, unsent, is_over: false })))))
    }

    fn take(&self) -> Option<Stream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The body of an answer.
#[derive(Debug)]
struct Stream {
    letters: mpsc::Receiver<Result<Letter, Status>>,
    unsent: Arc<Unsent>,
    is_over: bool,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let status = match std::task::ready!(self.letters.poll_recv(context)) {
            Some(Ok(letter)) => {
                if letter.is_equilibrium {
                    self.unsent.equilibrium();
                }
                return Poll::Ready(Some(Ok(Frame::data(letter.bytes))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// Puts [`Downlink`]s in the place of the bodies they came with.
#[derive(Clone, Copy, Debug)]
pub struct Downlinks;

impl<S> Layer<S> for Downlinks {
    type Service = Linked<S>;

    fn layer(&self, inner: S) -> Linked<S> {
        Linked(inner)
    }
}

/// Services whose answers may carry a [`Downlink`].
#[derive(Clone, Debug)]
pub struct Linked<S>(S);

impl<S> Service<Request<Body>> for Linked<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let stream = answer.extensions_mut().remove::<Downlink>().and_then(|downlink| downlink.take());
            Ok(match stream {
                Some(stream) => answer.map(|_| Body::new(stream)),
                None => answer,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began_proto::v1::Refused;
    use http_body::Body as _;
    use tonic::Code;

    fn unsent() -> Arc<Unsent> {
        Arc::new(Unsent::new(Arc::default()))
    }

    fn message(reason: &str) -> CoordinatorMessage {
        let body = coordinator_message::Body::Refused(Refused { reason: reason.into() });
        CoordinatorMessage { run: "r".into(), generation: 3, body: Some(body) }
    }

    /// All that a trainer gets.
    async fn read(downlink: &Downlink) -> (Vec<u8>, HeaderMap) {
        let Some(mut stream) = downlink.take() else { panic!("it is taken") };
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut stream).poll_frame(context)).await {
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => data.extend(bytes),
                Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
                Err(status) => panic!("{status}"),
            }
        }
        assert!(stream.is_end_stream());
        (data, trailers)
    }

    #[tokio::test]
    async fn messages_come_in_order_each_behind_its_length_and_the_stream_ends_well() -> Result<(), Status> {
        let (queue, downlink) = Downlink::new(4, unsent());
        for reason in ["a", "longer"] {
            assert!(queue.try_send(Ok(Letter::of(&message(reason))?)).is_ok());
        }
        drop(queue);
        let (mut data, trailers) = read(&downlink).await;
        for reason in ["a", "longer"] {
            let expected = message(reason);
            assert_eq!(data[..PREFIX], [0, 0, 0, 0, expected.encoded_len() as u8]);
            let rest = data.split_off(PREFIX + expected.encoded_len());
            assert_eq!(CoordinatorMessage::decode(&data[PREFIX..]).ok(), Some(expected));
            data = rest;
        }
        assert!(data.is_empty());
        assert_eq!(trailers.get("grpc-status").map(|code| code.as_bytes()), Some(&b"0"[..]));
        Ok(())
    }

    #[tokio::test]
    async fn an_error_ends_the_stream_and_is_what_the_trainer_sees() {
        let (queue, downlink) = Downlink::new(4, unsent());
        assert!(queue.try_send(Err(Status::deadline_exceeded("no hello within 10 s"))).is_ok());
        let (data, trailers) = read(&downlink).await;
        let status = Status::from_header_map(&trailers);
        let status = status.map(|status| (status.code(), status.message().to_owned()));
        assert!(data.is_empty());
        assert_eq!(status, Some((Code::DeadlineExceeded, "no hello within 10 s".into())));
    }

    #[test]
    fn what_no_trainer_takes_is_not_sent() {
        let letter = Letter::of(&message(&"x".repeat(MAX_MESSAGE)));
        assert!(letter.is_err_and(|status| status.code() == Code::OutOfRange));
    }
}
