//! A collector of traces (OTLP over gRPC), on a thread of its own; it keeps what it is sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span, and the attributes of whoever told it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The span.
    pub span: Span,
    /// Who told it.
    pub by: BTreeMap<String, String>,
}

impl Told {
    /// One of the span's attributes.
    #[must_use]
    pub fn about(&self, key: &str) -> Option<String> {
        words(&self.span.attributes).remove(key)
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Told>>>);

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let by = words(&resource.resource.unwrap_or_default().attributes);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| Told { span, by: by.clone() }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Attributes, as text.
fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let word = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |one: &KeyValue| one.value.as_ref().and_then(|value| value.value.as_ref()).map(word);
    attributes.iter().map(|one| (one.key.clone(), value(one).unwrap_or_default())).collect()
}

/// See the module. It ends with this.
pub struct Collector {
    kept: Kept,
    address: std::net::SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// If it cannot.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).context("the collector")?;
        let (kept, address) = (Kept::default(), listener.local_addr()?);
        let service = TraceServiceServer::new(kept.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { kept, address, _runtime: runtime })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All it was sent so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Told> {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
