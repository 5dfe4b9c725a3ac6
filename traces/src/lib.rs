//! Spans of steps and generations, sent over OTLP (gRPC) where the environment asks for it.
//!
//! Asked for by OpenTelemetry's own variables, and by them alone: `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` says where to, `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` which part of the
//! steps. Without an endpoint nothing is built, no thread is started and nothing is measured.
//!
//! Each step is one trace, and each generation is. Their identities follow from the run, the generation and the step, so that the
//! coordinator and all trainers tell parts of the same trace without one telling another about it; and all of them take the same
//! steps, whatever part of them is asked for.
//!
//! Nothing here may hold a run up: spans go into a bounded queue, what does not fit is lost, and a collector that is away costs a
//! line in the log.

mod environment;
mod exporter;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};

pub use environment::{Asked, EnvironmentError};
pub use exporter::ExporterError;
pub use opentelemetry::{KeyValue as Attribute, Value};
pub use span::{Happening, Place, Span, Trace};

/// What the last spans have, to be sent before the process ends.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Why no spans will be told although they are asked for.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// Something in the environment.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The way to the collector.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
}

/// Where spans go. Clones share it; the last one to go sends what is left, if nobody did before.
#[derive(Clone, Debug)]
pub struct Traces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    processor: BatchSpanProcessor,
    /// Carries the connection to the collector.
    runtime: Option<tokio::runtime::Runtime>,
    part: f64,
    finished: AtomicBool,
    /// The system's time and a clock that nobody turns back, at the same moment.
    started: (SystemTime, Instant),
}

impl Traces {
    /// Ready to tell spans, if the environment asks for that. A mistake in it is said in the log and is no reason to end: a run does
    /// not depend on who looks on.
    ///
    /// `service` is `service.name`, where `OTEL_SERVICE_NAME` does not say another.
    #[must_use]
    pub fn from_environment(service: &'static str, about: Vec<KeyValue>) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        match Self::asked(variable, service, about) {
            Ok(traces) => traces,
            Err(error) => {
                tracing::warn!("no traces are sent: {error}");
                None
            }
        }
    }

    fn asked(
        variable: impl Fn(&str) -> Option<String>,
        service: &'static str,
        about: Vec<KeyValue>,
    ) -> Result<Option<Self>, TracesError> {
        let Some(asked) = Asked::in_environment(variable)? else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(ExporterError::Threads)?;
        let exporter = {
            let _entered = runtime.enter();
            exporter::Told::new(&asked)?
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        // Reads OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME; what those say goes before what is said here.
        let told = Resource::builder().build();
        let own = std::iter::once(KeyValue::new("service.name", service)).chain(about);
        let missing = own.filter(|own| told.get(&own.key).is_none_or(|value| is_unknown(&value)));
        processor.set_resource(&Resource::builder().with_attributes(missing).build());
        tracing::info!(endpoint = asked.endpoint, part = asked.part, "traces are sent");
        let started = (SystemTime::now(), Instant::now());
        Ok(Some(Self(Arc::new(Inner {
            processor,
            runtime: Some(runtime),
            part: asked.part,
            finished: AtomicBool::new(false),
            started,
        }))))
    }

    /// Whether a step's spans are to be told: asked before any of them is measured.
    #[must_use]
    pub fn takes(&self, trace: Trace) -> bool {
        trace.is_within(self.0.part)
    }

    /// Now, on a clock that nobody turns back.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let (wall, clock) = self.0.started;
        wall + clock.elapsed()
    }

    /// Sends what is left, with a bound; what is told from now on is lost.
    pub fn finish(&self) {
        self.0.finish();
    }

    /// Something took from one time to another. Never waits.
    pub fn tell(&self, span: Span) {
        self.0.processor.on_end(span.finished());
    }
}

/// What the SDK says where nobody has said anything.
fn is_unknown(value: &opentelemetry::Value) -> bool {
    value.as_str().starts_with("unknown_service")
}

impl Inner {
    fn finish(&self) {
        if self.finished.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.processor.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!("the last spans are not sent: {error}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.finish();
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops this may be on a runtime of its own, where nothing may wait.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
