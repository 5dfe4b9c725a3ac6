//! Whether two runs are the same run, and if not, where they part: first in what they were asked to compute, then in
//! the steps, then in the state.
//!
//! It compares bits, never "close enough": what differs in the last bit of a loss at step 10 is another run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use began::{RunConfig, Step};
use began_record::{DigestRow, Journal, RunDir, RunManifest, StepRow};

/// How many differing tensors are named before the rest is only counted.
const NAMED: usize = 10;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same run, as far as both went.
    Equal(String),
    /// Another run; the sentence says from where.
    Different(String),
    /// Nothing to compare.
    NotComparable(String),
}

impl Verdict {
    /// 0, 1 and 2.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Equal(_) => 0,
            Self::Different(_) => 1,
            Self::NotComparable(_) => 2,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Equal(text) | Self::Different(text) | Self::NotComparable(text) => text,
        }
    }
}

/// What a run left behind, as far as it is compared.
#[derive(Debug)]
pub struct Record {
    /// As the user named it.
    pub name: String,
    /// Its configuration.
    pub config: RunConfig,
    /// Digest of its data.
    pub data_digest: String,
    /// Its steps, in order.
    pub steps: Vec<StepRow>,
    /// Its digests, by step and launch, without their tensors.
    pub digests: Vec<DigestRow>,
    journal: Journal,
}

impl Record {
    /// Reads a run's directory.
    ///
    /// # Errors
    /// If it is not a run, or its files cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let run = RunDir::open(path)?;
        let journal = Journal::read(&run)?;
        Ok(Self {
            name: path.display().to_string(),
            config: run.config()?,
            data_digest: run.manifest()?.data_digest,
            steps: journal.steps()?,
            digests: journal.digests()?,
            journal,
        })
    }

    fn tensors(&self, row: &DigestRow) -> Result<BTreeMap<String, String>> {
        let tensors =
            self.journal.tensor_digests(Step(row.step), row.launch).context("reading the tensors' digests")?;
        Ok(tensors.into_iter().map(|tensor| (tensor.name, tensor.digest)).collect())
    }

    /// The digest of each step, as the last launch that took one there has it.
    fn last_digests(&self) -> BTreeMap<u64, &DigestRow> {
        self.digests.iter().map(|row| (row.step, row)).collect()
    }
}

/// Compares two directories.
#[must_use]
pub fn verify(one: &Path, other: &Path) -> Verdict {
    let compared = Record::read(one).and_then(|one| Record::read(other).and_then(|other| compare(&one, &other)));
    compared.unwrap_or_else(|error| Verdict::NotComparable(format!("cannot compare: {error:#}")))
}

/// Compares two runs.
///
/// # Errors
/// If a journal cannot be read.
pub fn compare(one: &Record, other: &Record) -> Result<Verdict> {
    let asked = differing_keys(one, other);
    let parted = first_difference(one, other)?;
    Ok(match (asked.is_empty(), parted) {
        (_, Compared::Nothing(why)) if asked.is_empty() => Verdict::NotComparable(why),
        (_, Compared::Nothing(why)) => Verdict::Different(format!("different: {}; {why}", asked.join("; "))),
        (true, Compared::Same(text)) => Verdict::Equal(text),
        (false, Compared::Same(_)) => {
            Verdict::Different(format!("different: {}; the steps both have are equal to the bit", asked.join("; ")))
        }
        (true, Compared::Parted(where_)) => Verdict::Different(format!("different: first at {where_}")),
        (false, Compared::Parted(where_)) => Verdict::Different(format!(
            "different: first at {where_}\nthey were asked for different things: {}",
            asked.join("; ")
        )),
    })
}

enum Compared {
    Same(String),
    Parted(String),
    Nothing(String),
}

/// The keys that decide what a run computes and are not the same, and the data.
fn differing_keys(one: &Record, other: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for ((key, a), (_, b)) in one.config.keys().into_iter().zip(other.config.keys()) {
        if a != b && RunManifest::key_computes(&key) {
            found.push(format!("{key} is {a} and {b}"));
        }
    }
    if one.data_digest != other.data_digest {
        found.push(format!("the data is {} and {}", short(&one.data_digest), short(&other.data_digest)));
    }
    found
}

fn first_difference(one: &Record, other: &Record) -> Result<Compared> {
    let (steps, parted) = compare_steps(&one.steps, &other.steps);
    let (digested, digests) = compare_digests(one, other)?;
    // The state of a step comes before its losses, and names the tensors; losses alone name none.
    let earliest = match (parted, digests) {
        (Some((step, losses)), Some((digested, tensors))) if step < digested => {
            Some((step, format!("{losses}\nin the next state that both digested, {tensors}")))
        }
        (Some((_, losses)), Some((digested, tensors))) => Some((digested, format!("{tensors}\n{losses}"))),
        (parted, digests) => parted.or(digests),
    };
    // A resume that went on from another state than the one left explains what comes after it.
    let torn = [one, other].into_iter().filter_map(|run| discontinuity(run).transpose()).collect::<Result<Vec<_>>>()?;
    let torn_first = torn.into_iter().min_by_key(|(step, _)| *step);
    if let Some((step, text)) = torn_first
        && earliest.as_ref().is_none_or(|(first, _)| step <= *first)
    {
        return Ok(Compared::Parted(text));
    }
    if let Some((_, text)) = earliest {
        return Ok(Compared::Parted(text));
    }
    if steps == 0 && digested.is_none() {
        let span = |run: &Record| match (run.steps.first(), run.steps.last()) {
            (Some(first), Some(last)) => {
                format!("{} has steps {} to {}", run.name, first.record.step, last.record.step)
            }
            _ => format!("{} has no steps", run.name),
        };
        return Ok(Compared::Nothing(format!("there is nothing to compare: {}, {}", span(one), span(other))));
    }
    let digest = match digested {
        Some(row) => format!("digest {} at step {} in both", row.digest, row.step),
        None => "but no step was digested in both, so only losses, k, rate and M were compared".to_owned(),
    };
    let mut text = format!("equal: {steps} {}, {digest}", if steps == 1 { "step" } else { "steps" });
    for run in [one, other] {
        let beyond = run.steps.len() - steps;
        if beyond > 0 {
            text += &format!("; {} has {beyond} more", run.name);
        }
    }
    Ok(Compared::Same(text))
}

/// A place where two runs part: the step whose state or losses differ, and a sentence.
type Difference = (u64, String);

/// How many steps both have, and the first that differs.
fn compare_steps(one: &[StepRow], other: &[StepRow]) -> (usize, Option<Difference>) {
    let others: BTreeMap<u64, &StepRow> = other.iter().map(|row| (row.record.step.0, row)).collect();
    let mut both = 0;
    for row in one {
        let Some(twin) = others.get(&row.record.step.0) else {
            continue;
        };
        both += 1;
        let (a, b) = (row.record, twin.record);
        let values = [
            ("L(x)", a.real, b.real),
            ("L(G(z))", a.fake, b.fake),
            ("k", a.k, b.k),
            ("rate", a.rate, b.rate),
            ("M", a.m_global, b.m_global),
        ];
        let differing: Vec<String> = values
            .into_iter()
            .filter(|(_, a, b)| a.to_bits() != b.to_bits())
            .map(|(name, a, b)| format!("{name} is {a} and {b}"))
            .collect();
        if !differing.is_empty() {
            let text = format!(
                "step {}: {} (of {both} {} compared)",
                a.step,
                differing.join(", "),
                if both == 1 { "step" } else { "steps" }
            );
            return (both, Some((a.step.0, text)));
        }
    }
    (both, None)
}

/// The last step that both digested alike, and the first where they did not.
fn compare_digests<'a>(one: &'a Record, other: &Record) -> Result<(Option<&'a DigestRow>, Option<Difference>)> {
    let others = other.last_digests();
    let mut alike = None;
    for (step, row) in one.last_digests() {
        let Some(twin) = others.get(&step) else {
            continue;
        };
        if row.digest == twin.digest {
            alike = Some(row);
            continue;
        }
        let tensors = differing_tensors(&one.tensors(row)?, &other.tensors(twin)?);
        let text =
            format!("step {step}: the state's digest is {} and {}: {tensors}", short(&row.digest), short(&twin.digest));
        return Ok((alike, Some((step, text))));
    }
    Ok((alike, None))
}

/// The first step at which a launch of a run went on from another state than the launch before had left.
fn discontinuity(run: &Record) -> Result<Option<Difference>> {
    for pair in run.digests.windows(2) {
        let [before, after] = pair else { continue };
        if before.step != after.step || before.digest == after.digest {
            continue;
        }
        let tensors = differing_tensors(&run.tensors(before)?, &run.tensors(after)?);
        let text = format!(
            "step {}: {} was resumed there from another state than it had left: launch {} digested {}, launch {} {}: {tensors}",
            before.step,
            run.name,
            before.launch,
            short(&before.digest),
            after.launch,
            short(&after.digest),
        );
        return Ok(Some((before.step, text)));
    }
    Ok(None)
}

fn differing_tensors(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> String {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differing: Vec<&str> =
        names.into_iter().filter(|name| one.get(*name) != other.get(*name)).map(String::as_str).collect();
    let all = differing.len();
    match all {
        0 if one.is_empty() => "the tensors' own digests were not kept".to_owned(),
        0 => "every tensor is equal, so it is k, the rate, M's watch or the position in the data".to_owned(),
        1..=NAMED => {
            format!("of the tensors, {} {}", differing.join(", "), if all == 1 { "differs" } else { "differ" })
        }
        _ => format!("of the tensors, {} and {} more differ", differing[..NAMED].join(", "), all - NAMED),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up::{self, digest, step};
    use began_record::Entry;

    struct Runs {
        folder: tempfile::TempDir,
    }

    impl Runs {
        fn new() -> Result<Self> {
            Ok(Self { folder: tempfile::tempdir()? })
        }

        fn add(&self, name: &str, set: &[&str], entries: &[Entry]) -> Result<()> {
            made_up::run(&self.folder.path().join(name), set, entries)?;
            Ok(())
        }

        fn verify(&self) -> Verdict {
            verify(&self.folder.path().join("a"), &self.folder.path().join("b"))
        }
    }

    fn ten_steps() -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..10).map(|s| step(s, 0.5)).collect();
        entries.push(digest(10, 0, "d10", &[("w", "1")]));
        entries
    }

    #[test]
    fn the_same_steps_and_digests_are_equal() -> Result<()> {
        let runs = Runs::new()?;
        runs.add("a", &["run.checkpoint_every=3"], &ten_steps())?;
        runs.add("b", &["run.steps=50"], &ten_steps())?;
        let verdict = runs.verify();
        assert_eq!(verdict, Verdict::Equal("equal: 10 steps, digest d10 at step 10 in both".into()));
        assert_eq!(verdict.exit_code(), 0);
        Ok(())
    }

    #[test]
    fn a_longer_run_is_equal_as_far_as_both_went() -> Result<()> {
        let runs = Runs::new()?;
        runs.add("a", &[], &ten_steps())?;
        let mut longer = ten_steps();
        longer.push(step(10, 0.1));
        runs.add("b", &[], &longer)?;
        let verdict = runs.verify();
        assert!(verdict.exit_code() == 0 && verdict.text().contains("b has 1 more"), "{verdict:?}");
        Ok(())
    }

    #[test]
    fn the_first_step_that_differs_in_a_bit_is_named() -> Result<()> {
        let runs = Runs::new()?;
        runs.add("a", &[], &ten_steps())?;
        let mut other = ten_steps();
        other[7] = step(7, f64::from_bits(0.5f64.to_bits() + 1));
        other[8] = step(8, 0.6);
        runs.add("b", &[], &other)?;
        let verdict = runs.verify();
        assert_eq!(verdict.exit_code(), 1);
        assert!(
            verdict.text().starts_with("different: first at step 7: L(x) is 0.5 and 0.50000000000000"),
            "{verdict:?}"
        );
        Ok(())
    }

    #[test]
    fn tensors_that_differ_are_named_and_the_rest_counted() -> Result<()> {
        let runs = Runs::new()?;
        let names: Vec<String> = (0..13).map(|i| format!("t{i:02}")).collect();
        let tensors = |value: &'static str| names.iter().map(|name| (name.as_str(), value)).collect::<Vec<_>>();
        runs.add("a", &[], &[step(0, 0.5), digest(1, 0, "x", &tensors("1"))])?;
        runs.add("b", &[], &[step(0, 0.5), digest(1, 0, "y", &tensors("2"))])?;
        let verdict = runs.verify();
        assert!(verdict.text().contains("first at step 1: the state's digest is x and y"), "{verdict:?}");
        assert!(verdict.text().contains("t00, t01") && verdict.text().contains("t09 and 3 more"), "{verdict:?}");
        Ok(())
    }

    #[test]
    fn another_seed_is_named_before_what_follows_from_it() -> Result<()> {
        let runs = Runs::new()?;
        runs.add("a", &[], &[step(0, 0.5)])?;
        runs.add("b", &["run.seed=7"], &[step(0, 0.25)])?;
        let verdict = runs.verify();
        assert_eq!(verdict.exit_code(), 1);
        assert!(verdict.text().contains("run.seed is 1 and 7"), "{verdict:?}");
        assert!(verdict.text().contains("first at step 0"), "{verdict:?}");
        Ok(())
    }

    #[test]
    fn a_resume_from_another_state_is_named() -> Result<()> {
        let runs = Runs::new()?;
        let steps = ten_steps();
        runs.add("a", &[], &steps)?;
        let mut torn = steps.clone();
        torn.push(digest(5, 0, "left", &[("w", "1"), ("v", "1")]));
        torn.push(digest(5, 1, "found", &[("w", "2"), ("v", "1")]));
        runs.add("b", &[], &torn)?;
        let verdict = runs.verify();
        assert_eq!(verdict.exit_code(), 1);
        assert!(verdict.text().contains("first at step 5") && verdict.text().contains("launch 1"), "{verdict:?}");
        assert!(verdict.text().contains("of the tensors, w differs"), "{verdict:?}");
        Ok(())
    }

    #[test]
    fn runs_with_nothing_in_common_cannot_be_compared() -> Result<()> {
        let runs = Runs::new()?;
        runs.add("a", &[], &[step(0, 0.5)])?;
        assert_eq!(runs.verify().exit_code(), 2, "b is not there");
        runs.add("b", &[], &[])?;
        let verdict = runs.verify();
        assert!(verdict.exit_code() == 2 && verdict.text().contains("has no steps"), "{verdict:?}");
        Ok(())
    }
}
