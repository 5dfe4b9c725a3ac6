//! What is told: spans, with identities that every process works out alike.

use std::time::SystemTime;

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// Happenings of one span that are told; more are counted.
const HAPPENINGS: usize = 128;

/// The trace that a span is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: TraceId,
    root: SpanId,
}

impl Trace {
    /// That of one step of a generation.
    #[must_use]
    pub fn of_step(run: &str, generation: u64, step: u64) -> Self {
        Self::named("began step", run, &[generation, step])
    }

    /// That of a generation.
    #[must_use]
    pub fn of_generation(run: &str, generation: u64) -> Self {
        Self::named("began generation", run, &[generation])
    }

    fn named(what: &str, run: &str, numbers: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(what);
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(run.as_bytes());
        let mut bytes = [0; 24];
        hasher.finalize_xof().fill(&mut bytes);
        let (id, root) = bytes.split_at(16);
        let id = id.iter().fold(0, |id, byte| id << 8 | u128::from(*byte));
        let root = root.iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
        // Zero is no identity.
        Self { id: TraceId::from(id.max(1)), root: SpanId::from(root.max(1)) }
    }

    /// Whether it belongs to that part of all traces: as `traceidratio` has it, by the last 63 bits.
    pub(crate) fn is_within(self, part: f64) -> bool {
        let last = u128::from_be_bytes(self.id.to_bytes()) as u64 >> 1;
        part >= 1.0 || (last as f64) < part * (1u64 << 63) as f64
    }

    fn context(self, span: SpanId) -> SpanContext {
        SpanContext::new(self.id, span, TraceFlags::SAMPLED, false, TraceState::default())
    }
}

/// Where in its trace a span stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At its head: one process tells it, for all.
    Root,
    /// Under the head: whose (a rank), and the how-many-th of it; 0 has others under it.
    Part(u32, u32),
    /// Under the part 0 of the same.
    Detail(u32, u32),
}

impl Place {
    fn identity(self, trace: Trace) -> SpanId {
        let (whose, which) = match self {
            Self::Root => return trace.root,
            Self::Part(whose, which) => (whose, u64::from(which) << 1),
            Self::Detail(whose, which) => (whose, u64::from(which) << 1 | 1),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&trace.id.to_bytes()).update(&whose.to_le_bytes()).update(&which.to_le_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        SpanId::from(u64::from_le_bytes(bytes).max(1))
    }

    fn parent(self, trace: Trace) -> SpanId {
        match self {
            Self::Root => SpanId::INVALID,
            Self::Part(..) => trace.root,
            Self::Detail(whose, _) => Self::Part(whose, 0).identity(trace),
        }
    }
}

/// Something that happened at one moment of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// When.
    pub at: SystemTime,
    /// Of what kind.
    pub kind: String,
    /// More of it.
    pub about: Vec<KeyValue>,
}

/// Something that took from one time to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Of which trace.
    pub trace: Trace,
    /// Where in it.
    pub place: Place,
    /// What it is called: one of few.
    pub name: &'static str,
    /// When it began.
    pub from: SystemTime,
    /// When it ended.
    pub to: SystemTime,
    /// What else is known of it.
    pub about: Vec<KeyValue>,
    /// What happened meanwhile.
    pub happenings: Vec<Happening>,
    /// Another trace that it belongs to.
    pub belongs_to: Option<Trace>,
    /// Why it ended badly, if it did.
    pub failed: Option<String>,
}

impl Span {
    /// A span of which nothing more is known.
    #[must_use]
    pub fn new(trace: Trace, place: Place, name: &'static str, from: SystemTime, to: SystemTime) -> Self {
        let (about, happenings) = (Vec::new(), Vec::new());
        Self { trace, place, name, from, to, about, happenings, belongs_to: None, failed: None }
    }

    pub(crate) fn finished(self) -> SpanData {
        let Self { trace, place, name, from, to, about, happenings, belongs_to, failed } = self;
        let mut events = SpanEvents::default();
        events.dropped_count = happenings.len().saturating_sub(HAPPENINGS) as u32;
        events.events.extend(
            happenings.into_iter().take(HAPPENINGS).map(|Happening { at, kind, about }| Event::new(kind, at, about, 0)),
        );
        let mut links = SpanLinks::default();
        links.links.extend(belongs_to.map(|other| Link::with_context(other.context(other.root))));
        SpanData {
            span_context: trace.context(place.identity(trace)),
            parent_span_id: place.parent(trace),
            parent_span_is_remote: place != Place::Root,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: from,
            end_time: to,
            attributes: about,
            dropped_attributes_count: 0,
            events,
            links,
            status: failed.map_or(Status::Unset, Status::error),
            instrumentation_scope: InstrumentationScope::builder("began")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn identities_are_the_same_everywhere_and_differ_from_all_others() {
        assert_eq!(Trace::of_step("r", 2, 7), Trace::of_step("r", 2, 7));
        let mut traces = BTreeSet::new();
        let mut spans = BTreeSet::new();
        for step in 0..200 {
            let trace = Trace::of_step("r", 1, step);
            traces.insert(trace.id.to_bytes());
            for place in [Place::Root, Place::Part(0, 0), Place::Part(0, 1), Place::Part(1, 0), Place::Detail(0, 0)] {
                spans.insert(place.identity(trace).to_bytes());
            }
        }
        for other in [Trace::of_step("r", 2, 7), Trace::of_step("s", 1, 7), Trace::of_generation("r", 1)] {
            traces.insert(other.id.to_bytes());
        }
        assert_eq!((traces.len(), spans.len()), (203, 1000));
    }

    #[test]
    fn a_detail_stands_under_its_own_part_and_that_under_the_head() {
        let trace = Trace::of_step("r", 1, 1);
        assert_eq!(Place::Root.parent(trace), SpanId::INVALID);
        assert_eq!(Place::Part(3, 0).parent(trace), trace.root);
        assert_eq!(Place::Detail(3, 9).parent(trace), Place::Part(3, 0).identity(trace));
    }

    #[test]
    fn a_part_of_all_steps_is_about_so_many_and_a_smaller_part_is_within_a_larger() {
        let traces: Vec<_> = (0..4000).map(|step| Trace::of_step("r", 1, step)).collect();
        let within = |part: f64| traces.iter().filter(|trace| trace.is_within(part)).count();
        assert_eq!((within(0.0), within(1.0)), (0, 4000));
        assert!((300..500).contains(&within(0.1)), "{}", within(0.1));
        assert!(traces.iter().all(|trace| !trace.is_within(0.1) || trace.is_within(0.2)));
    }

    #[test]
    fn happenings_beyond_the_limit_are_counted() {
        let now = SystemTime::now();
        let mut span = Span::new(Trace::of_generation("r", 1), Place::Root, "generation", now, now);
        let one = Happening { at: now, kind: "lost".into(), about: Vec::new() };
        span.happenings = vec![one; HAPPENINGS + 5];
        let told = span.finished();
        assert_eq!((told.events.len(), told.events.dropped_count), (HAPPENINGS, 5));
    }
}
