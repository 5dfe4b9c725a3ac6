//! `reproduce`: computes a run again into a new folder and compares the two, step by step.
//!
//! It refuses what could not give the same bits (other data, a configuration that was changed) before anything is started, and
//! warns of what may not: another kind of device, other kernels or other software. It must never call two runs equal that
//! it did not compare to the run's last step.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use began::RunConfig;
use began_record::{Journal, RunDir, RunManifest};
use serde_json::json;

use crate::binaries;
use crate::cli::{LogFormat, ReproduceArgs};
use crate::configure;
use crate::devices::Device;
use crate::launch::{self, Plan};
use crate::made::Made;
use crate::nodes::place;
use crate::nodes::survey::{self, Ready, Wanted};
use crate::resume::last_shape;
use crate::show::Show;
use crate::train::{count, is_taken, place_of};
use crate::verify::{Verdict, verify};

/// `launcher reproduce`. Returns 0 if the new run is equal to the old, 1 if not, or what the launch ended with if it did not
/// come to its end.
///
/// # Errors
/// If the run cannot be computed again; nothing was started then.
pub async fn reproduce(args: &ReproduceArgs) -> Result<u8> {
    let original = RunDir::open(&args.run)?;
    let manifest = original.manifest()?;
    let config = original.config()?;
    configure::still_the_same(&config, &manifest).with_context(|| cannot(&args.run))?;
    let steps = steps_of(&original)?;
    if is_taken(&args.out) {
        bail!("{} exists already; choose another --out", args.out.display());
    }
    let config = again(&config, steps, args.data.as_deref())?;
    configure::same_data(&config, &manifest, "--data DIR").with_context(|| cannot(&args.run))?;
    let layout = place::find(&args.place, args.nodes, args.gpus, Some(last_shape(&manifest)))?;
    layout.shape.fits(config.run.lanes)?;
    let (coordinator, _) = (binaries::coordinator()?, binaries::trainer()?);
    let wanted = Wanted {
        device: args.device,
        data: Some((Path::new(&config.data.path), &manifest.data_digest)),
        run: Some(&args.out),
        check: !args.place.no_check,
    };
    let Ready { nodes, shape, device, gpus, said } = survey::ready(layout, wanted).await?;

    let made = Made::remember(&args.out);
    let run = RunDir::create(&args.out, &config, &RunManifest::new(&config, manifest.data_digest.clone()))?;
    let mut show = Show::new(&args.show);
    show.say(&format!(
        "computing the {} of {} again into {}: {} on {}, {}",
        count_steps(steps),
        args.run.display(),
        args.out.display(),
        count(shape.world(), "trainer"),
        place_of(shape, &nodes),
        count(config.run.lanes, "lane"),
    ));
    said.iter().for_each(|said| show.say(said));
    if let Some(doubt) = device_doubt(&manifest, device) {
        show.say(&not_promised(&args.run, &[doubt]));
    }
    let plan = Plan {
        run,
        config,
        nodes,
        shape,
        device,
        gpus,
        coordinator,
        accept_changed_checkpoint: false,
        made: Some(made),
    };
    let code = launch::launch(plan, &args.show, &mut show).await?;
    if code != 0 {
        return Ok(code);
    }
    let now = RunDir::open(&args.out)?;
    compare(args, &manifest, &now.manifest()?, steps_of(&now)?, steps)
}

/// Says what the comparison found; the exit code.
fn compare(args: &ReproduceArgs, before: &RunManifest, now: &RunManifest, taken: u64, steps: u64) -> Result<u8> {
    let doubts = doubts(before, now);
    let (code, mut text) = if taken < steps {
        let short = format!("{} was stopped after {} of {}", args.out.display(), taken, count_steps(steps));
        (2, format!("not compared: {short}; `launcher resume {}` finishes it", args.out.display()))
    } else {
        let verdict: Verdict = verify(&args.run, &args.out);
        (verdict.exit_code(), verdict.text().to_owned())
    };
    if !doubts.is_empty() {
        text += &format!("\n{}", not_promised(&args.run, &doubts));
    }
    let mut stdout = std::io::stdout();
    match args.show.log_format {
        LogFormat::Text => writeln!(stdout, "{text}")?,
        LogFormat::Json => {
            let object = json!({ "kind": "verdict", "equal": code == 0, "text": text, "not_promised": doubts });
            writeln!(stdout, "{object}")?;
        }
    }
    Ok(code)
}

/// How far the run came: every step of it is to be computed again.
fn steps_of(run: &RunDir) -> Result<u64> {
    let journal = Journal::read(run)?;
    let last = journal.steps()?.last().map_or(0, |row| row.record.step.next().0);
    let digested = journal.last_digest()?.map_or(0, |(step, _)| step.0);
    match last.max(digested) {
        0 => bail!("{} took no step yet: there is nothing to compute again", run.path().display()),
        steps => Ok(steps),
    }
}

/// The configuration of the new run: the old one's, over as many steps as that took.
fn again(config: &RunConfig, steps: u64, data: Option<&Path>) -> Result<RunConfig> {
    let mut again = config.clone();
    again.run.steps = steps;
    if let Some(data) = data {
        let data = std::path::absolute(data).with_context(|| format!("--data {}", data.display()))?;
        let text = data.to_str().with_context(|| format!("--data {} is not UTF-8", data.display()))?;
        again.data.path = text.to_owned();
    }
    again.validate()?;
    Ok(again)
}

/// What can be told before a trainer says on what it runs.
fn device_doubt(before: &RunManifest, device: Device) -> Option<String> {
    let mut trainers = before.launches.iter().flat_map(|launch| &launch.trainers);
    let other = trainers.find(|trainer| trainer.device.starts_with("cpu") != (device == Device::Cpu))?;
    Some(format!("it was computed on {}, and this is --device {}", other.device, device.name()))
}

/// Where the machines and the software of two runs differ, as far as their manifests say.
fn doubts(before: &RunManifest, now: &RunManifest) -> Vec<String> {
    let mut doubts = Vec::new();
    for (what, of) in [
        ("device", (|trainer| trainer.device.clone()) as fn(&began_record::LaunchedTrainer) -> String),
        ("software", |trainer| trainer.software.clone()),
    ] {
        let (before, now) = (all(before, of), all(now, of));
        if before.is_empty() || now.is_empty() {
            doubts.push(format!("the manifest of one of them does not tell its {what}"));
        } else if before != now {
            doubts.push(format!("its {what} was {}, and is {}", before.join(" and "), now.join(" and ")));
        }
    }
    if before.began != now.began {
        doubts.push(format!("it was made by began {}, and this is {}", before.began, now.began));
    }
    doubts
}

/// What the trainers of all launches of a run say, each once.
fn all(manifest: &RunManifest, of: fn(&began_record::LaunchedTrainer) -> String) -> Vec<String> {
    let mut found: Vec<String> = manifest.launches.iter().flat_map(|launch| &launch.trainers).map(of).collect();
    found.sort();
    found.dedup();
    found
}

fn not_promised(run: &Path, doubts: &[String]) -> String {
    format!("not promised to be equal to {}: {}", run.display(), doubts.join("; "))
}

fn cannot(run: &Path) -> String {
    format!("{} cannot be computed again", run.display())
}

fn count_steps(steps: u64) -> String {
    if steps == 1 { "1 step".into() } else { format!("{steps} steps") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::made_up;
    use began_record::{Launch, LaunchedTrainer};
    use clap::Parser;

    async fn refused(line: String) -> Result<String> {
        let Command::Reproduce(args) = Cli::try_parse_from(line.split_whitespace())?.command else {
            bail!("not reproduce")
        };
        Ok(format!("{:#}", reproduce(&args).await.err().context("it was not refused")?))
    }

    #[tokio::test]
    async fn what_could_not_be_the_same_run_is_refused_by_name_and_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        for (name, size) in [("data", 64), ("other", 32)] {
            std::fs::create_dir(at(name))?;
            made_up::data_set(&at(name), size)?;
        }
        let path = format!("data.path={}", at("data").display());
        made_up::run_over(&at("empty"), &at("data"), &[&path], &[])?;
        made_up::run_over(&at("run"), &at("data"), &[&path], &[made_up::step(0, 0.5)])?;
        let (out, run) = (at("out"), at("run"));
        let line =
            |run: &Path, more: &str| format!("launcher reproduce {} --out {}{more}", run.display(), out.display());

        let error = refused(line(&at("empty"), "")).await?;
        assert!(error.contains("took no step yet"), "{error}");
        let error = refused(line(&run, &format!(" --data {}", at("other").display()))).await?;
        assert!(error.contains("not the data this run began with") && error.contains("--data DIR"), "{error}");
        let error = refused(format!("launcher reproduce {} --out {}", run.display(), at("other").display())).await?;
        assert!(error.contains("other exists already; choose another --out"), "{error}");
        let error = refused(line(&run, " --gpus 3")).await?;
        assert!(error.contains("3 trainers"), "{error}");
        let toml = std::fs::read_to_string(run.join("run.toml"))?;
        std::fs::write(run.join("run.toml"), toml.replace("\nseed = 1\n", "\nseed = 9\n"))?;
        let error = refused(line(&run, "")).await?;
        assert!(error.contains("run.seed = 9") && error.contains("cannot be computed again"), "{error}");
        assert!(!out.exists());
        Ok(())
    }

    #[test]
    fn the_new_run_takes_as_many_steps_as_the_old_one_took() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let steps = [made_up::step(0, 0.5), made_up::step(1, 0.5), made_up::digest(1, 0, "d", &[])];
        let run = made_up::run(&folder.path().join("run"), &["run.steps=90"], &steps)?;
        let config = run.config()?;
        let again = again(&config, steps_of(&run)?, Some(Path::new("elsewhere")))?;
        assert_eq!(again.run.steps, 2);
        assert!(Path::new(&again.data.path).is_absolute() && again.data.path.ends_with("/elsewhere"));
        assert_eq!(again.run.lanes, config.run.lanes);
        Ok(())
    }

    fn launched(device: &str, software: &str) -> RunManifest {
        let trainer = |rank| LaunchedTrainer {
            rank,
            node: 0,
            host: format!("host {rank}"),
            device: device.into(),
            software: software.into(),
        };
        let mut manifest = RunManifest::new(&RunConfig::default(), String::new());
        let trainers = vec![trainer(0), trainer(1)];
        manifest.launches.push(Launch { time: 0, nodes: 1, world: 2, from_step: 0, trainers });
        manifest
    }

    #[test]
    fn another_device_or_other_software_is_named_and_another_host_is_not() {
        let before = launched("cpu (a Xeon)", "libtorch 2.11.0, AVX2 kernels");
        assert_eq!(doubts(&before, &launched("cpu (a Xeon)", "libtorch 2.11.0, AVX2 kernels")), [""; 0]);
        assert_eq!(
            doubts(&before, &launched("cpu (a Xeon)", "libtorch 2.11.0, AVX512 kernels")),
            ["its software was libtorch 2.11.0, AVX2 kernels, and is libtorch 2.11.0, AVX512 kernels"]
        );
        assert!(
            doubts(&before, &launched("H100", "libtorch 2.11.0, AVX2 kernels"))[0]
                .contains("was cpu (a Xeon), and is H100")
        );
        assert_eq!(device_doubt(&before, Device::Cpu), None);
        assert!(device_doubt(&before, Device::Cuda).is_some_and(|doubt| doubt.contains("--device cuda")));
        assert_eq!(device_doubt(&RunManifest::new(&RunConfig::default(), String::new()), Device::Cuda), None);
    }
}
