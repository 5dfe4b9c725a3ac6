//! What the page reads from the run's files: one reader at a time on a thread that may wait for a disk, and nobody waits long
//! for a turn.

use std::sync::Arc;
use std::time::Duration;

use began::diagnosis::{Course as Trajectory, Window, diagnose};
use began::{RunConfig, Step};
use began_record::{CurveRow, Journal, RecordError, RunDir, StepRow};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Bytes of a sample grid.
const LARGEST_PICTURE: u64 = 32 << 20;
/// Windows that are shown; of a longer run, the latest.
const WINDOWS: usize = 2000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// There is no such thing.
    #[error("{0}")]
    NotThere(String),
    /// Others ask too much.
    #[error("no turn to read the run's files within {} s; try again", TURN.as_secs())]
    Busy,
    /// A file.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Something else about it.
    #[error("{0}")]
    Broken(String),
}

/// See the module.
#[derive(Debug)]
pub struct Past {
    run: RunDir,
    config: RunConfig,
    turn: Arc<Semaphore>,
    /// The last diagnosis, and the number of steps and windows it is of.
    judged: Mutex<Option<((u64, u64), Value)>>,
}

impl Past {
    /// Of this run.
    #[must_use]
    pub fn new(run: RunDir, config: RunConfig) -> Self {
        Self { run, config, turn: Arc::new(Semaphore::new(1)), judged: Mutex::new(None) }
    }

    /// The run's configuration.
    #[must_use]
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&RunDir) -> Result<T, PastError> + Send + 'static,
    ) -> Result<T, PastError> {
        let turn = tokio::time::timeout(TURN, self.turn.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| PastError::Busy)?.map_err(|_| PastError::Busy)?;
        let run = self.run.clone();
        let work = move || {
            let found = read(&run);
            drop(turn);
            found
        };
        let broken = |error: tokio::task::JoinError| PastError::Broken(format!("the reader ended: {error}"));
        tokio::task::spawn_blocking(work).await.map_err(broken)?
    }

    /// Steps `[from, to)`, each multiple of `width` summed up.
    ///
    /// # Errors
    /// If the journal cannot be read now.
    pub async fn curves(&self, from: u64, to: u64, width: u64) -> Result<Vec<CurveRow>, PastError> {
        self.read(move |run| Ok(Journal::read(run)?.curves(Step(from), Step(to), width)?)).await
    }

    /// All steps.
    ///
    /// # Errors
    /// If the journal cannot be read now.
    pub async fn steps(&self) -> Result<Vec<StepRow>, PastError> {
        self.read(|run| Ok(Journal::read(run)?.steps()?)).await
    }

    /// The latest windows of the diagnosis, without their histograms.
    ///
    /// # Errors
    /// If the journal cannot be read now.
    pub async fn windows(&self) -> Result<Value, PastError> {
        let mut windows = self.read(|run| windows(&Journal::read(run)?)).await?;
        let windows = windows.split_off(windows.len().saturating_sub(WINDOWS)).into_iter().map(|mut window| {
            window.real.histogram = None;
            window.fake.histogram = None;
            window
        });
        Ok(json!({ "windows": windows.collect::<Vec<_>>() }))
    }

    /// The window that ends before `step`, whole, as it lies in the journal.
    ///
    /// # Errors
    /// If there is none, or the journal cannot be read now.
    pub async fn window(&self, step: u64) -> Result<String, PastError> {
        let found = self.read(move |run| Ok(Journal::read(run)?.window(Step(step))?)).await?;
        let none = || PastError::NotThere(format!("no window of the diagnosis ends before step {step}"));
        found.map(|row| row.window).ok_or_else(none)
    }

    /// The verdict and its sentences, of `steps` steps and as many windows as there are.
    ///
    /// # Errors
    /// If the journal cannot be read now.
    pub async fn diagnosis(&self, steps: u64, windows_whole: u64) -> Result<Value, PastError> {
        // Held over the reading: who asks at the same time gets the same answer.
        let mut judged = self.judged.lock().await;
        if let Some((of, value)) = &*judged
            && *of == (steps, windows_whole)
        {
            return Ok(value.clone());
        }
        let config = self.config.clone();
        let value = self
            .read(move |run| {
                let journal = Journal::read(run)?;
                let steps: Vec<_> = journal.steps()?.iter().map(|row| row.record).collect();
                let windows = windows(&journal)?;
                let found = diagnose(&Trajectory { config: &config, steps: &steps, windows: &windows });
                let findings: Vec<Value> = found
                    .findings
                    .iter()
                    .map(|finding| {
                        json!({ "judgement": finding.judgement.name(), "subject": finding.subject, "text": finding.text, "advice": finding.advice })
                    })
                    .collect();
                Ok(json!({ "verdict": found.verdict.to_string(), "findings": findings, "steps": steps.len() }))
            })
            .await?;
        *judged = Some(((steps, windows_whole), value.clone()));
        Ok(value)
    }

    /// What the trainers scored the model at, oldest first.
    ///
    /// # Errors
    /// If the journal cannot be read now.
    pub async fn evaluations(&self) -> Result<Value, PastError> {
        let rows = self.read(|run| Ok(Journal::read(run)?.evaluations()?)).await?;
        let rows = rows.iter().map(|row| {
            let scores: serde_json::Map<String, Value> =
                row.scores.iter().map(|(metric, value)| (metric.to_string(), (*value).into())).collect();
            json!({ "step": row.step.0, "weights": row.weights.to_string(), "scores": scores })
        });
        Ok(json!({ "evaluations": rows.collect::<Vec<_>>() }))
    }

    /// Which sample grids there are, with the diversity measured on each.
    ///
    /// # Errors
    /// If the folder or the journal cannot be read now.
    pub async fn samples(&self) -> Result<Value, PastError> {
        self.read(|run| {
            let mut steps = Vec::new();
            for entry in std::fs::read_dir(run.samples()).map_err(RecordError::io("read", run.samples()))? {
                let name = entry.map_err(RecordError::io("read", run.samples()))?.file_name();
                steps.extend(name.to_str().and_then(step_of));
            }
            steps.sort_unstable();
            steps.dedup();
            let measured = windows(&Journal::read(run)?)?;
            let diversity = |step: u64| {
                let window = measured.iter().find(|window| window.from < step && step <= window.to);
                window.and_then(|window| window.diversity)
            };
            let diversity: Vec<Option<f64>> = steps.iter().map(|&step| diversity(step)).collect();
            Ok(json!({ "steps": steps, "diversity": diversity }))
        })
        .await
    }

    /// The grid of a step, PNG. The name is made of the number alone: nobody can have another file read.
    ///
    /// # Errors
    /// If there is none.
    pub async fn sample(&self, step: u64) -> Result<Vec<u8>, PastError> {
        self.read(move |run| {
            let path = run.samples().join(format!("{}.png", RunDir::step_name(Step(step))));
            let none = || PastError::NotThere(format!("there is no sample grid of step {step}"));
            match std::fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() && found.len() <= LARGEST_PICTURE => {}
                _ => return Err(none()),
            }
            std::fs::read(&path).map_err(|error| RecordError::io("read", path)(error).into())
        })
        .await
    }

    /// `manifest.json`.
    ///
    /// # Errors
    /// If it cannot be read now.
    pub async fn manifest(&self) -> Result<Value, PastError> {
        self.read(|run| {
            let manifest = run.manifest()?;
            serde_json::to_value(manifest).map_err(|error| PastError::Broken(error.to_string()))
        })
        .await
    }
}

fn windows(journal: &Journal) -> Result<Vec<Window>, PastError> {
    let rows = journal.diagnosis()?;
    // One that cannot be read is of another version: the others are still good.
    Ok(rows.iter().filter_map(|row| serde_json::from_str(&row.window).ok()).collect())
}

/// The step that a grid's name stands for.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?.strip_suffix(".png")?;
    let step: u64 = digits.parse().ok()?;
    (RunDir::step_name(Step(step)) == name.strip_suffix(".png")?).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_grids_own_name_stands_for_a_step() {
        assert_eq!(step_of("step-00000100.png"), Some(100));
        assert_eq!(step_of("step-123456789.png"), Some(123_456_789));
        for other in ["step-100.png", "step-00000100.png.tmp", "step--0000100.png", "step-+0000100.png", "x.png", ""] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }
}
