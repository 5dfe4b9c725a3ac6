//! Spans of what this trainer does, where traces are asked for: one for each step and each joining of a generation, and under it
//! one for each phase, as heartbeats tell them.

use std::sync::Mutex;
use std::time::SystemTime;

use began::Step;
use began_proto::v1::Phase;
use began_traces::{Attribute, Place, Span, Trace, Traces};

use super::locked;

/// Phases of one step that are told; more (a trainer of very many lanes) are not.
const PHASES: u32 = 512;

/// See the module.
#[derive(Debug)]
pub(super) struct Timeline {
    traces: Traces,
    run: String,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    generation: u64,
    rank: u32,
    scope: Option<Scope>,
}

/// A step, or a joining, that goes on.
#[derive(Debug)]
struct Scope {
    trace: Trace,
    name: &'static str,
    step: Step,
    from: SystemTime,
    phase: Option<(Phase, SystemTime)>,
    phases: u32,
}

impl Timeline {
    pub(super) fn new(traces: Traces, run: String) -> Self {
        Self { traces, run, now: Mutex::default() }
    }

    /// It joins a generation, at this step.
    pub(super) fn joins(&self, generation: u64, rank: u32, step: Step) {
        let mut now = locked(&self.now);
        self.close(&mut now);
        (now.generation, now.rank) = (generation, rank);
        now.scope = Some(self.scope(Trace::of_generation(&self.run, generation), "join", step));
    }

    /// It is in this step from now on.
    pub(super) fn at_step(&self, step: Step) {
        let mut now = locked(&self.now);
        self.close(&mut now);
        let trace = Trace::of_step(&self.run, now.generation, step.0);
        now.scope = self.traces.takes(trace).then(|| self.scope(trace, "train step", step));
    }

    /// It does this from now on.
    pub(super) fn enter(&self, phase: Phase) {
        let mut now = locked(&self.now);
        if phase == Phase::Idle {
            return self.close(&mut now);
        }
        let rank = now.rank;
        let Some(scope) = &mut now.scope else { return };
        if scope.phase.is_some_and(|(current, _)| current == phase) {
            return;
        }
        let at = self.traces.now();
        self.end_phase(scope, rank, at);
        scope.phase = Some((phase, at));
    }

    fn scope(&self, trace: Trace, name: &'static str, step: Step) -> Scope {
        Scope { trace, name, step, from: self.traces.now(), phase: None, phases: 0 }
    }

    fn end_phase(&self, scope: &mut Scope, rank: u32, at: SystemTime) {
        let Some((phase, from)) = scope.phase.take() else { return };
        scope.phases += 1;
        if scope.phases <= PHASES {
            self.traces.tell(Span::new(scope.trace, Place::Detail(rank, scope.phases), name(phase), from, at));
        }
    }

    fn close(&self, now: &mut Now) {
        // A step in which nothing was done is none: the one behind the last.
        let Some(mut scope) = now.scope.take().filter(|scope| scope.phase.is_some()) else { return };
        let at = self.traces.now();
        self.end_phase(&mut scope, now.rank, at);
        let mut span = Span::new(scope.trace, Place::Part(now.rank, 0), scope.name, scope.from, at);
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        span.about = vec![
            Attribute::new("began.step", count(scope.step.0)),
            Attribute::new("began.generation", count(now.generation)),
            Attribute::new("began.rank", i64::from(now.rank)),
        ];
        self.traces.tell(span);
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified | Phase::Idle => "idle",
        Phase::Starting => "get state",
        Phase::Rendezvous => "rendezvous",
        Phase::Compute => "compute",
        Phase::Data => "wait for data",
        Phase::Reduce => "wait for sums",
        Phase::Equilibrium => "wait for equilibrium",
        Phase::Write => "write",
    }
}
