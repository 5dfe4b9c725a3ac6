//! The thread that scores the model during a run, so that no step waits for it.
//!
//! It gets a copy of G's weights, live and averaged, draws images from noise that never changes and holds them against real ones that
//! never change: the scores are a function of the weights. It reads nothing that training writes and writes nothing that training
//! reads. One state is scored at a time and two may wait; one that comes due meanwhile is passed over, which is said.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use began::config::Precision;
use began::score::{Metric, Weights};
use began::{RunConfig, Step};
use began_data::DataSet;
use began_proto::v1::{EvaluationDone, Score};
use tch::{Device, Kind, Tensor};
use torch_ext::stream::{Event, Stream};

use crate::arithmetic::Arithmetic;
use crate::collective::CalledOff;
use crate::evaluation::images::{of_data_unverified, of_generator};
use crate::evaluation::plain::{PlainJudge, still_wanted};
use crate::network::Generator;
use crate::session::locked;
use crate::state::State;

/// How long the end of the process waits for what was called off: it looks up in between, at the latest after about a second.
const LAST_LOOK: Duration = Duration::from_secs(15);
/// States that may wait.
const WAITING: usize = 2;
/// The thread's nice value: where cores are short, training goes first.
const NICENESS: i32 = 10;

/// A state to be scored.
struct Order {
    step: Step,
    carry: f64,
    /// Flat copies of G's weights, in the numbers of the master.
    copies: Vec<(Weights, Tensor)>,
    /// When the device has made them.
    there: Event,
    called_off: CalledOff,
}

/// Where scores go.
pub type Report = Box<dyn Fn(EvaluationDone) + Send>;

#[derive(Default)]
struct Desk {
    waiting: VecDeque<Order>,
    /// What is under way, and how it is called off.
    busy: Option<(Step, CalledOff)>,
    /// The last state that was scored.
    last: Option<Step>,
    closed: bool,
}

impl Desk {
    fn is_idle(&self) -> bool {
        self.busy.is_none() && self.waiting.is_empty()
    }
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    report: Mutex<Report>,
}

/// The scoring's end of the training loop.
pub struct Evaluator {
    config: RunConfig,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Evaluator {
    /// Starts the thread, on the device that training is on; nothing where the configuration asks for no scores.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn start(config: &RunConfig, data: Arc<DataSet>, device: Device, report: Report) -> Result<Option<Self>> {
        if config.run.evaluate_every == 0 {
            return Ok(None);
        }
        let shared = Arc::new(Shared { desk: Mutex::default(), changed: Condvar::new(), report: Mutex::new(report) });
        let work = shared.clone();
        let mut scoring = Scoring { config: config.clone(), data, device, judge: None };
        let thread = Builder::new().name("evaluation".into()).spawn(move || {
            tch::set_num_threads(1);
            // On Linux a thread has a nice value of its own. One that may not be nice is as good as the others.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            work.score(&mut scoring);
        });
        let thread = Some(thread.context("cannot start the thread that scores the model")?);
        Ok(Some(Self { config: config.clone(), shared, thread }))
    }

    /// Has the state scored if it is due, unless it was; never waits, and never fails: that it cannot be scored is a report. `carry` is
    /// that of the state's step.
    pub fn score_if_due(&self, state: &State, carry: f64) {
        let step = state.step;
        if !self.config.run.evaluates(step) {
            return;
        }
        let mut desk = locked(&self.shared.desk);
        let under_way = desk.busy.iter().filter(|(_, called_off)| !called_off.is_stopped()).map(|(step, _)| *step);
        let mut begun = under_way.chain(desk.waiting.iter().map(|order| order.step)).chain(desk.last);
        if begun.any(|begun| begun == step) {
            return;
        }
        let ordered = if desk.waiting.len() < WAITING {
            copy(state, carry).map(|order| desk.waiting.push_back(order))
        } else {
            Err(anyhow!("{WAITING} states before it wait already: scoring takes longer than run.evaluate_every"))
        };
        drop(desk);
        match ordered {
            Ok(()) => self.shared.changed.notify_all(),
            Err(error) => locked(&self.shared.report)(not_scored(step, &error)),
        }
    }

    /// States after this step are computed again: what is being made of them is called off and not reported.
    pub fn forget_after(&self, step: Step) {
        let mut desk = locked(&self.shared.desk);
        if let Some((at, called_off)) = &desk.busy
            && *at > step
        {
            called_off.stop(VOID);
        }
        desk.waiting.retain(|order| order.step <= step);
        desk.last = desk.last.filter(|last| *last <= step);
    }

    /// Waits until nothing is being scored, at most that long; whether it is so.
    pub fn is_idle(&self, patience: Duration) -> bool {
        let desk = locked(&self.shared.desk);
        let waited = self.shared.changed.wait_timeout_while(desk, patience, |desk| !desk.is_idle());
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0.is_idle()
    }
}

/// Why scores of a state that is computed again are not reported.
const VOID: &str = "its step is computed again";

impl Drop for Evaluator {
    fn drop(&mut self) {
        {
            let mut desk = locked(&self.shared.desk);
            desk.closed = true;
            desk.waiting.clear();
            if let Some((_, called_off)) = &desk.busy {
                called_off.stop("the trainer ends");
            }
        }
        self.shared.changed.notify_all();
        // A process must not end while libtorch computes in it.
        if self.is_idle(LAST_LOOK)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn not_scored(step: Step, error: &anyhow::Error) -> EvaluationDone {
    EvaluationDone { step: step.0, error: format!("{error:#}"), ..EvaluationDone::default() }
}

/// Copies of what is scored, on the device.
fn copy(state: &State, carry: f64) -> Result<Order> {
    let live = (Weights::Live, &state.generator.parameters.flat);
    let average = state.average.as_ref().map(|average| (Weights::Average, &average.flat));
    let copies = [Some(live), average].into_iter().flatten();
    let copies = copies.map(|(weights, flat)| Ok((weights, tch::no_grad(|| flat.f_detach())?.copy())));
    let copies: Vec<(Weights, Tensor)> = copies.collect::<Result<_>>()?;
    let device = state.generator.parameters.device();
    let mut there = Event::new(device, false)?;
    there.record(Stream::current(device)?)?;
    Ok(Order { step: state.step, carry, copies, there, called_off: CalledOff::new() })
}

impl Shared {
    /// Scores what comes, until the evaluator is closed.
    fn score(&self, scoring: &mut Scoring) {
        loop {
            let order = {
                let desk = locked(&self.desk);
                let idle = |desk: &mut Desk| desk.waiting.is_empty() && !desk.closed;
                let mut desk = self.changed.wait_while(desk, idle).unwrap_or_else(std::sync::PoisonError::into_inner);
                let Some(order) = desk.waiting.pop_front() else { return };
                desk.busy = Some((order.step, order.called_off.clone()));
                order
            };
            let (step, called_off) = (order.step, order.called_off.clone());
            let scored = scoring.score(order, &|done| self.tell(done, &called_off));
            if let Err(error) = &scored {
                self.tell(not_scored(step, error), &called_off);
            }
            let mut desk = locked(&self.desk);
            desk.busy = None;
            desk.last = (scored.is_ok() && !called_off.is_stopped()).then_some(step);
            drop(desk);
            self.changed.notify_all();
        }
    }

    fn tell(&self, done: EvaluationDone, called_off: &CalledOff) {
        if !called_off.is_stopped() {
            locked(&self.report)(done);
        }
    }
}

/// What the thread scores with.
struct Scoring {
    config: RunConfig,
    data: Arc<DataSet>,
    device: Device,
    /// Over the real images, from the first time on.
    judge: Option<PlainJudge>,
}

impl Scoring {
    /// Scores all copies, and tells of each. What `trainer evaluate` gives for the checkpoint of this state, with the run's seed and as
    /// many images.
    fn score(&mut self, order: Order, tell: &dyn Fn(EvaluationDone)) -> Result<()> {
        let Order { step, carry, copies, there, called_off } = order;
        let (model, seed) = (&self.config.model, self.config.run.seed);
        // Beside the stream that training is on, and behind the copies.
        let stream = Stream::new(self.device, false)?;
        let _entered = stream.enter()?;
        there.hold_up(stream)?;
        let mut started = Instant::now();
        let judge = match &mut self.judge {
            Some(judge) => judge,
            none => {
                // Damage in a shard is found by the trainer that trains on it; to look for it here would mean to read all data.
                let real = of_data_unverified(&self.data, self.config.run.evaluate_samples.into(), seed)?;
                none.insert(PlainJudge::new(real, seed, self.device, &called_off)?)
            }
        };
        for (weights, copy) in copies {
            stream.uses(&copy)?;
            // In f32 whatever the run computes in, as every tool does.
            let arithmetic = Arithmetic::new(Precision::F32, self.device)?;
            let generator = Generator::new(model, copy.f_to_kind(Kind::Float)?, arithmetic)?;
            let images = of_generator(&generator, carry, judge.count(), seed, |_| still_wanted(&called_off))?;
            let scores = judge.judge(&images, &called_off)?.by_metric();
            let score = |(metric, value): (Metric, f64)| Score { metric: metric.to_string(), value };
            tell(EvaluationDone {
                step: step.0,
                weights: weights.to_string(),
                scores: scores.into_iter().map(score).collect(),
                error: String::new(),
                seconds: started.elapsed().as_secs_f64(),
            });
            started = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::config::Model;
    use std::sync::mpsc::{Receiver, channel};

    fn config() -> RunConfig {
        let mut config = RunConfig { model: Model { size: 16, filters: 3, latent: 4 }, ..RunConfig::default() };
        (config.run.evaluate_every, config.run.evaluate_samples, config.run.steps) = (10, 20, 100);
        config.optimizer.average = 0.5;
        config
    }

    /// An evaluator, what it reports, and the folder of its data.
    fn evaluator() -> Result<(Evaluator, Receiver<EvaluationDone>, tempfile::TempDir)> {
        let folder = tempfile::tempdir()?;
        began_data::prepare::prepare(&began_data::prepare::Options {
            source: "synthetic:faces".into(),
            out: folder.path().join("data"),
            size: 16,
            count: 30,
            seed: 3,
            samples_per_shard: 7,
            quiet: true,
            ..Default::default()
        })?;
        let data = Arc::new(DataSet::open(&folder.path().join("data"))?);
        let (send, reports) = channel();
        let report = Box::new(move |done| drop(send.send(done)));
        let evaluator = Evaluator::start(&config(), data, Device::Cpu, report)?.context("nothing is scored")?;
        Ok((evaluator, reports, folder))
    }

    fn at(step: u64) -> Result<State> {
        let mut state = State::initial(&config(), Device::Cpu)?;
        state.step = Step(step);
        Ok(state)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn both_weights_are_scored_once_at_the_steps_that_are_due_and_the_same_weights_have_the_same_scores() -> Result<()>
    {
        let (evaluator, reports, _folder) = evaluator()?;
        for step in [9, 10, 10, 11, 20] {
            evaluator.score_if_due(&at(step)?, 0.0);
            assert!(evaluator.is_idle(PATIENCE));
        }
        drop(evaluator);
        let reports: Vec<EvaluationDone> = reports.iter().collect();
        let what: Vec<(u64, &str)> = reports.iter().map(|done| (done.step, done.weights.as_str())).collect();
        assert_eq!(what, [(10, "live"), (10, "average"), (20, "live"), (20, "average")]);
        // At step 0 the average is a copy; and these states differ by their step alone.
        assert!(reports.iter().all(|done| done.error.is_empty() && done.scores == reports[0].scores), "{reports:?}");
        let names: Vec<&str> = reports[0].scores.iter().map(|score| score.metric.as_str()).collect();
        assert_eq!(names, ["sliced_wasserstein", "sliced_wasserstein_16", "ms_ssim", "ms_ssim_real"]);
        Ok(())
    }

    #[test]
    fn a_state_for_which_there_is_no_room_is_passed_over_in_words_and_what_is_void_is_not_reported() -> Result<()> {
        let (evaluator, reports, _folder) = evaluator()?;
        for step in [10, 20, 30, 40, 50, 60] {
            evaluator.score_if_due(&at(step)?, 0.0);
        }
        // A world that goes on from step 5 computes all of them again.
        evaluator.forget_after(Step(5));
        assert!(evaluator.is_idle(PATIENCE));
        evaluator.score_if_due(&at(10)?, 0.0);
        assert!(evaluator.is_idle(PATIENCE));
        drop(evaluator);
        let reports: Vec<EvaluationDone> = reports.iter().collect();
        let passed_over: Vec<u64> =
            reports.iter().filter(|done| !done.error.is_empty()).map(|done| done.step).collect();
        assert!(passed_over.ends_with(&[50, 60]), "{reports:?}");
        assert!(reports.iter().all(|done| done.error.is_empty() || done.error.contains("run.evaluate_every")));
        assert!(!reports.iter().any(|done| [20, 30, 40].contains(&done.step) && done.error.is_empty()), "{reports:?}");
        let again: Vec<&str> = reports.iter().rev().take(2).map(|done| done.weights.as_str()).collect();
        assert_eq!((again, reports.last().map(|done| done.step)), (vec!["average", "live"], Some(10)));
        Ok(())
    }

    #[test]
    fn broken_weights_are_a_report_and_the_next_state_is_scored() -> Result<()> {
        let (evaluator, reports, _folder) = evaluator()?;
        let broken = at(10)?;
        let _ = broken.generator.parameters.flat.shallow_clone().f_fill_(f64::NAN)?;
        evaluator.score_if_due(&broken, 0.0);
        assert!(evaluator.is_idle(PATIENCE));
        evaluator.score_if_due(&at(20)?, 0.0);
        assert!(evaluator.is_idle(PATIENCE));
        drop(evaluator);
        let reports: Vec<EvaluationDone> = reports.iter().collect();
        assert!(reports[0].error.contains("not finite") && reports[1].step == 20, "{reports:?}");
        Ok(())
    }

    #[test]
    fn nobody_is_started_where_nothing_is_asked_for() -> Result<()> {
        let (_evaluator, _, folder) = evaluator()?;
        let data = Arc::new(DataSet::open(&folder.path().join("data"))?);
        let none = Evaluator::start(&RunConfig::default(), data, Device::Cpu, Box::new(|_| {}))?;
        assert!(none.is_none());
        Ok(())
    }
}
