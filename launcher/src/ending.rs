//! The last of a launch: what ended, why, what is left, and how to go on. The exit code comes from here.
//!
//! It never promises what is not there: whether a run can go on is read from its checkpoints, and a log is named only
//! if it is still on the disk.

use std::fmt::Write;
use std::path::PathBuf;

use began_record::Journal;
use serde_json::json;

use crate::launch::Plan;
use crate::node_log;
use crate::show::Show;
use crate::supervision::{Asked, Cause, Outcome, Process, end_of};

/// What a run has on disk at the end of a launch.
#[derive(Debug, Default)]
struct Left {
    /// Committed steps.
    step: u64,
    digest: Option<(u64, String)>,
    checkpoint: Option<u64>,
    samples: bool,
    /// The run's folder was removed again.
    removed: bool,
}

impl Left {
    fn of(plan: &Plan, show: &Show) -> Self {
        let journal = Journal::read(&plan.run).ok();
        let steps = journal.as_ref().and_then(|journal| journal.steps().ok()).unwrap_or_default();
        let digest = journal.as_ref().and_then(|journal| journal.last_digest().ok()).flatten();
        let checkpoint = plan.run.latest_checkpoint().ok().flatten().map(|checkpoint| checkpoint.step.0);
        let samples = std::fs::read_dir(plan.run.samples()).is_ok_and(|mut entries| entries.next().is_some());
        drop(journal);
        Self {
            step: steps.last().map_or(0, |row| row.record.step.next().0).max(checkpoint.unwrap_or(0)),
            digest: digest.map(|(step, digest)| (step.0, digest)),
            checkpoint,
            samples,
            removed: clean_up(plan, show),
        }
    }

    fn how_to_go_on(&self, plan: &Plan) -> String {
        let run = plan.run.path().display();
        match self.checkpoint {
            _ if self.removed => format!("no step was taken, so {run} was removed again"),
            Some(step) => {
                format!("go on from the checkpoint of step {step} with `launcher resume {run}`")
            }
            None => {
                format!("there is no checkpoint; `launcher resume {run}` starts again from step 0")
            }
        }
    }
}

/// Removes the run's folder if this launch made it and no step was taken; returns whether it did.
pub fn clean_up(plan: &Plan, show: &Show) -> bool {
    let removed = plan.made.as_ref().map_or(Ok(false), crate::made::Made::remove_if_unused);
    removed.unwrap_or_else(|error| {
        show.say(&format!("{error:#}"));
        false
    })
}

/// The end of a launch that was stopped before any trainer was started.
pub fn stopped_before_start(plan: &Plan, asked: Asked, show: &mut Show) -> u8 {
    say(plan, &Outcome::Stopped { by: asked, orderly: true }, show)
}

/// Says how a launch ended; returns the exit code.
pub fn say(plan: &Plan, outcome: &Outcome, show: &mut Show) -> u8 {
    let failure = |cause: &Cause| block(plan, cause);
    // The block quotes logs, so it is made before they may go with the folder.
    let quoted = match outcome {
        Outcome::Failed(cause) => Some(failure(cause)),
        _ => None,
    };
    let left = Left::of(plan, show);
    let (word, what, code) = match outcome {
        Outcome::Ended(_) if left.step >= plan.config.run.steps => ("finished", "finished".to_owned(), 0),
        Outcome::Ended(Some(reason)) => ("stopped", format!("ended: {reason}"), 0),
        Outcome::Ended(None) => ("stopped", "ended on request".to_owned(), 0),
        Outcome::Stopped { by, orderly } => {
            let (by, code) = match (by, orderly) {
                (Asked::Interrupt, _) => ("Ctrl-C", 130),
                (Asked::Terminate, true) => ("SIGTERM", 0),
                (Asked::Terminate, false) => ("SIGTERM", 143),
            };
            let how = if *orderly { "stopped by" } else { "stopped at once by" };
            ("stopped", format!("{how} {by}"), code)
        }
        Outcome::Failed(cause) => {
            let code = cause.process.as_ref().map_or(1, |(_, _, exit)| exit.as_code().max(1));
            ("failed", "failed".to_owned(), code)
        }
    };
    let mut line = format!("{} {what} at step {} of {}", plan.run.path().display(), left.step, plan.config.run.steps);
    if let Some((step, digest)) = &left.digest {
        let _ = write!(line, "; digest {digest} at step {step}");
    }
    if left.samples {
        let _ = write!(line, "; samples in {}", plan.run.samples().display());
    }
    if left.step < plan.config.run.steps {
        let _ = write!(line, "; {}", left.how_to_go_on(plan));
    }
    let object = json!({
        "kind": "ended", "outcome": word, "step": left.step, "steps": plan.config.run.steps,
        "digest": left.digest.as_ref().map(|(_, digest)| digest),
        "digest_step": left.digest.as_ref().map(|(step, _)| step),
        "checkpoint": left.checkpoint, "run": plan.run.path().display().to_string(),
        "reason": reason_of(outcome), "text": line,
    });
    let log = |(text, log): (String, Option<PathBuf>)| match log.filter(|log| log.is_file()) {
        Some(log) => format!("{text}  the whole log: {}", log.display()),
        None => text.trim_end().to_owned(),
    };
    show.end(quoted.map(log).as_deref(), &line, &object);
    code
}

fn reason_of(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Ended(reason) => reason.clone(),
        Outcome::Stopped { .. } => None,
        Outcome::Failed(cause) => Some(sentence(cause)),
    }
}

fn sentence(cause: &Cause) -> String {
    let who = cause.process.map(|(process, pid, exit)| end_of(process, pid, exit));
    match (who, &cause.reason) {
        (Some(who), _) => who,
        (None, Some(reason)) => reason.clone(),
        (None, None) => "the coordinator did not say why".into(),
    }
}

/// The block that names the root cause, and the log it quotes.
fn block(plan: &Plan, cause: &Cause) -> (String, Option<PathBuf>) {
    let mut text = format!("\nthe run failed: {}\n", sentence(cause));
    let log = match cause.process.as_ref().map(|(process, ..)| process) {
        Some(Process::Trainer { node, rank }) => node_log(plan.run.path(), *node, Some(*rank)),
        Some(Process::Agent(node)) => node_log(plan.run.path(), *node, None),
        Some(Process::Coordinator) | None => plan.run.logs().join("coordinator.log"),
    };
    if let (Some(_), Some(reason)) = (&cause.process, &cause.reason) {
        let _ = writeln!(text, "  the coordinator said: {reason}");
    }
    if !cause.last_lines.is_empty() {
        text += "  its last lines:\n";
        for line in &cause.last_lines {
            let _ = writeln!(text, "    {line}");
        }
    }
    (text, Some(log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Exit;

    #[test]
    fn a_cause_is_one_sentence_that_names_the_process_and_its_end() {
        let killed = Exit { code: None, signal: Some(9) };
        let cause = |process| Cause { process, last_lines: Vec::new(), reason: Some("the node burns".into()) };
        let trainer = Process::Trainer { node: 1, rank: 5 };
        assert_eq!(
            sentence(&cause(Some((trainer, 77, killed)))),
            "trainer 5 (node 1, process 77) was killed by signal 9 (KILL)"
        );
        let seven = Exit { code: Some(7), signal: None };
        assert_eq!(
            sentence(&cause(Some((Process::Coordinator, 7, seven)))),
            "the coordinator (process 7) ended with exit code 7"
        );
        assert_eq!(sentence(&cause(None)), "the node burns");
    }
}
