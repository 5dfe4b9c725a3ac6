//! `train` and `resume`: everything that is decided and checked before a process is started.
//!
//! What can be refused is refused here, before anything is written. What this launch made, it removes again if no step
//! was taken.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use began_record::{Journal, RunDir, RunManifest};

use crate::binaries;
use crate::cli::{Place, ResumeArgs, TrainArgs};
use crate::configure::{self, Shape};
use crate::devices::{self, Gpus};
use crate::launch::{self, Plan};
use crate::show::Show;

/// `launcher train`. Returns the exit code.
///
/// # Errors
/// If the run cannot be started as asked for; nothing is left then.
pub async fn train(args: &TrainArgs) -> Result<u8> {
    here(args.on)?;
    if let Some(hosts) = &args.hosts {
        bail!(
            "--hosts {}: only --on ssh takes hosts, and that is not there yet; all nodes run on this machine",
            hosts.display()
        );
    }
    if run_is_there(&args.run) {
        return Err(RunDir::taken(&args.run).into());
    }
    let (config, data) = configure::new_run(args)?;
    let shape = Shape { nodes: args.nodes, gpus: args.gpus };
    let (device, gpus, said) = devices::choose(args.device, shape.world(), Gpus::find)?;
    let (coordinator, _) = (binaries::coordinator()?, binaries::trainer()?);

    let made = Made::remember(&args.run);
    let run = RunDir::create(&args.run, &config, &RunManifest::new(&config, data.digest))?;
    let mut show = Show::new(&args.show);
    show.say(&format!(
        "new run {}: {} on {}, {} of {} images of {} x {}, {} steps",
        args.run.display(),
        count(shape.world(), "trainer"),
        place_of(shape),
        count(config.run.lanes, "lane"),
        config.run.batch,
        config.model.size,
        config.model.size,
        config.run.steps
    ));
    said.iter().for_each(|said| show.say(said));
    let plan =
        Plan { run, config, shape, device, gpus, coordinator, accept_changed_checkpoint: false, made: Some(made) };
    launch::launch(plan, &args.show, &mut show).await
}

/// `launcher resume`. Returns the exit code.
///
/// # Errors
/// If the run cannot go on as asked for; it is left as it was.
pub async fn resume(args: &ResumeArgs) -> Result<u8> {
    here(args.on)?;
    let run = RunDir::open(&args.run)?;
    let config = configure::resumed(&run.config()?, &args.set)?;
    let manifest = run.manifest()?;
    configure::still_the_same(&config, &manifest)?;
    if run.journal().exists() {
        // Before anything is changed: the coordinator would refuse it too, but only once run.toml is written.
        began_record::Journal::read(&run)?;
    }
    let mut checkpoints = run.checkpoints()?;
    let checkpoint = checkpoints.last().map(|checkpoint| checkpoint.step);
    let mut show = Show::new(&args.show);
    if let Some(step) = checkpoint
        && step.0 >= config.run.steps
    {
        let text = format!(
            "{} is finished: its last checkpoint is of step {step}, and run.steps is {}; for more, say --set run.steps=N",
            args.run.display(),
            config.run.steps
        );
        show.end(
            None,
            &text,
            &serde_json::json!({ "kind": "ended", "outcome": "finished", "step": step.0, "text": text }),
        );
        return Ok(0);
    }
    if !args.accept_changed_checkpoint {
        usable(&run, &manifest.run, &mut checkpoints)?;
    }
    configure::same_data(&config, &manifest)?;
    let shape = last_shape(args, &manifest);
    shape.fits(config.run.lanes)?;
    let (device, gpus, said) = devices::choose(args.device, shape.world(), Gpus::find)?;
    let (coordinator, _) = (binaries::coordinator()?, binaries::trainer()?);
    {
        // Held for the change only: the coordinator takes it for the run.
        let _lock = run.lock()?;
        run.write_config(&config)?;
    }
    show.say(&match checkpoint {
        Some(step) => format!(
            "resuming {} at step {step} of {}: {} on {}, {}",
            args.run.display(),
            config.run.steps,
            count(shape.world(), "trainer"),
            place_of(shape),
            count(config.run.lanes, "lane")
        ),
        None => {
            format!("{} has no checkpoint yet: it starts again from step 0, with the same seed", args.run.display())
        }
    });
    said.iter().for_each(|said| show.say(said));
    let accept_changed_checkpoint = args.accept_changed_checkpoint;
    let plan = Plan { run, config, shape, device, gpus, coordinator, accept_changed_checkpoint, made: None };
    launch::launch(plan, &args.show, &mut show).await
}

/// Checks the files of the last checkpoint by their hashes.
fn usable(run: &RunDir, identity: &str, checkpoints: &mut Vec<began_record::Checkpoint>) -> Result<()> {
    let Some(last) = checkpoints.pop() else { return Ok(()) };
    let folder = run.path().join(&last.path);
    let whole = if last.state.run == identity {
        last.state.check_files(&folder).map_err(anyhow::Error::from)
    } else {
        Err(anyhow!("{} is of run {}, this is run {identity}", folder.display(), last.state.run))
    };
    whole.with_context(|| {
        let earlier = match checkpoints.last() {
            Some(before) => format!("the one of step {} ({})", before.step, before.path.display()),
            None => "step 0".to_owned(),
        };
        format!(
            "{} cannot be gone on from as it is; `launcher resume {} --accept-changed-checkpoint` does so all the same, \
             and with that folder moved away the run goes on from {earlier}",
            folder.display(),
            run.path().display()
        )
    })
}

fn here(place: Place) -> Result<()> {
    match place {
        Place::Auto | Place::Local => Ok(()),
        Place::Ssh => bail!("--on ssh is not there yet; --on local runs all nodes on this machine"),
        Place::Slurm => {
            bail!("--on slurm is not there yet; --on local runs all nodes on this machine")
        }
    }
}

fn run_is_there(path: &Path) -> bool {
    path.is_file() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

fn place_of(Shape { nodes, gpus }: Shape) -> String {
    if nodes == 1 { "this machine".into() } else { format!("{nodes} nodes of {gpus}, all on this machine") }
}

fn count(number: u32, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// What was said, or else as at the last launch, or else one trainer.
fn last_shape(args: &ResumeArgs, manifest: &RunManifest) -> Shape {
    let last = manifest.launches.last().filter(|last| last.nodes > 0 && last.world > 0);
    let (nodes, gpus) = last.map_or((1, 1), |last| (last.nodes, last.world.div_ceil(last.nodes)));
    Shape { nodes: args.nodes.unwrap_or(nodes), gpus: args.gpus.unwrap_or(gpus) }
}

/// A run's folder that this launch made.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    was_there: bool,
}

impl Made {
    fn remember(path: &Path) -> Self {
        Self { path: path.into(), was_there: path.is_dir() }
    }

    /// Removes the folder again if no step was taken in it; returns whether it did.
    ///
    /// # Errors
    /// If it cannot be looked into, or removed.
    pub fn remove_if_unused(&self) -> Result<bool> {
        let Ok(run) = RunDir::open(&self.path) else {
            return Ok(false);
        };
        let stepped = match Journal::read(&run) {
            Ok(journal) => !journal.steps()?.is_empty(),
            Err(_) => run.journal().exists(),
        };
        if stepped || !run.checkpoints()?.is_empty() {
            return Ok(false);
        }
        let cannot = || format!("cannot remove {}, in which no step was taken", self.path.display());
        std::fs::remove_dir_all(&self.path).with_context(cannot)?;
        if self.was_there {
            std::fs::create_dir(&self.path).with_context(cannot)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, with_default_command};
    use crate::made_up;
    use began_record::Launch;
    use clap::Parser;

    async fn refused(line: String) -> Result<String> {
        let cli = Cli::try_parse_from(with_default_command(line.split_whitespace().map(Into::into)))?;
        let result = match cli.command {
            Command::Train(args) => train(&args).await,
            Command::Resume(args) => resume(&args).await,
            other => bail!("{other:?}"),
        };
        Ok(format!("{:#}", result.err().context("it was not refused")?))
    }

    #[tokio::test]
    async fn what_is_not_there_yet_says_so_and_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("run");
        for place in ["ssh", "slurm"] {
            let error = refused(format!("launcher --data d --run {} --on {place}", run.display())).await?;
            assert!(error.contains("not there yet"), "{error}");
        }
        assert!(!run.exists());
        Ok(())
    }

    #[tokio::test]
    async fn a_run_that_exists_is_named_with_the_way_to_go_on() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("run");
        made_up::run(&run, &[], &[])?;
        let error = refused(format!("launcher --data d --run {}", run.display())).await?;
        assert!(error.contains(&format!("launcher resume {}", run.display())), "{error}");
        let error = refused(format!("launcher resume {}", folder.path().display())).await?;
        assert!(error.contains("is not a run"), "{error}");
        let error = refused(format!("launcher resume {} --set run.seed=3", run.display())).await?;
        assert!(error.contains("run.seed"), "{error}");
        Ok(())
    }

    #[test]
    fn a_resume_has_the_shape_of_the_last_launch_unless_another_is_said() -> Result<()> {
        let mut manifest = RunManifest::new(&began::RunConfig::default(), String::new());
        let shape = |line: &str, manifest: &RunManifest| -> Result<Shape> {
            let cli = Cli::try_parse_from(format!("launcher resume r {line}").split_whitespace())?;
            let Command::Resume(args) = cli.command else { bail!("not resume") };
            Ok(last_shape(&args, manifest))
        };
        assert_eq!(shape("", &manifest)?, Shape { nodes: 1, gpus: 1 });
        manifest.launches.push(Launch { time: 0, nodes: 2, world: 8, from_step: 0, trainers: Vec::new() });
        assert_eq!(shape("", &manifest)?, Shape { nodes: 2, gpus: 4 });
        assert_eq!(shape("--gpus 1", &manifest)?, Shape { nodes: 2, gpus: 1 });
        Ok(())
    }

    #[test]
    fn a_folder_in_which_no_step_was_taken_is_removed_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for (name, entries, removed) in [("unused", vec![], true), ("used", vec![made_up::step(0, 0.5)], false)] {
            let path = folder.path().join(name);
            let made = Made::remember(&path);
            made_up::run(&path, &[], &entries)?;
            assert_eq!(made.remove_if_unused()?, removed);
            assert_eq!(path.exists(), !removed);
        }
        Ok(())
    }
}
