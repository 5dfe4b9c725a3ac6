//! What the page asks for, request by request: `docs/page.md` has the contract.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

use super::course::{Columns, width};
use super::past::PastError;
use super::visitor::{self, KEY_COOKIE, Porter, Visitor};
use super::{Hall, assets, metrics};
use crate::machine::Action;
use crate::wire;

/// Nothing is loaded that the coordinator does not serve, and nobody may put the page into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Bytes of a request's body.
const BODY: usize = 16 << 10;
/// Events in one answer.
const EVENTS: usize = 1000;
/// Buckets of curves in one answer.
const POINTS: std::ops::RangeInclusive<u64> = 2..=4096;
/// One who showed a wrong key waits so long for the answer.
const WRONG_KEY: Duration = Duration::from_millis(500);

type Answer = Result<Response, Response>;

/// All that is served.
pub fn routes(hall: Arc<Hall>, porter: Arc<Porter>) -> Router {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { asset("index.html", &headers) }))
        .route(
            "/assets/{name}",
            get(|Path(name): Path<String>, headers: HeaderMap| async move { asset(&name, &headers) }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics_text))
        .route("/api/login", post(login))
        .route("/api/run", get(run))
        .route("/api/curves", get(curves))
        .route("/api/events", get(events))
        .route("/api/windows", get(windows))
        .route("/api/windows/{step}", get(window))
        .route("/api/diagnosis", get(diagnosis))
        .route("/api/evaluations", get(evaluations))
        .route("/api/samples", get(samples))
        .route("/api/samples/{step}", get(sample))
        .route("/api/live", get(live))
        .route("/api/control", post(control))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such thing here") })
        .method_not_allowed_fallback(|| async {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this is asked for in another way")
        })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(porter.clone(), visitor::guard))
        .layer(middleware::map_response(with_policy))
        .layer(Extension(porter))
        .with_state(hall)
}

async fn with_policy(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An answer that is an error.
pub fn refusal(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(json!({ "error": why.into() }))).into_response()
}

fn of_the_past(error: PastError) -> Response {
    let status = match &error {
        PastError::NotThere(_) => StatusCode::NOT_FOUND,
        PastError::Busy => StatusCode::TOO_MANY_REQUESTS,
        PastError::Record(_) | PastError::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refusal(status, error.to_string())
}

fn known(found: Result<Value, PastError>) -> Response {
    found.map_or_else(of_the_past, |value| Json(value).into_response())
}

fn asset(name: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = assets::find(name) else {
        return refusal(StatusCode::NOT_FOUND, format!("the page has no file {:?}", wire::text(name)));
    };
    let tag = asset.tag();
    let fresh = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    // Asked for again each time, and answered with nothing where it is the same: no old page after an update.
    let caching = [(CACHE_CONTROL, "no-cache".to_owned()), (ETAG, tag)];
    if fresh {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, asset.kind)], asset.bytes()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    key: String,
}

async fn login(Extension(porter): Extension<Arc<Porter>>, body: Result<Json<Login>, JsonRejection>) -> Answer {
    let Json(Login { key }) = body.map_err(|rejection| senseless(&rejection.body_text()))?;
    let Some(keys) = porter.guard.keys() else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let key = key.trim();
    if keys.role(key).is_none() {
        tokio::time::sleep(WRONG_KEY).await;
        return Err(refusal(StatusCode::UNAUTHORIZED, "that is no page key of this run"));
    }
    let cookie = format!("{KEY_COOKIE}={key}; Path=/; HttpOnly; Secure; SameSite=Strict");
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

fn senseless(words: &str) -> Response {
    refusal(StatusCode::BAD_REQUEST, format!("the request makes no sense: {words}"))
}

async fn run(State(hall): State<Arc<Hall>>, Extension(visitor): Extension<Visitor>) -> Answer {
    let mut facts = hall.facts.clone();
    facts.insert("time".into(), crate::recorder::wall_clock().into());
    facts.insert("rights".into(), json!({ "look": true, "control": visitor.may_control && hall.is_live() }));
    facts.insert("signed_in".into(), visitor.signed_in.into());
    facts.insert("manifest".into(), hall.past.manifest().await.map_err(of_the_past)?);
    Ok(Json(Value::Object(facts)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: Option<u64>,
    to: Option<u64>,
    points: Option<u64>,
}

async fn curves(State(hall): State<Arc<Hall>>, range: Result<Query<Range>, QueryRejection>) -> Answer {
    let Query(Range { from, to, points }) = range.map_err(|rejection| senseless(&rejection.body_text()))?;
    let points = points.unwrap_or(1000);
    if !POINTS.contains(&points) {
        let why = format!("points must be {} to {}, got {points}", POINTS.start(), POINTS.end());
        return Err(refusal(StatusCode::BAD_REQUEST, why));
    }
    let end = hall.course().end();
    let (from, to) = (from.unwrap_or(0), to.unwrap_or(end).min(end));
    let (mut buckets, finer) = hall.course().curves(from, to, points);
    if finer {
        match hall.past.curves(from, to, width(from, to, points)).await {
            Ok(found) if !found.is_empty() => buckets = found,
            // Coarser than asked for is better than nothing.
            Ok(_) => {}
            Err(error) => tracing::debug!("the page's curves come from memory: {error}"),
        }
    }
    Ok(Json(Columns::of(&buckets, from, to, end)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    before: Option<u64>,
    kind: Option<String>,
    limit: Option<usize>,
}

async fn events(State(hall): State<Arc<Hall>>, which: Result<Query<Which>, QueryRejection>) -> Answer {
    let Query(Which { before, kind, limit }) = which.map_err(|rejection| senseless(&rejection.body_text()))?;
    let kinds: Vec<&str> = kind.as_deref().into_iter().flat_map(|kinds| kinds.split(',')).collect();
    let log = hall.log();
    let (events, more) = log.before(before.unwrap_or(u64::MAX), &kinds, limit.unwrap_or(200).clamp(1, EVENTS));
    Ok(Json(json!({ "events": events, "more": more })).into_response())
}

async fn windows(State(hall): State<Arc<Hall>>) -> Response {
    known(hall.past.windows().await)
}

async fn window(State(hall): State<Arc<Hall>>, Path(step): Path<u64>) -> Answer {
    let window = hall.past.window(step).await.map_err(of_the_past)?;
    Ok(([(CONTENT_TYPE, "application/json")], window).into_response())
}

async fn diagnosis(State(hall): State<Arc<Hall>>) -> Response {
    let windows = hall.windows_whole();
    // A tenth of a second's steps change no verdict: it is judged anew with each window, and for a short run with each step.
    let steps = if windows == 0 { hall.course().end() } else { 0 };
    known(hall.past.diagnosis(steps, windows).await)
}

async fn evaluations(State(hall): State<Arc<Hall>>) -> Response {
    known(hall.past.evaluations().await)
}

async fn samples(State(hall): State<Arc<Hall>>) -> Response {
    known(hall.past.samples().await)
}

async fn sample(State(hall): State<Arc<Hall>>, Path(step): Path<u64>) -> Answer {
    let picture = hall.past.sample(step).await.map_err(of_the_past)?;
    // A step that is computed again is the same again.
    let headers = [(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, "private, max-age=3600")];
    Ok((headers, picture).into_response())
}

async fn live(State(hall): State<Arc<Hall>>) -> Answer {
    let (first, rest) = hall.follow().await;
    // Who is too far behind is cut off, and comes back for the whole.
    let rest = BroadcastStream::new(rest).map_while(Result::ok);
    let messages = tokio_stream::iter(first).chain(rest).map(Ok::<Bytes, std::convert::Infallible>);
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(messages)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    action: String,
    #[serde(default)]
    reason: String,
}

async fn control(
    State(hall): State<Arc<Hall>>,
    Extension(shown): Extension<visitor::Shown>,
    body: Result<Json<Order>, JsonRejection>,
) -> Answer {
    let Json(Order { action, reason }) = body.map_err(|rejection| senseless(&rejection.body_text()))?;
    let action = match action.as_str() {
        "checkpoint" => Action::Checkpoint,
        "sample" => Action::Sample,
        "stop" => Action::Stop,
        other => {
            let why = format!("there is no action {:?}: expected checkpoint, sample or stop", wire::text(other));
            return Err(refusal(StatusCode::BAD_REQUEST, why));
        }
    };
    let reason = match wire::text(reason.trim()) {
        reason if reason.is_empty() => format!("the page, from {}", shown.from.ip().to_canonical()),
        reason => format!("{reason} (the page, from {})", shown.from.ip().to_canonical()),
    };
    match hall.order(action, reason).await {
        Ok(Ok(step)) => Ok(Json(json!({ "step": step.0 })).into_response()),
        Ok(Err(why)) => Err(refusal(StatusCode::CONFLICT, why)),
        Err(why) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

async fn metrics_text(State(hall): State<Arc<Hall>>) -> Answer {
    let text = metrics::text(&hall).await.map_err(|why| refusal(StatusCode::SERVICE_UNAVAILABLE, why))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT)], text).into_response())
}
