//! Spans of steps and generations, where traces are asked for: how long each step and each regrouping took, and why.

use std::time::{Duration, SystemTime};

use began::StepRecord;
use began_traces::{Attribute, Happening, Place, Span, Trace, Traces};

/// The coordinator's part of a generation's trace, beside its head.
const OWN: u32 = u32::MAX;
/// Happenings of one generation that are kept: a few more than are told.
const HAPPENINGS: usize = 256;

/// Tells spans of what the machine decides.
#[derive(Debug)]
pub struct Spans {
    traces: Traces,
    run: String,
    /// Since when there is no generation, and why.
    forming: (SystemTime, String),
    open: Option<Generation>,
    /// The generation before; not told of yet, for the run may end with it.
    last: Option<Span>,
    /// What happened while there was none.
    between: Vec<Happening>,
}

#[derive(Debug)]
struct Generation {
    number: u64,
    began: SystemTime,
    opened: SystemTime,
    world: usize,
    first: u64,
    /// The step that is to come.
    next: u64,
    why: String,
    happenings: Vec<Happening>,
}

impl Spans {
    /// From now on, of this run.
    #[must_use]
    pub fn new(traces: Traces, run: String) -> Self {
        let forming = (traces.now(), "the coordinator started".to_owned());
        Self { traces, run, forming, open: None, last: None, between: Vec::new() }
    }

    /// A generation opens at this step.
    pub fn opened(&mut self, number: u64, step: u64, world: usize, why: &str) {
        self.last.take().into_iter().for_each(|span| self.traces.tell(span));
        let (began, reason) = self.forming.clone();
        let now = self.traces.now();
        let trace = Trace::of_generation(&self.run, number);
        let mut form = Span::new(trace, Place::Part(OWN, 0), "form", began, now);
        form.about = vec![Attribute::new("began.reason", reason)];
        self.traces.tell(form);
        let happenings = std::mem::take(&mut self.between);
        let why = why.to_owned();
        self.open = Some(Generation { number, began, opened: now, world, first: step, next: step, why, happenings });
    }

    /// A step is complete.
    pub fn step(&mut self, record: &StepRecord, seconds: f64, images_per_second: f64) {
        let Some(generation) = &mut self.open else { return };
        generation.next = record.step.0 + 1;
        let trace = Trace::of_step(&self.run, generation.number, record.step.0);
        if !self.traces.takes(trace) {
            return;
        }
        let now = self.traces.now();
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        // The first step of a generation begins with it.
        let from = now.checked_sub(took).unwrap_or(now).max(generation.opened);
        let mut step = Span::new(trace, Place::Root, "step", from, now);
        step.about = vec![
            count("began.step", record.step.0),
            count("began.generation", generation.number),
            count("began.world", generation.world as u64),
            Attribute::new("began.loss.real", record.real),
            Attribute::new("began.loss.fake", record.fake),
            Attribute::new("began.k", record.k),
            Attribute::new("began.m_global", record.m_global),
            Attribute::new("began.rate", record.rate),
            Attribute::new("began.images_per_second", images_per_second),
        ];
        step.belongs_to = Some(Trace::of_generation(&self.run, generation.number));
        self.traces.tell(step);
    }

    /// Something that the journal keeps as an event.
    pub fn happened(&mut self, kind: &str, text: &str) {
        let at = self.traces.now();
        let all = self.open.as_mut().map_or(&mut self.between, |generation| &mut generation.happenings);
        if all.len() < HAPPENINGS {
            let about = vec![Attribute::new("began.text", text.to_owned())];
            all.push(Happening { at, kind: kind.to_owned(), about });
        }
    }

    /// The generation is over.
    pub fn closed(&mut self, why: &str) {
        let Some(generation) = self.open.take() else { return };
        let now = self.traces.now();
        self.forming = (now, why.to_owned());
        let trace = Trace::of_generation(&self.run, generation.number);
        let mut span = Span::new(trace, Place::Root, "generation", generation.began, now);
        span.about = vec![
            count("began.generation", generation.number),
            count("began.world", generation.world as u64),
            count("began.first_step", generation.first),
            count("began.end_step", generation.next),
            Attribute::new("began.opened", generation.why),
            Attribute::new("began.closed", why.to_owned()),
        ];
        span.happenings = generation.happenings;
        self.last = Some(span);
    }

    /// The run is over.
    pub fn ended(&mut self, why: &str, failed: bool) {
        self.closed(why);
        if let Some(mut span) = self.last.take() {
            span.failed = failed.then(|| why.to_owned());
            self.traces.tell(span);
        }
    }
}

fn count(name: &'static str, number: u64) -> Attribute {
    Attribute::new(name, i64::try_from(number).unwrap_or(i64::MAX))
}
