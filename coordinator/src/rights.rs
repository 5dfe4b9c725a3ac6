//! Who may call what: looked at before anything of a call is read, from the role that its connection has shown.
//!
//! What is not in the table is nobody's, so that a method that is added later is closed until somebody opens it. Every
//! refusal reads the same.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use began_credentials::Right;
use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

use crate::gate::Peer;
use crate::gate::turned_away::TurnedAway;

/// What a method is to be asked for with; nobody may ask for any other.
#[must_use]
pub fn right_to(path: &str) -> Option<Right> {
    match path {
        "/began.v1.Coordinator/Session" | "/began.v1.Coordinator/Exchange" => Some(Right::Train),
        "/began.v1.Coordinator/Control" => Some(Right::Control),
        "/began.v1.Coordinator/Status" | "/began.v1.Coordinator/Watch" => Some(Right::Look),
        _ if path.starts_with("/grpc.health.v1.Health/") || path.starts_with("/grpc.reflection.v1.") => {
            Some(Right::Look)
        }
        _ => None,
    }
}

/// Puts the table in front of all services.
#[derive(Clone, Debug)]
pub struct Rights(pub Arc<TurnedAway>);

impl<S> Layer<S> for Rights {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, log: self.0.clone() }
    }
}

/// Services behind the table.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    log: Arc<TurnedAway>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is used, and a fresh one kept.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let (log, peer) = (self.log.clone(), request.extensions().get::<Peer>().cloned());
        Box::pin(async move {
            let Some(peer) = peer else { return Ok(refusal()) };
            let from = peer.address.ip().to_canonical();
            let path = request.uri().path();
            if let Some(role) = peer.role
                && !right_to(path).is_some_and(|right| role.may(right))
            {
                log.note(from, &format!("as {role} it may not ask for {path}"));
                return Ok(refusal());
            }
            peer.pace.keep().await;
            let response = inner.call(request).await?;
            if said(&response) == Some(Code::OutOfRange) {
                log.note(from, &format!("it sent a message of more than {} bytes", began_proto::MAX_MESSAGE));
            }
            Ok(response)
        })
    }
}

fn refusal() -> Response<Body> {
    Status::permission_denied("not allowed").into_http()
}

/// The status of an answer that is nothing but a status.
fn said(response: &Response<Body>) -> Option<Code> {
    response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use began_credentials::Role;

    #[test]
    fn every_method_there_is_has_a_right_and_nothing_else_has() {
        for (path, who) in [
            ("Session", vec![Role::Trainer]),
            ("Exchange", vec![Role::Trainer]),
            ("Control", vec![Role::Control]),
            ("Status", vec![Role::Trainer, Role::Control, Role::Observer]),
            ("Watch", vec![Role::Trainer, Role::Control, Role::Observer]),
        ] {
            let right = right_to(&format!("/began.v1.Coordinator/{path}"));
            let may: Vec<Role> =
                Role::ALL.into_iter().filter(|role| right.is_some_and(|right| role.may(right))).collect();
            assert_eq!(may, who, "{path}");
        }
        for path in ["/", "/began.v1.Coordinator/New", "/began.v1.Coordinator/Control/", "/grpc.health.v2.Health/Check"]
        {
            assert_eq!(right_to(path), None, "{path}");
        }
    }
}
