//! What trainers score the model at during a run: checked, put into words, and said to be missing where it does not come.
//!
//! Beside the machine, like the diagnosis: nothing that is decided about a run hangs on a score. It runs on the diagnosis' thread.
//!
//! A trainer that is lost while it scores takes its scores along. One trainer scores one state after the other, so once those of a
//! later state are there, or the run is over, what has not come is not coming.

use std::collections::{BTreeMap, BTreeSet};

use began::score::{Metric, Weights};
use began::{RunConfig, Step};
use began_proto::v1::EvaluationDone;
use began_record::{Entry, EvaluationRow, EventRow};

use crate::beside::Beside;
use crate::recorder::{Record, wall_clock};
use crate::wire;

/// Steps that a scored state may be ahead of the last step that is known to be whole.
const AHEAD: u64 = 64;
/// Scores in one message.
const MOST: usize = 16;
/// States whose scores are waited for; the oldest of more are forgotten.
const WAITING: usize = 1024;

/// What is to be recorded and told to whoever looks on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    step: Step,
    generation: u64,
    kind: &'static str,
    text: String,
    row: Option<EvaluationRow>,
}

impl Told {
    pub(crate) fn tell(self, beside: &Beside) {
        let Self { step, generation, kind, text, row } = self;
        match kind {
            "warning" => tracing::warn!("{text}"),
            kind => tracing::info!(kind, "{text}"),
        }
        if let Some(row) = row {
            beside.recorder.record(Record::Entry(Entry::Evaluation(row)));
        }
        let (time, kind) = (wall_clock(), kind.into());
        beside.note(EventRow { time, kind, text, step: step.0, generation, rank: None, node: None });
    }
}

/// What is known of the scores of a run.
#[derive(Debug)]
pub(crate) struct Evaluations {
    config: RunConfig,
    /// Committed steps.
    reached: Step,
    /// The last generation that was heard of.
    generation: u64,
    /// What is in the journal, or on its way there.
    known: BTreeSet<(Step, Weights)>,
    /// States that could not be scored.
    failed: BTreeSet<Step>,
    /// States whose scores are due.
    waiting: BTreeSet<Step>,
}

impl Evaluations {
    /// Of a run that has reached a step, with what its journal has.
    pub(crate) fn new(config: RunConfig, reached: Step, known: &[EvaluationRow]) -> Self {
        let known = known.iter().map(|row| (row.step, row.weights)).collect();
        Self { config, reached, generation: 0, known, failed: BTreeSet::new(), waiting: BTreeSet::new() }
    }

    /// A step is whole.
    pub(crate) fn step(&mut self, step: Step) {
        if step < self.reached {
            // A run that goes on from an older checkpoint computes again what the journal has.
            self.rewind(step);
        }
        self.reached = step.next();
        let at = self.reached;
        if self.config.run.evaluates(at) && !self.is_known(at) && !self.failed.contains(&at) {
            self.waiting.insert(at);
            if self.waiting.len() > WAITING {
                self.waiting.pop_first();
            }
        }
    }

    /// Steps from this one on are computed again; what the state of the step itself was scored at stands.
    pub(crate) fn rewind(&mut self, step: Step) {
        self.reached = self.reached.min(step);
        self.known.retain(|(known, _)| *known <= step);
        self.failed.retain(|failed| *failed <= step);
        self.waiting.retain(|waiting| *waiting <= step);
    }

    /// What a trainer of this generation says.
    ///
    /// # Errors
    /// If it makes no sense, in words.
    pub(crate) fn done(&mut self, done: EvaluationDone, generation: u64) -> Result<Vec<Told>, String> {
        let step = Step(done.step);
        if !self.config.run.evaluates(step) || step.0 > self.reached.0.saturating_add(AHEAD) {
            return Err(format!("scores of step {}, which are not asked for", done.step));
        }
        self.generation = self.generation.max(generation);
        if !done.error.is_empty() {
            self.waiting.remove(&step);
            if !self.failed.insert(step) {
                return Ok(Vec::new());
            }
            let text = format!("step {step} is not scored: {}; the run goes on", wire::text(&done.error));
            return Ok(vec![self.told(step, "warning", text, None)]);
        }
        let row = self.row(&done)?;
        if !self.known.insert((step, row.weights)) {
            // Said again after a stream broke, or scored again where a generation begins with this state.
            return Ok(Vec::new());
        }
        if self.is_known(step) {
            self.waiting.remove(&step);
        }
        let mut told = self.missing_below(step);
        let text = in_words(&row, done.seconds);
        told.push(self.told(step, "evaluation", text, Some(row)));
        Ok(told)
    }

    /// What never came, once the run is over.
    pub(crate) fn finish(&mut self) -> Vec<Told> {
        self.missing_below(Step(u64::MAX))
    }

    fn missing_below(&mut self, step: Step) -> Vec<Told> {
        let later = self.waiting.split_off(&step);
        let missing = std::mem::replace(&mut self.waiting, later);
        let text = |step| format!("step {step} has no scores: none came of the trainer that was to make them");
        missing.into_iter().map(|step| self.told(step, "warning", text(step), None)).collect()
    }

    fn told(&self, step: Step, kind: &'static str, text: String, row: Option<EvaluationRow>) -> Told {
        Told { step, generation: self.generation, kind, text, row }
    }

    /// Whether all scores of a step are there.
    fn is_known(&self, step: Step) -> bool {
        self.known.contains(&(step, Weights::Live))
            && (self.config.optimizer.average == 0.0 || self.known.contains(&(step, Weights::Average)))
    }

    /// Scores as they may be kept.
    fn row(&self, done: &EvaluationDone) -> Result<EvaluationRow, String> {
        let step = done.step;
        let weights: Weights = done.weights.parse().map_err(|error| format!("scores of step {step}: {error}"))?;
        if weights == Weights::Average && self.config.optimizer.average == 0.0 {
            return Err(format!("scores of step {step} of averaged weights, which this run does not keep"));
        }
        if done.scores.is_empty() || done.scores.len() > MOST {
            return Err(format!("{} scores of step {step}; expected 1 to {MOST}", done.scores.len()));
        }
        let mut scores = BTreeMap::new();
        for score in &done.scores {
            let metric: Metric = score.metric.parse().map_err(|error| format!("scores of step {step}: {error}"))?;
            if matches!(metric, Metric::SlicedWassersteinAt(size) if size > self.config.model.size) {
                return Err(format!("scores of step {step}: {metric} of images of {} px", self.config.model.size));
            }
            if !score.value.is_finite() {
                return Err(format!("scores of step {step}: {metric} is {}", score.value));
            }
            if scores.insert(metric, score.value).is_some() {
                return Err(format!("scores of step {step}: {metric} stands there twice"));
            }
        }
        Ok(EvaluationRow { step: Step(step), weights, scores })
    }
}

fn in_words(row: &EvaluationRow, seconds: f64) -> String {
    let score = |metric| row.scores.get(&metric).copied();
    let mut said = Vec::new();
    if let Some(distance) = score(Metric::SlicedWasserstein) {
        said.push(format!("sliced Wasserstein {distance:.2}"));
    }
    if let Some(similarity) = score(Metric::MsSsim) {
        let real = score(Metric::MsSsimReal).map(|real| format!(" (real images {real:.4})")).unwrap_or_default();
        said.push(format!("MS-SSIM {similarity:.4}{real}"));
    }
    if said.is_empty() {
        said.extend(row.scores.iter().map(|(metric, value)| format!("{metric} {value:.4}")));
    }
    let weights = match row.weights {
        Weights::Live => "",
        Weights::Average => " with averaged weights",
    };
    let seconds = if seconds.is_finite() { seconds.clamp(0.0, 1e9) } else { 0.0 };
    format!("step {}{weights}: {}; took {seconds:.1} s", row.step, said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use began_proto::v1::Score;

    fn evaluations(average: f64) -> Evaluations {
        let mut config = RunConfig::default();
        (config.run.steps, config.run.evaluate_every, config.optimizer.average) = (45, 10, average);
        let mut evaluations = Evaluations::new(config, Step(0), &[]);
        (0..10).for_each(|step| evaluations.step(Step(step)));
        evaluations
    }

    fn done(step: u64, weights: &str, scores: &[(&str, f64)]) -> EvaluationDone {
        let scores = scores.iter().map(|&(metric, value)| Score { metric: metric.into(), value }).collect();
        EvaluationDone { step, weights: weights.into(), scores, seconds: 1.25, ..EvaluationDone::default() }
    }

    const SCORES: [(&str, f64); 3] = [("sliced_wasserstein", 12.5), ("ms_ssim", 0.25), ("ms_ssim_real", 0.2)];

    fn texts(told: &[Told]) -> Vec<(&str, &str)> {
        told.iter().map(|told| (told.kind, told.text.as_str())).collect()
    }

    #[test]
    fn scores_are_kept_and_said_once() -> Result<(), String> {
        let mut evaluations = evaluations(0.9);
        let told = evaluations.done(done(10, "live", &SCORES), 3)?;
        let text = "step 10: sliced Wasserstein 12.50, MS-SSIM 0.2500 (real images 0.2000); took 1.2 s";
        assert_eq!(texts(&told), [("evaluation", text)]);
        assert_eq!((told[0].step, told[0].generation), (Step(10), 3));
        assert_eq!(told[0].row.as_ref().map(|row| row.scores[&Metric::MsSsim]), Some(0.25));
        assert_eq!(evaluations.done(done(10, "live", &SCORES), 3)?, []);
        assert!(evaluations.done(done(10, "average", &SCORES), 3)?[0].text.contains("averaged weights"));
        assert_eq!(evaluations.finish(), []);
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (senseless, words) in [
            (done(11, "live", &SCORES), "not asked for"),
            (done(0, "live", &SCORES), "not asked for"),
            (done(u64::MAX - 5, "live", &SCORES), "not asked for"),
            (done(10, "dead", &SCORES), "kind of weights"),
            (done(10, "average", &SCORES), "does not keep"),
            (done(10, "live", &[]), "0 scores"),
            (done(10, "live", &[("ms_ssim", 0.1); 17]), "17 scores"),
            (done(10, "live", &[("ms_ssim", 0.1); 2]), "twice"),
            (done(10, "live", &[("beauty", 1.0)]), "beauty"),
            (done(10, "live", &[("sliced_wasserstein_512", 1.0)]), "of images of 64 px"),
            (done(10, "live", &[("ms_ssim", f64::NAN)]), "NaN"),
            (done(10, "live", &[("sliced_wasserstein", f64::INFINITY)]), "inf"),
        ] {
            let said = evaluations(0.0).done(senseless, 1).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn scores_that_do_not_come_are_said_to_be_missing_once_later_ones_are_there_or_the_run_is_over()
    -> Result<(), String> {
        let mut evaluations = evaluations(0.0);
        (10..45).for_each(|step| evaluations.step(Step(step)));
        evaluations.done(done(10, "live", &SCORES), 1)?;
        let failed = EvaluationDone { step: 20, error: "no\nmemory".into(), ..EvaluationDone::default() };
        assert!(evaluations.done(failed.clone(), 1)?[0].text.contains("no memory"));
        assert_eq!(evaluations.done(failed, 1)?, []);
        let told = evaluations.done(done(40, "live", &SCORES), 1)?;
        assert!(told[0].text.starts_with("step 30 has no scores") && told[1].kind == "evaluation", "{told:?}");
        assert_eq!(texts(&evaluations.finish()).len(), 1, "the last step's");
        Ok(())
    }

    #[test]
    fn a_step_that_is_computed_again_is_scored_again() -> Result<(), String> {
        let mut evaluations = evaluations(0.0);
        (10..25).for_each(|step| evaluations.step(Step(step)));
        evaluations.done(done(10, "live", &SCORES), 1)?;
        evaluations.done(done(20, "live", &SCORES), 1)?;
        evaluations.rewind(Step(10));
        assert_eq!(evaluations.done(done(10, "live", &SCORES), 2)?, [], "its state is the same");
        assert_eq!(evaluations.finish(), [], "nobody waits for what is not computed yet");
        (10..25).for_each(|step| evaluations.step(Step(step)));
        assert_eq!(evaluations.done(done(20, "live", &SCORES), 2)?.len(), 1);
        Ok(())
    }

    #[test]
    fn a_coordinator_that_is_started_again_knows_what_the_journal_has() -> Result<(), String> {
        let mut before = evaluations(0.0);
        let rows: Vec<EvaluationRow> =
            before.done(done(10, "live", &SCORES), 1)?.into_iter().filter_map(|told| told.row).collect();
        let mut after = Evaluations::new(before.config.clone(), Step(12), &rows);
        assert_eq!(after.done(done(10, "live", &SCORES), 1)?, []);
        // Gone on from an older checkpoint, which may have been changed.
        (5..10).for_each(|step| after.step(Step(step)));
        assert_eq!(after.done(done(10, "live", &SCORES), 1)?.len(), 1);
        Ok(())
    }
}
