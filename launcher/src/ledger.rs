//! `ledger`: whether a run, through everything that happened to it, drew every sample exactly once an epoch.
//!
//! It reads the journal and the manifest of the data and nothing else, and changes nothing: no image is opened, no
//! coordinator asked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use began_data::Manifest;
use began_record::{EventRow, Journal, RunDir};
use serde_json::{Value, json};

mod account;

use account::{Account, Books, Epoch, Span, Wrong, without_steps};

/// Epochs beyond this many are told in ranges.
const LISTED: usize = 20;

/// What becomes of the end of an epoch, and of the run.
const TAIL: &str = "an epoch may begin inside a step: nothing is dropped and nothing padded, and the last epoch is complete \
                    up to the last step";

/// `launcher ledger`. 0 if everything holds, else 1.
///
/// # Errors
/// If it is not a run, or its journal or the manifest of its data cannot be read.
pub fn ledger(path: &Path, data: Option<&Path>, as_json: bool) -> Result<u8> {
    let run = RunDir::open(path)?;
    let (config, manifest) = (run.config()?, run.manifest()?);
    let folder = data.unwrap_or(Path::new(&config.data.path));
    let data = Manifest::load(folder)?;
    if data.digest != manifest.data_digest {
        bail!(
            "{} is not the data of this run: the run's has the digest {}, this one {}; say where it lies with --data DIR",
            folder.display(),
            manifest.data_digest,
            data.digest
        );
    }
    let books = Books::new(manifest.seed, data.shard_samples(), manifest.lanes, config.run.batch)?;
    let journal = Journal::read(&run)?;
    let account = books.balance(&journal.steps()?);
    let events = journal.events()?;
    let mut stdout = std::io::stdout();
    if as_json {
        writeln!(stdout, "{}", object(path, &account, &events))?;
    } else {
        writeln!(stdout, "{}", text(path, &account, &events))?;
    }
    Ok(u8::from(!account.holds()))
}

fn text(path: &Path, account: &Account, events: &[EventRow]) -> String {
    let mut text = format!("{}: {}", path.display(), verdict(account));
    for line in epochs(&account.epochs) {
        let _ = write!(text, "\n  {line}");
    }
    let _ = write!(text, "\n{TAIL}");
    for Span { generation, first, last } in &account.spans {
        let said = events.iter().rfind(|event| event.kind == "generation" && event.generation == *generation);
        let said = said.map(|event| format!(": {}", event.text)).unwrap_or_default();
        let _ = write!(text, "\n  generation {generation} committed {}{said}", steps(*first, *last));
    }
    for event in without_steps(account, events) {
        let _ = write!(text, "\n  generation {} committed nothing that stayed: {}", event.generation, event.text);
    }
    text
}

fn verdict(account: &Account) -> String {
    match account.wrong.first() {
        _ if account.steps == 0 => "no steps were taken".into(),
        None if account.holds() => format!(
            "every one of {} is there once and {}; {}every sample came exactly once in every epoch",
            count(account.steps, "step"),
            drew(account),
            if account.unrecorded == 0 { "" } else { "as far as that goes, " }
        ),
        None => "every step is there once, and yet not every sample came exactly once".into(),
        Some(first) => {
            let more = match account.wrong.len() - 1 {
                0 => String::new(),
                more => format!("; {more} more such places"),
            };
            format!("it does not hold: {}{more}", sentence(first))
        }
    }
}

/// What is known of what the steps drew: those that were computed by an older version, or salvaged, say nothing.
fn drew(account: &Account) -> String {
    match account.unrecorded {
        0 => "drew what the order of samples says".to_owned(),
        silent if silent == account.steps => {
            "none says what it drew, so they count as the order of samples has them".to_owned()
        }
        silent => format!(
            "drew what the order of samples says, but for {silent} that do not say what they drew and count as the order has \
             them"
        ),
    }
}

fn sentence(wrong: &Wrong) -> String {
    match wrong {
        Wrong::Missing { first, last } if first == last => format!("step {first} is not in the journal"),
        Wrong::Missing { first, last } => format!("{} are not in the journal", steps(*first, *last)),
        Wrong::Twice { step } => format!("step {step} is in the journal twice"),
        Wrong::Drawn { step, generation, expected, found } => format!(
            "in step {step} (generation {generation}) the lanes drew other samples than the order says: the journal has \
             {found:016x}, the order gives {expected:016x}"
        ),
    }
}

fn epochs(epochs: &[Epoch]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut rest = epochs;
    while let Some(first) = rest.first() {
        let whole = |entry: &&Epoch| entry.holds() && entry.is_complete();
        let alike = rest.iter().take_while(whole).count();
        if epochs.len() > LISTED && alike > 1 {
            let last = &rest[alike - 1];
            lines.push(format!(
                "epochs {} to {}: in each, all of {} exactly once ({})",
                first.epoch,
                last.epoch,
                count(first.of, "sample"),
                steps(first.first_step, last.last_step)
            ));
            rest = &rest[alike..];
        } else {
            lines.push(epoch(first));
            rest = &rest[1..];
        }
    }
    lines
}

fn epoch(entry: &Epoch) -> String {
    let Epoch { epoch, seen, repeated, due, of, first_step, last_step } = entry;
    let how = match (entry.holds(), entry.is_complete()) {
        (true, true) => format!("all of {} exactly once", count(*of, "sample")),
        (true, false) => format!("{seen} of {} so far, each exactly once", count(*of, "sample")),
        (false, _) => format!("{seen} of the {} that were due, {repeated} drawn again", count(*due, "sample")),
    };
    format!("epoch {epoch}: {how} ({})", steps(*first_step, *last_step))
}

fn steps(first: u64, last: u64) -> String {
    if first == last { format!("step {first}") } else { format!("steps {first} to {last}") }
}

fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn object(path: &Path, account: &Account, events: &[EventRow]) -> Value {
    let generations = events.iter().filter(|event| event.kind == "generation");
    let generations =
        generations.map(|event| json!({ "generation": event.generation, "step": event.step, "text": event.text }));
    json!({
        "run": path.display().to_string(), "holds": account.holds(), "text": verdict(account), "steps": account.steps,
        "unrecorded": account.unrecorded, "wrong": account.wrong, "epochs": account.epochs, "committed": account.spans,
        "generations": generations.collect::<Vec<_>>(), "tail": TAIL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(epoch: u64) -> Epoch {
        Epoch { epoch, seen: 8, repeated: 0, due: 8, of: 8, first_step: epoch, last_step: epoch }
    }

    #[test]
    fn a_few_epochs_are_told_one_by_one_and_many_in_ranges() {
        assert_eq!(epochs(&[whole(0), whole(1)]).len(), 2);
        let mut many: Vec<Epoch> = (0..50).map(whole).collect();
        many[30].seen = 7;
        let lines = epochs(&many);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "epochs 0 to 29: in each, all of 8 samples exactly once (steps 0 to 29)");
        assert_eq!(lines[1], "epoch 30: 7 of the 8 samples that were due, 0 drawn again (step 30)");
    }

    #[test]
    fn the_first_place_that_does_not_hold_is_named() {
        let wrong = vec![Wrong::Missing { first: 3, last: 5 }, Wrong::Twice { step: 9 }];
        let account = Account { steps: 4, wrong, ..Account::default() };
        assert_eq!(verdict(&account), "it does not hold: steps 3 to 5 are not in the journal; 1 more such places");
        assert!(verdict(&Account::default()).contains("no steps"));
    }

    #[test]
    fn the_ledger_of_a_made_up_run_is_read_from_its_files_alone() -> Result<()> {
        use crate::made_up;
        let folder = tempfile::tempdir()?;
        made_up::data_set(folder.path(), 64)?;
        let path = format!("data.path={}", folder.path().display());
        let steps = [made_up::step(0, 0.5), made_up::step(1, 0.5)];
        let run = made_up::run_over(&folder.path().join("run"), folder.path(), &[&path, "run.batch=4"], &steps)?;
        assert_eq!(ledger(run.path(), None, true)?, 0);
        Journal::create_or_open(&run)?.write(&[made_up::step(3, 0.5)])?;
        assert_eq!(ledger(run.path(), Some(folder.path()), false)?, 1);
        let other = tempfile::tempdir()?;
        made_up::data_set(other.path(), 32)?;
        let error = ledger(run.path(), Some(other.path()), false).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("--data DIR")));
        Ok(())
    }
}
