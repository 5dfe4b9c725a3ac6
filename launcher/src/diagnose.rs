//! `diagnose` and `compare`: what the files of runs say about their equilibrium, in sentences, in a table and in plots.
//!
//! They read and change nothing, so the run may be going on, or be a copy.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use began::diagnosis::{Course, Diagnosis, Finding, Judgement, Window, diagnose as judge};
use began::score::{Metric, Weights};
use began::{RunConfig, StepRecord};
use began_record::{EvaluationRow, Journal, RunDir};

use crate::cli::{CompareArgs, DiagnoseArgs};

mod plot;
mod report;

/// What is read of one run.
struct Read {
    path: PathBuf,
    config: RunConfig,
    steps: Vec<StepRecord>,
    windows: Vec<Window>,
    evaluations: Vec<EvaluationRow>,
    digest: Option<String>,
    diagnosis: Diagnosis,
}

impl Read {
    fn from(path: &Path) -> Result<Self> {
        let run = RunDir::open(path)?;
        let config = run.config()?;
        let journal = Journal::read(&run)?;
        let steps: Vec<StepRecord> = journal.steps()?.iter().map(|row| row.record).collect();
        let window = |row: &began_record::DiagnosisRow| {
            serde_json::from_str(&row.window).with_context(|| {
                format!("{}: the window of the diagnosis up to step {}", run.journal().display(), row.step)
            })
        };
        let windows = journal.diagnosis()?.iter().map(window).collect::<Result<Vec<Window>>>()?;
        let evaluations = journal.evaluations()?;
        let digest = journal.last_digest()?.map(|(step, digest)| format!("{step} {digest}"));
        let diagnosis = judge(&Course { config: &config, steps: &steps, windows: &windows });
        Ok(Self { path: path.into(), config, steps, windows, evaluations, digest, diagnosis })
    }

    fn name(&self) -> String {
        self.path
            .file_name()
            .map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The mean over the last tenth of the steps.
    fn late(&self, value: impl Fn(&StepRecord) -> f64) -> Option<f64> {
        let late = &self.steps[self.steps.len() - self.steps.len().div_ceil(10)..];
        (!late.is_empty()).then(|| late.iter().map(value).sum::<f64>() / late.len() as f64)
    }

    /// A score by step.
    fn scores(&self, weights: Weights, metric: Metric) -> impl DoubleEndedIterator<Item = (u64, f64)> {
        let of = self.evaluations.iter().filter(move |row| row.weights == weights);
        of.filter_map(move |row| Some((row.step.0, *row.scores.get(&metric)?)))
    }

    fn last(&self, value: impl Fn(&Window) -> Option<f64>) -> Option<f64> {
        self.windows.iter().rev().find_map(value)
    }
}

/// `launcher diagnose`. 0 whatever is found.
///
/// # Errors
/// If it is not a run, or its journal cannot be read, or the report cannot be written.
pub fn diagnose(args: &DiagnoseArgs) -> Result<u8> {
    let run = Read::from(&args.run)?;
    if let Some(out) = &args.out {
        write(out, &report::of_one(&run))?;
    }
    writeln!(std::io::stdout(), "{}", text(&run))?;
    Ok(0)
}

/// `launcher compare`. 0 whatever is found.
///
/// # Errors
/// If one is not a run, or its journal cannot be read, or the report cannot be written.
pub fn compare(args: &CompareArgs) -> Result<u8> {
    let runs = args.runs.iter().map(|path| Read::from(path)).collect::<Result<Vec<_>>>()?;
    if let Some(out) = &args.out {
        write(out, &report::of_several(&runs))?;
    }
    writeln!(std::io::stdout(), "{}", table_text(&rows(&runs)))?;
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn word(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Held => "held",
        Judgement::Broken => "did not hold",
        Judgement::Trouble => "TROUBLE",
        Judgement::Unknown => "cannot be told",
    }
}

fn headline(run: &Read) -> String {
    format!(
        "{}: {}, after {} of {} steps",
        run.path.display(),
        run.diagnosis.verdict,
        run.steps.len(),
        run.config.run.steps
    )
}

fn text(run: &Read) -> String {
    let mut text = headline(run);
    for Finding { judgement, subject, text: seen, advice } in &run.diagnosis.findings {
        let _ = write!(text, "\n  [{}] {subject}: {seen}", word(*judgement));
        if let Some(advice) = advice {
            let _ = write!(text, "\n      try: {advice}");
        }
    }
    for (weights, metric) in SCORES {
        if let Some(said) = course(run, weights, metric) {
            let _ = write!(text, "\n  [scored] {}: {said}", score_name(weights, metric));
        }
    }
    text
}

/// The scores that people look at.
const SCORES: [(Weights, Metric); 5] = [
    (Weights::Live, Metric::SlicedWasserstein),
    (Weights::Average, Metric::SlicedWasserstein),
    (Weights::Live, Metric::MsSsim),
    (Weights::Average, Metric::MsSsim),
    (Weights::Live, Metric::MsSsimReal),
];

fn score_name(weights: Weights, metric: Metric) -> String {
    let name = match metric {
        Metric::SlicedWasserstein => "sliced Wasserstein distance".to_owned(),
        Metric::SlicedWassersteinAt(size) => format!("sliced Wasserstein distance at {size} px"),
        Metric::MsSsim => "MS-SSIM between generated images".to_owned(),
        Metric::MsSsimReal => "MS-SSIM between real images".to_owned(),
    };
    if weights == Weights::Average { format!("{name}, averaged weights") } else { name }
}

/// How a score came out; of one that is better the lower it is, where it was best.
fn course(run: &Read, weights: Weights, metric: Metric) -> Option<String> {
    let scores: Vec<(u64, f64)> = run.scores(weights, metric).collect();
    let (step, last) = *scores.last()?;
    if metric == Metric::MsSsimReal {
        return Some(format!("{last:.4}; generated ones above it are less different"));
    }
    if metric == Metric::MsSsim {
        return Some(format!("{last:.4} at step {step}"));
    }
    let (best_step, best) = scores.into_iter().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let best =
        if best_step == step { "the best so far".to_owned() } else { format!("best {best:.2} at step {best_step}") };
    Some(format!("{last:.2} at step {step}, {best}"))
}

/// What runs are compared by: a name, and a value for each run.
fn rows(runs: &[Read]) -> Vec<(String, Vec<String>)> {
    let each = |name: &str, value: &dyn Fn(&Read) -> String| (name.to_owned(), runs.iter().map(value).collect());
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    let mut rows = vec![each("", &Read::name), each("verdict", &|run| run.diagnosis.verdict.to_string())];
    let keys: Vec<Vec<(String, String)>> = runs.iter().map(|run| run.config.keys()).collect();
    for (at, (key, first)) in keys[0].iter().enumerate() {
        let values: Vec<String> = keys.iter().map(|keys| keys[at].1.clone()).collect();
        if values.iter().any(|value| value != first) {
            rows.push((key.clone(), values));
        }
    }
    rows.push(each("steps", &|run| run.steps.len().to_string()));
    rows.push(each("L(x), last tenth", &|run| number(run.late(|record| record.real))));
    rows.push(each("L(G(z)), last tenth", &|run| number(run.late(|record| record.fake))));
    rows.push(each("k, last tenth", &|run| number(run.late(|record| record.k))));
    rows.push(each("M, last tenth", &|run| number(run.late(|record| record.m_global))));
    rows.push(each("diversity", &|run| number(run.last(|window| window.diversity))));
    rows.push(each("Wasserstein-1", &|run| number(run.last(|window| window.wasserstein))));
    rows.push(each("by the formula", &|run| number(run.last(|window| window.wasserstein_gaussian))));
    rows.push(each("ratio", &|run| number(run.last(|window| window.ratio))));
    rows.push(each("specks", &|run| number(run.last(|window| window.specks))));
    rows.push(each("out of range", &|run| number(run.last(|window| window.out_of_range))));
    for (weights, metric) in SCORES {
        if runs.iter().any(|run| run.scores(weights, metric).next().is_some()) {
            let last = |run: &Read| number(run.scores(weights, metric).next_back().map(|(_, value)| value));
            rows.push(each(&score_name(weights, metric), &last));
        }
    }
    rows.push(each("digest", &|run| {
        let Some(digest) = &run.digest else { return "-".into() };
        let other = runs.iter().find(|other| other.digest.as_ref() == Some(digest) && other.path != run.path);
        let equal = other.map_or(String::new(), |other| format!(" = {}", other.name()));
        digest.chars().take(16).collect::<String>() + &equal
    }));
    rows
}

fn table_text(rows: &[(String, Vec<String>)]) -> String {
    let columns = rows.first().map_or(0, |(_, values)| values.len());
    let width =
        |n: usize| rows.iter().filter_map(|(_, values)| values.get(n)).map(|v| v.chars().count()).max().unwrap_or(0);
    let name = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |(label, values): &(String, Vec<String>)| {
        let cells = values.iter().zip(&widths).map(|(value, &width)| format!("  {value:>width$}")).collect::<String>();
        format!("{label:<name$}{cells}")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;
    use began_record::{DiagnosisRow, Entry};

    fn run(path: &Path, diversity: Option<f64>) -> Result<()> {
        let mut entries: Vec<Entry> = (0..300).map(|step| made_up::step(step, 0.5)).collect();
        for to in [100, 200, 300] {
            // It spreads out before it collapses.
            let diversity = if to == 100 { Some(0.9) } else { diversity };
            let window = Window { from: to - 100, to, diversity, ..Window::default() };
            let window = serde_json::to_string(&window)?;
            entries.push(Entry::Diagnosis(DiagnosisRow { step: to, lineage: 0, window }));
        }
        made_up::run(path, &["objective.lambda_k=0"], &entries).map(drop)
    }

    #[test]
    fn a_collapsed_run_and_a_varied_one_are_told_apart_in_words_and_side_by_side() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        run(&path("collapsed"), Some(0.05))?;
        run(&path("varied"), Some(0.9))?;
        let runs = [Read::from(&path("collapsed"))?, Read::from(&path("varied"))?];
        assert!(text(&runs[0]).contains("the generator has collapsed") && text(&runs[0]).contains("try: "));
        assert!(text(&runs[1]).contains("collapse: not seen"), "{}", text(&runs[1]));
        let table = table_text(&rows(&runs));
        assert!(table.contains("0.0500") && table.contains("0.9000") && table.contains("collapsed"), "{table}");
        let page = report::of_one(&runs[0]);
        assert!(page.contains("<svg") && !page.contains("http://") && !page.contains("https://"));
        assert!(report::of_several(&runs).contains("varied"));
        Ok(())
    }

    #[test]
    fn scores_are_shown_where_there_are_any() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let row = |step: u64, weights, value: f64| {
            let scores = [(Metric::SlicedWasserstein, value), (Metric::MsSsim, 0.3), (Metric::MsSsimReal, 0.25)];
            Entry::Evaluation(EvaluationRow { step: began::Step(step), weights, scores: scores.into() })
        };
        let scored = [row(10, Weights::Live, 9.0), row(10, Weights::Average, 8.0), row(20, Weights::Live, 9.5)];
        made_up::run(&folder.path().join("scored"), &[], &scored)?;
        made_up::run(&folder.path().join("not"), &[], &[])?;
        let runs = [Read::from(&folder.path().join("scored"))?, Read::from(&folder.path().join("not"))?];
        let said = text(&runs[0]);
        for words in [
            "sliced Wasserstein distance: 9.50 at step 20, best 9.00 at step 10",
            "averaged weights: 8.00 at step 10, the best so far",
            "MS-SSIM between real images: 0.2500",
        ] {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
        assert!(!text(&runs[1]).contains("[scored]"));
        let table = table_text(&rows(&runs));
        assert!(table.lines().any(|line| line.starts_with("sliced Wasserstein") && line.ends_with('-')), "{table}");
        assert!(report::of_one(&runs[0]).contains("Scores") && !report::of_one(&runs[1]).contains("Scores"));
        assert!(report::of_several(&runs).contains("Sliced Wasserstein"));
        Ok(())
    }

    #[test]
    fn a_run_without_measurements_or_steps_cannot_be_told_and_no_run_is_an_error() -> Result<()> {
        let folder = tempfile::tempdir()?;
        made_up::run(&folder.path().join("old"), &[], &[])?;
        let read = Read::from(&folder.path().join("old"))?;
        assert!(text(&read).contains("cannot be told") && report::of_one(&read).contains("</html>"));
        assert!(Read::from(folder.path()).is_err());
        Ok(())
    }
}
