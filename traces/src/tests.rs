use super::*;

use began_tests::collector::Collector;

fn asked(endpoint: &str) -> Result<Option<Traces>, TracesError> {
    let endpoint = endpoint.to_owned();
    let variable = move |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone());
    Traces::asked(variable, "began-test", vec![KeyValue::new("began.rank", 3)])
}

#[test]
fn spans_reach_a_collector_with_their_identities_and_who_told_them() -> Result<(), Box<dyn std::error::Error>> {
    let collector = Collector::start()?;
    let traces = asked(&collector.endpoint())?.ok_or("no traces")?;
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

    let told = collector.spans();
    let by = told.first().map(|told| told.by.clone()).ok_or("nobody told anything")?;
    assert!(by.contains_key("service.name") && by.contains_key("began.rank"), "{by:?}");
    let spans: Vec<_> = told.into_iter().map(|told| told.span).collect();
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
