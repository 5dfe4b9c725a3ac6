use super::*;

use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// A collector that keeps what it is sent.
#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans;
        self.0.lock().map_err(|_| Status::internal("poisoned"))?.extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn asked(endpoint: &str) -> Result<Option<Traces>, TracesError> {
    let endpoint = endpoint.to_owned();
    let variable = move |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone());
    Traces::asked(variable, "began-test", vec![KeyValue::new("began.rank", 3)])
}

#[test]
fn spans_reach_a_collector_with_their_identities_and_who_told_them() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let collector = Collector::default();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = TraceServiceServer::new(collector.clone());
    runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let traces = asked(&endpoint)?.ok_or("no traces")?;
    let trace = Trace::of_step("r", 1, 5);
    let from = traces.now();
    let mut head = Span::new(trace, Place::Root, "step", from, traces.now());
    head.failed = Some("for the test".into());
    head.belongs_to = Some(Trace::of_generation("r", 1));
    traces.tell(head);
    traces.tell(Span::new(trace, Place::Part(3, 0), "train step", from, traces.now()));
    traces.tell(Span::new(trace, Place::Detail(3, 1), "compute", from, traces.now()));
    // What is queued is sent before it is gone.
    drop(traces);

    let sent = collector.0.lock().map_err(|_| "poisoned")?.clone();
    let resource = sent.first().and_then(|sent| sent.resource.clone()).ok_or("no resource")?;
    let keys: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert!(keys.contains(&"service.name") && keys.contains(&"began.rank"), "{keys:?}");
    let spans: Vec<_> = sent.into_iter().flat_map(|sent| sent.scope_spans).flat_map(|scope| scope.spans).collect();
    let named = |name: &str| spans.iter().find(|span| span.name == name).ok_or(format!("no {name}"));
    let (head, part, detail) = (named("step")?, named("train step")?, named("compute")?);
    assert!(
        head.parent_span_id.is_empty() && part.parent_span_id == head.span_id && detail.parent_span_id == part.span_id
    );
    assert!(
        spans.iter().all(|span| span.trace_id == head.trace_id && span.start_time_unix_nano <= span.end_time_unix_nano)
    );
    assert_eq!(head.status.as_ref().map(|status| status.message.as_str()), Some("for the test"));
    assert_eq!(head.links.len(), 1);
    Ok(())
}

#[test]
fn a_collector_that_is_not_there_holds_nobody_up() -> Result<(), Box<dyn std::error::Error>> {
    // Nobody listens on the port of a listener that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let traces = asked(&format!("http://{gone}"))?.ok_or("no traces")?;
    let now = traces.now();
    for step in 0..20_000 {
        traces.tell(Span::new(Trace::of_step("r", 1, step), Place::Root, "step", now, now));
    }
    drop(traces);
    Ok(())
}

#[test]
fn what_others_say_of_a_process_goes_before_what_it_says_itself() {
    assert!(is_unknown(&"unknown_service:trainer".into()) && !is_unknown(&"mine".into()));
}
