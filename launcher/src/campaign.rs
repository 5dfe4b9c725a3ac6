//! `campaign FILE`: one run on several shapes, with and without faults, where the launcher stands; and a table of what came of
//! each, which shows whether it was one run.
//!
//! Every run is a launch of its own, one after the other. A run that is there already is gone on with, so that a campaign that
//! was interrupted is started again with the same words. It must never count a run that did not come to its end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began_record::{Journal, RunDir};
use serde::Deserialize;

use crate::binaries;
use crate::cli::CampaignArgs;

mod table;

use table::{Row, Table};

/// A fault strikes once so many steps were taken.
const FIRST_STEPS: usize = 10;

/// The description of a campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Campaign {
    /// As `--device`.
    #[serde(default = "automatic")]
    device: String,
    /// As `--preset`.
    preset: Option<String>,
    /// As `--set`, each.
    #[serde(default)]
    set: Vec<String>,
    data: Data,
    run: Vec<Shape>,
}

/// What it trains on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// Where it lies, relative to the folder of the campaign's runs.
    path: PathBuf,
    /// What to prepare it from if it is not there.
    source: Option<String>,
    size: Option<u32>,
    count: Option<u64>,
    seed: Option<u64>,
}

/// One run of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    nodes: u32,
    gpus: u32,
    /// As `chaos --faults`, once.
    fault: Option<String>,
}

fn automatic() -> String {
    "auto".into()
}

impl Shape {
    /// "2x4", "2x4-kill".
    fn name(&self) -> String {
        let fault = self.fault.as_ref().map(|fault| format!("-{fault}"));
        format!("{}x{}{}", self.nodes, self.gpus, fault.unwrap_or_default())
    }
}

/// `launcher campaign`. Returns 0 if every run that fits here came to its end, all with one digest.
///
/// # Errors
/// If the description cannot be read, or nothing can be started.
pub fn campaign(args: &CampaignArgs) -> Result<u8> {
    let campaign = read(&args.file)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let out = std::path::absolute(&args.out)?;
    let data = out.join(&campaign.data.path);
    prepare(&campaign.data, &data)?;
    let mut table = Table::default();
    for shape in &campaign.run {
        let run = out.join(shape.name());
        say(&format!("{}: starting", shape.name()))?;
        let row = one(args, &campaign, shape, &run, &data)?;
        say(&format!("{}: {}", shape.name(), row.outcome))?;
        table.rows.push(row);
        // Also in between: a campaign takes long, and may be interrupted.
        table.write(&out)?;
    }
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{}", table.markdown())?;
    writeln!(stdout, "\nThe table is in {}.", out.join("campaign.md").display())?;
    Ok(u8::from(!table.is_one_run()))
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "campaign: {text}")?)
}

fn read(path: &Path) -> Result<Campaign> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let campaign: Campaign = toml::from_str(&text).with_context(|| path.display().to_string())?;
    if campaign.run.is_empty() {
        bail!("{}: it has no [[run]]", path.display());
    }
    for (index, shape) in campaign.run.iter().enumerate() {
        if shape.nodes == 0 || shape.gpus == 0 {
            bail!("{}: [[run]] {} has no node or no GPU", path.display(), index + 1);
        }
        if campaign.run[..index].iter().any(|before| before.name() == shape.name()) {
            bail!("{}: [[run]] {} is there twice", path.display(), shape.name());
        }
    }
    Ok(campaign)
}

/// Makes the data if it is not there.
fn prepare(data: &Data, at: &Path) -> Result<()> {
    if at.join("manifest.json").is_file() {
        return Ok(());
    }
    let Some(source) = &data.source else { bail!("{} is not there, and [data] names no source", at.display()) };
    let mut command = Command::new(binaries::trainer()?);
    command.args(["prepare", source, "--quiet", "--out"]).arg(at).stdin(Stdio::null());
    for (flag, value) in [("--size", data.size.map(u64::from)), ("--count", data.count), ("--seed", data.seed)] {
        if let Some(value) = value {
            command.args([flag, &value.to_string()]);
        }
    }
    say(&format!("preparing {} from {source}", at.display()))?;
    let status = command.stdout(Stdio::null()).status().context("cannot start the trainer")?;
    if !status.success() {
        bail!("the data could not be prepared ({status})");
    }
    Ok(())
}

/// Computes one run, and says what came of it.
fn one(args: &CampaignArgs, campaign: &Campaign, shape: &Shape, run: &Path, data: &Path) -> Result<Row> {
    let mut command = Command::new(binaries::own()?);
    let resumed = run.join("run.toml").is_file();
    if resumed {
        command.arg("resume").arg(run);
    } else {
        command.args(["train", "--run"]).arg(run).arg("--data").arg(data);
        command.args(campaign.preset.iter().flat_map(|preset| ["--preset", preset]));
        command.args(campaign.set.iter().flat_map(|set| ["--set", set]));
    }
    command.args(["--nodes", &shape.nodes.to_string(), "--gpus", &shape.gpus.to_string()]);
    command.args(["--device", &campaign.device, "--quiet"]).args(args.place.words());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut launcher = command.spawn().context("cannot start a launcher")?;
    let stderr = launcher.stderr.take();
    let reader = std::thread::spawn(move || stderr.and_then(|stderr| std::io::read_to_string(stderr).ok()));
    let struck = match &shape.fault {
        Some(fault) => strike(&mut launcher, run, fault)?,
        None => false,
    };
    let status = launcher.wait()?;
    let said = reader.join().ok().flatten().unwrap_or_default();
    Ok(row(shape, run, status, struck, resumed, start.elapsed(), &said))
}

/// Has the fault happen once the run has taken its first steps; whether it did.
fn strike(launcher: &mut Child, run: &Path, fault: &str) -> Result<bool> {
    let steps = || RunDir::open(run).and_then(|run| Journal::read(&run)).and_then(|journal| journal.steps());
    while steps().map_or(0, |steps| steps.len()) < FIRST_STEPS {
        if launcher.try_wait()?.is_some() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = Command::new(binaries::own()?)
        .args(["chaos", &run.display().to_string(), "--count", "1", "--every", "100ms", "--faults", fault])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start chaos")?;
    Ok(status.success())
}

fn row(shape: &Shape, run: &Path, status: ExitStatus, struck: bool, resumed: bool, took: Duration, said: &str) -> Row {
    let journal = RunDir::open(run).and_then(|run| Journal::read(&run)).ok();
    let steps = journal.as_ref().and_then(|journal| journal.steps().ok()).unwrap_or_default();
    let last = journal.as_ref().and_then(|journal| journal.last_digest().ok()).flatten();
    let config = RunDir::open(run).and_then(|run| run.config()).ok();
    let finished = config.as_ref().zip(last.as_ref()).is_some_and(|(config, (step, _))| step.0 >= config.run.steps);
    let why = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing was said").trim().to_owned();
    let outcome = match (status.code(), finished) {
        (Some(0), true) if shape.fault.is_some() && !struck && !resumed => {
            "finished, but the fault did not strike".to_owned()
        }
        (Some(0), true) => "finished".to_owned(),
        (Some(2), _) => format!("left out: {}", why.trim_start_matches("error: ")),
        (Some(code), _) => format!("failed ({code}): {why}"),
        (None, _) => format!("failed ({status}): {why}"),
    };
    let step_seconds: f64 = steps.iter().map(|step| step.seconds).sum();
    let images = config.map_or(0.0, |config| f64::from(config.run.lanes) * f64::from(config.run.batch));
    let rate = (step_seconds > 0.0).then(|| images * steps.len() as f64 / step_seconds);
    Row {
        nodes: shape.nodes,
        gpus: shape.gpus,
        fault: shape.fault.clone(),
        counted: outcome.starts_with("finished") && !outcome.contains("did not strike"),
        failed: outcome.starts_with("failed") || outcome.contains("did not strike"),
        outcome,
        step: last.as_ref().map(|(step, _)| step.0),
        digest: last.map(|(_, digest)| digest),
        seconds: took.as_secs_f64(),
        images_per_second: rate,
        run: run.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_campaigns_of_the_repository_can_be_read() -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/reproduce");
        let names =
            |file: &str| -> Result<Vec<String>> { Ok(read(&folder.join(file))?.run.iter().map(Shape::name).collect()) };
        assert_eq!(names("campaign.toml")?, ["1x1", "1x2", "2x2", "4x2", "2x2-kill", "2x2-coordinator"]);
        assert_eq!(names("cluster.toml")?, ["1x1", "1x8", "2x4", "4x8"]);
        Ok(())
    }

    #[test]
    fn what_is_no_campaign_is_refused_by_name() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("c.toml");
        for (text, words) in [
            ("run = []\n[data]\npath='d'", "no [[run]]"),
            ("[data]\npath='d'\n[[run]]\nnodes=0\ngpus=1", "has no node"),
            ("[data]\npath='d'\n[[run]]\nnodes=1\ngpus=1\n[[run]]\nnodes=1\ngpus=1", "1x1 is there twice"),
            ("[data]\npath='d'\n[[run]]\nnodes=1\ngpus=1\nhosts=3", "hosts"),
        ] {
            std::fs::write(&file, text)?;
            let error = format!("{:#}", read(&file).expect_err(text));
            assert!(error.contains(words) && error.contains("c.toml"), "{error}");
        }
        Ok(())
    }
}
