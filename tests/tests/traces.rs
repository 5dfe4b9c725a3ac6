//! Traces over OTLP: what the coordinator and the trainers tell is one trace for each step, and nothing changes by it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use began_tests::collector::{Collector, Told};
use began_tests::{Desk, finish, said};

/// Trains to the end with these variables in the environment; the digest line.
fn train(desk: &Desk, name: &str, (gpus, steps): (u32, u64), environment: &[(&str, &str)]) -> Result<String> {
    let mut command = desk.launch(name, 1, gpus, steps, &[]);
    command.envs(environment.iter().copied());
    let output = finish(command)?;
    ensure!(output.status.success(), "{}", said(&output));
    desk.digest(name)
}

fn named<'a>(spans: &'a [Told], name: &str) -> Vec<&'a Told> {
    spans.iter().filter(|told| told.span.name == name).collect()
}

fn traces(spans: &[&Told]) -> BTreeSet<Vec<u8>> {
    spans.iter().map(|told| told.span.trace_id.clone()).collect()
}

#[test]
fn each_step_is_one_trace_of_the_coordinator_and_all_trainers_at_no_bits_cost() -> Result<()> {
    let desk = Desk::new()?;
    let collector = Collector::start()?;
    let endpoint = collector.endpoint();
    let plain = train(&desk, "plain", (2, 6), &[])?;
    ensure!(collector.spans().is_empty(), "nobody asked for spans");
    let traced = train(&desk, "traced", (2, 6), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])?;
    ensure!(traced == plain, "traces change the run: {traced}, {plain}");

    let spans = collector.spans();
    let heads = named(&spans, "step");
    let steps: Vec<_> = heads.iter().filter_map(|head| head.about("began.step")).collect();
    ensure!(steps.iter().collect::<BTreeSet<_>>().len() == 6 && heads.len() == 6, "{steps:?}");
    ensure!(heads.iter().all(|head| head.by.get("service.name").is_some_and(|name| name == "began-coordinator")));
    ensure!(heads.iter().all(|head| head.about("began.k").is_some() && head.span.links.len() == 1));
    let parts = named(&spans, "train step");
    ensure!(parts.len() == 12, "{} parts of trainers in 6 steps", parts.len());
    for head in &heads {
        let own: Vec<_> = parts.iter().filter(|part| part.span.trace_id == head.span.trace_id).collect();
        let ranks: BTreeSet<_> = own.iter().filter_map(|part| part.about("began.rank")).collect();
        ensure!(ranks == BTreeSet::from(["0".to_owned(), "1".to_owned()]), "{ranks:?}");
        for part in own {
            ensure!(part.span.parent_span_id == head.span.span_id, "a trainer's part is not under its head");
            ensure!(part.by.get("service.name").is_some_and(|name| name == "began-trainer"), "{:?}", part.by);
            let under = spans.iter().filter(|told| told.span.parent_span_id == part.span.span_id);
            let phases: BTreeSet<&str> = under.map(|told| told.span.name.as_str()).collect();
            ensure!(phases.contains("compute") && phases.contains("wait for sums"), "{phases:?}");
        }
    }

    let generations = named(&spans, "generation");
    let [generation] = generations[..] else { anyhow::bail!("{} generations", generations.len()) };
    let about = |key: &str| generation.about(key).unwrap_or_default();
    ensure!((about("began.first_step"), about("began.end_step")) == ("0".into(), "6".into()), "{generation:?}");
    ensure!(generation.span.events.iter().any(|event| event.name == "joined"), "{:?}", generation.span.events);
    for name in ["form", "join"] {
        let own = named(&spans, name);
        ensure!(own.iter().all(|told| told.span.parent_span_id == generation.span.span_id), "{own:?}");
        ensure!(own.len() == if name == "form" { 1 } else { 2 }, "{} of {name}", own.len());
    }
    let identities: BTreeSet<_> = spans.iter().map(|told| &told.span.span_id).collect();
    ensure!(identities.len() == spans.len(), "two spans of one identity");
    Ok(())
}

#[test]
fn all_processes_take_the_same_part_of_the_steps() -> Result<()> {
    let desk = Desk::new()?;
    let collector = Collector::start()?;
    let endpoint = collector.endpoint();
    let asked = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ("OTEL_RESOURCE_ATTRIBUTES", "cluster=here"),
    ];
    train(&desk, "run", (2, 24), &asked)?;
    let spans = collector.spans();
    let heads = named(&spans, "step");
    ensure!((2..23).contains(&heads.len()), "{} of 24 steps, where half were asked for", heads.len());
    let parts = named(&spans, "train step");
    ensure!(traces(&heads) == traces(&parts) && parts.len() == 2 * heads.len(), "trainers take other steps");
    ensure!(spans.iter().all(|told| told.by.get("cluster").is_some_and(|name| name == "here")));
    Ok(())
}

#[test]
fn a_lost_trainer_is_seen_in_the_traces_of_the_generations() -> Result<()> {
    let desk = Desk::new()?;
    let collector = Collector::start()?;
    let mut command = desk.launch("run", 1, 2, 80, &[]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    let running = began_tests::Running::start(command)?;
    desk.reach("run", 3)?;
    let victim = desk.trainer("run", 0, 1)?;
    nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL)?;
    let output = running.finish()?;
    ensure!(output.status.success(), "{}", said(&output));
    let spans = collector.spans();
    let mut generations: BTreeMap<u64, &Told> = BTreeMap::new();
    for told in named(&spans, "generation") {
        generations.insert(told.about("began.generation").context("no number")?.parse()?, told);
    }
    ensure!(generations.len() >= 2, "{} generations", generations.len());
    let first = generations.values().next().context("none")?;
    ensure!(first.about("began.closed").is_some_and(|why| why.contains("rank 1")), "{first:?}");
    let forms = named(&spans, "form");
    ensure!(forms.iter().any(|form| form.about("began.reason") == first.about("began.closed")), "{forms:?}");
    Ok(())
}

#[test]
fn what_cannot_be_had_is_said_and_no_reason_to_end() -> Result<()> {
    let desk = Desk::new()?;
    let asked = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
    train(&desk, "wrong", (1, 2), &asked)?;
    let log = std::fs::read_to_string(desk.path("wrong/logs/coordinator.log"))?;
    ensure!(log.contains("no traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL=http/json"), "{log}");
    // Nobody listens there.
    train(&desk, "gone", (1, 2), &asked[..1])?;
    let log = std::fs::read_to_string(desk.path("gone/logs/coordinator.log"))?;
    let told = ["spans do not reach the collector at http://127.0.0.1:9", "the last spans are not sent"];
    ensure!(told.iter().any(|words| log.contains(words)), "{log}");
    Ok(())
}
