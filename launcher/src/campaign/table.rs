//! The table of a campaign: for people as Markdown, for programs as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use began_record::write_atomically;
use serde::Serialize;

/// What came of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Nodes.
    pub nodes: u32,
    /// Trainers on each.
    pub gpus: u32,
    /// What was made to go wrong.
    pub fault: Option<String>,
    /// What came of it, in words.
    pub outcome: String,
    /// Whether its digest counts.
    pub counted: bool,
    /// Whether it should have come to its end and did not.
    pub failed: bool,
    /// The step of its last digest.
    pub step: Option<u64>,
    /// Its last digest.
    pub digest: Option<String>,
    /// How long the launch took.
    pub seconds: f64,
    /// Images a second, over the steps alone.
    pub images_per_second: Option<f64>,
    /// Its folder.
    pub run: String,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// In the order of the campaign.
    pub rows: Vec<Row>,
}

impl Table {
    /// The digests of the runs that came to their end.
    fn digests(&self) -> BTreeSet<(Option<u64>, &str)> {
        let counted = self.rows.iter().filter(|row| row.counted);
        counted.map(|row| (row.step, row.digest.as_deref().unwrap_or_default())).collect()
    }

    /// Whether there is one digest, and no run failed.
    #[must_use]
    pub fn is_one_run(&self) -> bool {
        self.digests().len() == 1 && !self.rows.iter().any(|row| row.failed)
    }

    fn verdict(&self) -> String {
        let counted = self.rows.iter().filter(|row| row.counted).count();
        match (self.digests().len(), self.rows.iter().filter(|row| row.failed).count()) {
            (1, 0) => format!("One digest over {counted} runs."),
            (1, failed) => format!("One digest over {counted} runs; {failed} did not come to their end."),
            (0, _) => "No run came to its end.".into(),
            (many, _) => format!("{many} different digests over {counted} runs."),
        }
    }

    /// For people.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| nodes x trainers | fault | digest | at step | time | images/s | outcome |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for row in &self.rows {
            let digest = row.digest.as_deref().unwrap_or("-");
            let _ = writeln!(
                text,
                "| {}x{} | {} | {} | {} | {:.1} s | {} | {} |",
                row.nodes,
                row.gpus,
                row.fault.as_deref().unwrap_or("none"),
                digest.get(..16).unwrap_or(digest),
                row.step.map_or("-".into(), |step| step.to_string()),
                row.seconds,
                row.images_per_second.map_or("-".into(), |rate| format!("{rate:.0}")),
                row.outcome.replace('|', "\\|")
            );
        }
        let _ = writeln!(text, "\n{}", self.verdict());
        text
    }

    /// Writes `campaign.md` and `campaign.json` into a folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomically(&folder.join("campaign.md"), self.markdown().as_bytes())?;
        let object = serde_json::json!({ "runs": self.rows, "one_run": self.is_one_run(), "verdict": self.verdict() });
        write_atomically(&folder.join("campaign.json"), serde_json::to_string_pretty(&object)?.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(digest: &str, counted: bool, failed: bool) -> Row {
        Row { digest: Some(digest.into()), step: Some(9), counted, failed, outcome: "x | y".into(), ..Row::default() }
    }

    #[test]
    fn one_digest_and_no_failure_is_one_run() {
        let table = |rows: &[Row]| Table { rows: rows.to_vec() };
        assert!(table(&[row("a", true, false), row("a", true, false), row("b", false, false)]).is_one_run());
        assert!(!table(&[row("a", true, false), row("b", true, false)]).is_one_run());
        assert!(!table(&[row("a", true, false), row("a", false, true)]).is_one_run());
        assert!(!table(&[]).is_one_run());
        let text = table(&[row("a", true, false), row("b", true, false)]).markdown();
        assert!(text.contains("2 different digests over 2 runs") && text.contains("x \\| y"), "{text}");
    }
}
