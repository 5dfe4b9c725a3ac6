use super::*;
use crate::Step;
use crate::diagnosis::Distribution;

/// A made-up run of 1,000 steps that does well.
struct Made {
    config: RunConfig,
    steps: Vec<StepRecord>,
    windows: Vec<Window>,
}

impl Made {
    fn healthy() -> Self {
        let config = RunConfig::default();
        let Objective { gamma, lambda_k, .. } = config.objective;
        let mut k = 0.0f64;
        let mut steps = Vec::new();
        for step in 0..1_000u64 {
            let real = 0.1 + 0.3 * (-(step as f64) / 200.0).exp();
            let fake = gamma * real - 0.02 * (step as f64 / 150.0).cos();
            let m_global = real + (gamma * real - fake).abs();
            steps.push(StepRecord { step: Step(step), real, fake, k, rate: 1e-4, m_global });
            k = (k + lambda_k * (gamma * real - fake)).clamp(0.0, 1.0);
        }
        let windows = (1..=20)
            .map(|n| {
                let losses = Distribution {
                    count: 800,
                    skewness: Some(0.1),
                    kurtosis: Some(0.1),
                    normality_p: Some(0.4),
                    ..Distribution::default()
                };
                Window {
                    from: 50 * (n - 1),
                    to: 50 * n,
                    real: losses.clone(),
                    fake: losses,
                    wasserstein: Some(0.1),
                    wasserstein_gaussian: Some(0.102),
                    ratio: Some(0.01 * n as f64),
                    out_of_range: Some(0.001),
                    specks: Some(0.0001),
                    diversity: Some(0.8),
                    ..Window::default()
                }
            })
            .collect();
        Self { config, steps, windows }
    }

    fn each(mut self, change: impl Fn(&mut StepRecord)) -> Self {
        self.steps.iter_mut().for_each(change);
        self
    }

    fn windows(mut self, change: impl Fn(&mut Window)) -> Self {
        self.windows.iter_mut().for_each(change);
        self
    }

    fn diagnosis(&self) -> Diagnosis {
        diagnose(&Course { config: &self.config, steps: &self.steps, windows: &self.windows })
    }

    /// The subjects that came out so.
    fn all(&self, judgement: Judgement) -> Vec<&'static str> {
        let findings = self.diagnosis().findings;
        findings.iter().filter(|finding| finding.judgement == judgement).map(|finding| finding.subject).collect()
    }
}

use crate::config::Objective;

#[test]
fn a_run_that_does_well_is_healthy_and_nothing_is_held_against_it() {
    let made = Made::healthy();
    assert_eq!(made.diagnosis().verdict, Verdict::Healthy);
    let held = made.all(Judgement::Held);
    assert_eq!(held.len(), made.diagnosis().findings.len(), "{:#?}", made.diagnosis());
}

#[test]
fn a_collapse_is_told_by_the_samples_and_not_by_the_losses() {
    let mut made = Made::healthy();
    made.windows.iter_mut().skip(8).for_each(|window| window.diversity = Some(0.1));
    let diagnosis = made.diagnosis();
    assert_eq!(diagnosis.verdict, Verdict::Collapsed);
    let text = &diagnosis.findings[0].text;
    assert!(text.contains("by step 450 at the latest") && text.contains("12 times"), "{text}");
    let blind = Made::healthy().windows(|window| window.diversity = None);
    assert_eq!(blind.diagnosis().verdict, Verdict::Unknown);
    let narrow = Made::healthy().windows(|window| window.diversity = Some(0.4));
    assert_eq!((narrow.all(Judgement::Broken), narrow.diagnosis().verdict), (vec!["collapse"], Verdict::Healthy));
}

#[test]
fn k_at_a_bound_is_told_with_which_one() {
    for (bound, words) in [(0.0, "k was at 0"), (1.0, "k was at 1")] {
        let mut made = Made::healthy().each(|record| record.k = bound);
        // So that k is what the losses make of it.
        made.config.objective.lambda_k = 0.0;
        assert_eq!(made.all(Judgement::Trouble), ["k at its bounds"]);
        assert!(made.diagnosis().findings.iter().any(|finding| finding.text.contains(words)));
    }
}

#[test]
fn each_trouble_is_told_and_no_other() {
    let rising = Made::healthy().each(|record| record.m_global = 0.2 + record.step.0 as f64 * 1e-4);
    assert_eq!(rising.all(Judgement::Trouble), ["M"]);
    let mut forgotten = Made::healthy();
    forgotten.steps[500].k += 0.01;
    assert_eq!(forgotten.all(Judgement::Trouble), ["k over resumes"]);
    let mut jump = Made::healthy();
    jump.steps[700].real *= 3.0;
    assert!(jump.all(Judgement::Trouble).contains(&"jumps"));
    let mut nan = Made::healthy();
    nan.steps[999].real = f64::NAN;
    assert!(nan.all(Judgement::Trouble).contains(&"jumps"));
    let specks = Made::healthy().windows(|window| window.specks = Some(0.03));
    assert_eq!((specks.all(Judgement::Trouble), specks.diagnosis().verdict), (vec!["specks"], Verdict::Troubled));
    let out = Made::healthy().windows(|window| window.out_of_range = Some(0.2));
    assert_eq!(out.all(Judgement::Trouble), ["outputs out of [-1, 1]"]);
}

#[test]
fn an_assumption_of_the_paper_that_does_not_hold_is_no_trouble() {
    let early = Made::healthy().each(|record| record.fake += if record.step.0 < 100 { 1.0 } else { 0.0 });
    assert!(early.all(Judgement::Broken).contains(&"the paper: L(x) > L(G(z)) early"));
    let falling = Made::healthy().windows(|window| window.ratio = Some(1.0 / window.to as f64));
    assert_eq!(falling.all(Judgement::Broken), ["the paper: the ratio is constant or increasing"]);
    let skewed = Made::healthy().windows(|window| {
        (window.fake.normality_p, window.fake.skewness) = (Some(1e-9), Some(1.4));
    });
    assert_eq!(skewed.all(Judgement::Broken), ["the paper: normal losses"]);
    let far = Made::healthy().windows(|window| window.wasserstein_gaussian = Some(0.15));
    assert_eq!(far.all(Judgement::Broken), ["the paper: the formula gives the Wasserstein distance"]);
    let floor = Made::healthy().each(|record| record.rate = 2e-5);
    assert_eq!(floor.all(Judgement::Broken), ["learning rate"]);
}

#[test]
fn of_a_short_run_or_an_old_one_it_is_said_that_it_cannot_be_told() {
    let mut short = Made::healthy();
    short.steps.truncate(20);
    short.windows.truncate(1);
    assert_eq!(short.diagnosis().verdict, Verdict::Unknown);
    assert!(short.all(Judgement::Trouble).is_empty());
    let mut old = Made::healthy();
    old.windows.clear();
    assert_eq!((old.diagnosis().verdict, old.all(Judgement::Trouble).len()), (Verdict::Unknown, 0));
    let mut none = old;
    none.steps.clear();
    assert_eq!(none.diagnosis().verdict, Verdict::Unknown);
}
