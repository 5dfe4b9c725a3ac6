//! `--submit`: a run as a job of SLURM. The batch script is `deploy/slurm/began.sbatch` with what was said filled in; it is
//! written beside the run's folder, where it can be read and submitted again, and handed to sbatch.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::cli::{NodeCount, TrainArgs};

/// The script as it lies in the repository.
pub const TEMPLATE: &str = include_str!("../../../deploy/slurm/began.sbatch");

/// Writes the script for a new run, submits it, and returns what is to be said.
///
/// # Errors
/// If it cannot be written, or SLURM does not take it.
pub fn submit(args: &TrainArgs) -> Result<String> {
    let script = script(args, &binaries::own()?)?;
    let path = beside(&args.run)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    let output = Command::new("sbatch")
        .arg("--parsable")
        .args(args.sbatch_args.iter().flat_map(|words| words.split_whitespace()))
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start sbatch; the script is {}", path.display()))?;
    if !output.status.success() {
        bail!(
            "sbatch refused {} ({}): {}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let job = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!(
        "submitted {} as job {job}; its output goes to {}; `squeue -j {job}` shows it, `scancel {job}` ends it with a checkpoint",
        path.display(),
        log_of(&path).replace("%j", &job)
    ))
}

fn beside(run: &Path) -> Result<PathBuf> {
    let run = std::path::absolute(run)?;
    let name = run.file_name().with_context(|| format!("{} is no name for a run", run.display()))?;
    Ok(run.with_file_name(format!("{}.sbatch", name.to_string_lossy())))
}

fn log_of(script: &Path) -> String {
    format!("{}-%j.log", script.with_extension("").display())
}

/// The template with its marked lines set.
fn script(args: &TrainArgs, launcher: &Path) -> Result<String> {
    let nodes = args.nodes.unwrap_or(NodeCount::exactly(1));
    let gpus = args.gpus.unwrap_or(1);
    let run = std::path::absolute(&args.run)?;
    let name = run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let count = if nodes.is_elastic() { format!("{}-{}", nodes.least, nodes.most) } else { nodes.most.to_string() };
    let mut both = vec!["--on".to_owned(), "slurm".into(), "--gpus".into(), gpus.to_string()];
    if nodes.is_elastic() {
        both.extend(["--nodes".into(), format!("{}:{}", nodes.least, nodes.most)]);
    }
    both.extend(["--device".into(), args.device.to_string()]);
    both.extend(["--grace".into(), args.show.grace.as_secs_f64().to_string()]);
    both.extend(["--restarts".into(), args.show.restarts.to_string()]);
    both.extend(["--lost-after".into(), args.place.lost_after.as_secs_f64().to_string()]);
    for (flag, value) in [
        ("--address", args.place.address.map(|address| address.to_string())),
        ("--interface", args.place.interface.clone()),
        ("--node-launcher", args.place.node_launcher.as_ref().map(|path| path.display().to_string())),
    ] {
        both.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    for (flag, said) in
        [("--quiet", args.show.quiet), ("--forward-logs", args.show.forward_logs), ("--no-check", args.place.no_check)]
    {
        both.extend(said.then(|| flag.to_owned()));
    }
    let mut train = Vec::new();
    for (flag, path) in [("--data", &args.data), ("--config", &args.config)] {
        if let Some(path) = path {
            train.extend([flag.to_owned(), std::path::absolute(path)?.display().to_string()]);
        }
    }
    train.extend(args.preset.iter().flat_map(|preset| ["--preset".to_owned(), preset.clone()]));
    train.extend(args.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    let gpu_line = (args.device != crate::cli::DeviceChoice::Cpu).then(|| format!("#SBATCH --gpus-per-node={gpus}"));
    fill(&[
        ("#SBATCH --job-name=", Some(format!("#SBATCH --job-name={name}"))),
        ("#SBATCH --nodes=", Some(format!("#SBATCH --nodes={count}"))),
        ("#SBATCH --gpus-per-node=", gpu_line),
        ("#SBATCH --output=", Some(format!("#SBATCH --output={}", log_of(&beside(&run)?)))),
        ("launcher=", Some(format!("launcher={}", quoted(&launcher.display().to_string())))),
        ("run=", Some(format!("run={}", quoted(&run.display().to_string())))),
        ("train=(", Some(format!("train=({})", words(&train)))),
        ("both=(", Some(format!("both=({})", words(&both)))),
    ])
}

/// The template with each line that begins like this replaced, or left out.
fn fill(lines: &[(&str, Option<String>)]) -> Result<String> {
    let mut script = String::new();
    let mut open: Vec<&str> = lines.iter().map(|(start, _)| *start).collect();
    for line in TEMPLATE.lines() {
        match lines.iter().find(|(start, _)| line.starts_with(start)) {
            Some((start, with)) => {
                open.retain(|other| other != start);
                if let Some(with) = with {
                    let _ = writeln!(script, "{with}");
                }
            }
            None => {
                let _ = writeln!(script, "{line}");
            }
        }
    }
    match open.first() {
        Some(start) => bail!("began.sbatch has no line that begins with {start}"),
        None => Ok(script),
    }
}

fn words(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._/=:,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, with_default_command};
    use clap::Parser;

    fn made(line: &str) -> Result<String> {
        let words = format!("launcher --submit {line}");
        let cli = Cli::try_parse_from(with_default_command(words.split_whitespace().map(Into::into)))?;
        let Command::Train(args) = cli.command else { bail!("not train") };
        script(&args, Path::new("/opt/began/launcher"))
    }

    #[test]
    fn the_script_says_what_was_said() -> Result<()> {
        let script =
            made("--nodes 2:4 --gpus 8 --data /d --run /runs/it's --set run.steps=9 --grace 20 --preset demo")?;
        for line in [
            "#SBATCH --nodes=2-4",
            "#SBATCH --gpus-per-node=8",
            "#SBATCH --output=/runs/it's-%j.log",
            "launcher=/opt/began/launcher",
            "run='/runs/it'\\''s'",
            "train=(--data /d --preset demo --set run.steps=9)",
        ] {
            assert!(script.lines().any(|found| found == line), "{line}:\n{script}");
        }
        assert!(script.contains("--gpus 8 --nodes 2:4") && script.contains("--grace 20"), "{script}");
        assert!(!made("--device cpu --run /runs/a")?.contains("gpus-per-node"));
        Ok(())
    }

    #[test]
    fn the_script_and_the_template_are_ones_that_bash_reads() -> Result<()> {
        for text in [TEMPLATE.to_owned(), made("--nodes 3 --data /d --run /runs/a")?] {
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("script");
            std::fs::write(&file, &text)?;
            let output = std::process::Command::new("bash").arg("-n").arg(&file).output()?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}
