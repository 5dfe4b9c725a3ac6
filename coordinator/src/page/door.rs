//! The page's door: a bounded number of connections, HTTP/1.1 over TLS or, on one machine, without, each with a bound on how
//! long it may take to ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower_service::Service;

use super::visitor::{Porter, Shown};
use crate::gate;

/// Connections at once; a browser holds up to six.
const CONNECTIONS: usize = 128;
/// How long a handshake, or a request's headers, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure to take a connection, before the next try.
const BREATH: Duration = Duration::from_millis(50);
/// Bytes of a request's headers.
const HEADERS: usize = 16 << 10;

/// Serves until it is dropped.
pub async fn stand(listener: TcpListener, porter: Arc<Porter>, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut visits = JoinSet::new();
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = visits.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    visits.spawn(visit(stream, from, porter.clone(), routes.clone(), place));
                }
                Err(_) => porter.log.note(from.ip().to_canonical(), "the page: there are too many connections"),
            },
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    porter.log.say(format!("the page: no connection can be taken for now: {error}"));
                }
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn visit(stream: TcpStream, from: SocketAddr, porter: Arc<Porter>, routes: Router, _place: OwnedSemaphorePermit) {
    // One that cannot be set up so is served all the same.
    let _ = gate::attend(&stream);
    let (stream, role) = match porter.guard.admit(stream, PATIENCE).await {
        Ok(admitted) => admitted,
        Err(refusal) => return porter.log.note(from.ip().to_canonical(), &format!("the page: {refusal}")),
    };
    let shown = Shown { from, role };
    let service = Marked { routes, shown };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(%from, "a visit to the page ended: {error}");
    }
}

/// The routes, with who asks on every request.
#[derive(Clone)]
struct Marked {
    routes: Router,
    shown: Shown,
}

impl Service<hyper::Request<hyper::body::Incoming>> for Marked {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <Router as Service<axum::extract::Request>>::Future;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        // A router always is.
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<hyper::body::Incoming>) -> Self::Future {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(self.shown);
        self.routes.call(request)
    }
}
