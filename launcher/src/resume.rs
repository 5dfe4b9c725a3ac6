//! `resume`: everything that is decided and checked before a run goes on.
//!
//! What can be refused is refused before anything is changed. A damaged checkpoint is passed over in words; that the one the
//! run goes on from is sound is settled here, where people read, and not left to the trainers.

use std::path::Path;

use anyhow::Result;
use began::RunConfig;
use began_record::{Checkpoint, Journal, RecordError, RunDir, RunManifest, Survey};

use crate::binaries;
use crate::cli::ResumeArgs;
use crate::configure::{self, Shape};
use crate::launch::{self, Plan};
use crate::nodes::place;
use crate::nodes::survey::{self, Ready, Wanted};
use crate::show::Show;
use crate::train::{count, place_of};

/// `launcher resume`. Returns the exit code.
///
/// # Errors
/// If the run cannot go on as asked for; it is left as it was.
pub async fn resume(args: &ResumeArgs) -> Result<u8> {
    let run = RunDir::open(&args.run)?;
    let mut config = configure::resumed(&run.config()?, &args.set)?;
    let manifest = run.manifest()?;
    configure::still_the_same(&config, &manifest)?;
    // Held until the changes are made: the coordinator takes it for the run.
    let lock = run.lock()?;
    let mut remarks: Vec<String> = damaged_journal(&run)?.into_iter().collect();
    let (checkpoint, survey) = if args.accept_changed_checkpoint {
        (run.latest_checkpoint()?, None)
    } else {
        let survey = survey(&run, &manifest.run)?;
        (survey.sound.clone(), Some(survey))
    };
    let mut show = Show::new(&args.show);
    if let Some(checkpoint) = &checkpoint
        && checkpoint.step.0 >= config.run.steps
    {
        say_finished(args, &config, checkpoint, &mut show);
        return Ok(0);
    }
    configure::same_data(&config, &manifest, "--set data.path=DIR")?;
    let layout = place::find(&args.place, args.nodes, args.gpus, Some(last_shape(&manifest)))?;
    layout.shape.fits(config.run.lanes)?;
    configure::elastic(&mut config, &layout, &args.set);
    let (coordinator, _) = (binaries::coordinator()?, binaries::trainer()?);
    let wanted = Wanted {
        device: args.device,
        data: Some((Path::new(&config.data.path), &manifest.data_digest)),
        run: Some(&args.run),
        check: !args.place.no_check,
    };
    let Ready { nodes, shape, device, gpus, said } = survey::ready(layout, wanted).await?;
    if let Some(survey) = survey {
        remarks.extend(run.set_aside(&survey)?);
    }
    run.write_config(&config)?;
    drop(lock);
    remarks.iter().for_each(|remark| show.say(remark));
    show.say(&match &checkpoint {
        Some(checkpoint) => format!(
            "resuming {} at step {} of {}: {} on {}, {}",
            args.run.display(),
            checkpoint.step,
            config.run.steps,
            count(shape.world(), "trainer"),
            place_of(shape, &nodes),
            count(config.run.lanes, "lane")
        ),
        None => {
            format!("{} has no checkpoint yet: it starts again from step 0, with the same seed", args.run.display())
        }
    });
    said.iter().for_each(|said| show.say(said));
    let accept_changed_checkpoint = args.accept_changed_checkpoint;
    let plan = Plan { run, config, nodes, shape, device, gpus, coordinator, accept_changed_checkpoint, made: None };
    launch::launch(plan, &args.show, &mut show).await
}

/// What to say of a journal that the coordinator will have to salvage.
fn damaged_journal(run: &RunDir) -> Result<Option<String>> {
    if !run.journal().exists() {
        return Ok(None);
    }
    match Journal::read(run).and_then(|journal| journal.steps()) {
        Err(error) if error.journal_damaged() => Ok(Some(format!(
            "{error}; the coordinator keeps it aside and takes what can still be read of it into a new one"
        ))),
        // Before anything is changed: the coordinator would refuse it too, but only once run.toml is written.
        Err(error) => Err(error.into()),
        Ok(_) => Ok(None),
    }
}

/// Looks for the checkpoint to go on from; where there is none but damaged ones, the error says what could be done.
fn survey(run: &RunDir, identity: &str) -> Result<Survey> {
    run.survey_checkpoints(identity).map_err(|error| {
        let name = run.path().display();
        let advice = match &error {
            RecordError::OtherRun { path, .. } => {
                format!("move {} away and the run goes on from the checkpoint before it", path.display())
            }
            _ => format!(
                "no checkpoint of {name} can be gone on from as it is; `launcher resume {name} \
                 --accept-changed-checkpoint` goes on from the newest that can be read at all, and with {} moved away the \
                 run starts again from step 0",
                run.checkpoint_folder().display()
            ),
        };
        anyhow::Error::from(error).context(advice)
    })
}

fn say_finished(args: &ResumeArgs, config: &RunConfig, checkpoint: &Checkpoint, show: &mut Show) {
    let step = checkpoint.step;
    let text = format!(
        "{} is finished: its last checkpoint is of step {step}, and run.steps is {}; for more, say --set run.steps=N",
        args.run.display(),
        config.run.steps
    );
    let object = serde_json::json!({ "kind": "ended", "outcome": "finished", "step": step.0, "text": text });
    show.end(None, &text, &object);
}

/// As at the last launch, or else one trainer.
#[must_use]
pub fn last_shape(manifest: &RunManifest) -> Shape {
    let last = manifest.launches.last().filter(|last| last.nodes > 0 && last.world > 0);
    let (last_nodes, last_gpus) = last.map_or((1, 1), |last| (last.nodes, last.world.div_ceil(last.nodes)));
    Shape { nodes: last_nodes, gpus: last_gpus }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::made_up;
    use anyhow::{Context, bail};
    use began_record::Launch;
    use clap::Parser;

    async fn refused(line: String) -> Result<String> {
        let Command::Resume(args) = Cli::try_parse_from(line.split_whitespace())?.command else { bail!("not resume") };
        Ok(format!("{:#}", resume(&args).await.err().context("it was not refused")?))
    }

    #[tokio::test]
    async fn what_is_no_run_or_would_be_another_is_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("run");
        made_up::run(&run, &[], &[])?;
        let error = refused(format!("launcher resume {}", folder.path().display())).await?;
        assert!(error.contains("is not a run"), "{error}");
        let error = refused(format!("launcher resume {} --set run.seed=3", run.display())).await?;
        assert!(error.contains("run.seed"), "{error}");
        Ok(())
    }

    #[tokio::test]
    async fn a_run_whose_only_checkpoint_is_damaged_is_refused_with_what_can_be_done() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = made_up::run(&folder.path().join("run"), &[], &[])?;
        let checkpoint = run.checkpoint_folder().join("step-00000003");
        std::fs::create_dir(&checkpoint)?;
        let error = refused(format!("launcher resume {}", run.path().display())).await?;
        assert!(error.contains("--accept-changed-checkpoint") && error.contains("step 0"), "{error}");
        assert!(error.contains("step-00000003/state.json") && checkpoint.is_dir(), "{error}");
        Ok(())
    }

    #[test]
    fn a_damaged_journal_is_said_and_stops_nobody() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = made_up::run(&folder.path().join("run"), &[], &[made_up::step(0, 0.5)])?;
        assert_eq!(damaged_journal(&run)?, None);
        for beside in ["run.db-wal", "run.db-shm"] {
            let _ = std::fs::remove_file(run.path().join(beside));
        }
        std::fs::write(run.journal(), "this is no database")?;
        let said = damaged_journal(&run)?.context("nothing is said")?;
        assert!(said.contains("run.db") && said.contains("keeps it aside"), "{said}");
        Ok(())
    }

    #[test]
    fn a_resume_has_the_shape_of_the_last_launch_unless_another_is_said() -> Result<()> {
        let mut manifest = RunManifest::new(&began::RunConfig::default(), String::new());
        let shape = |line: &str, manifest: &RunManifest| -> Result<Shape> {
            let cli = Cli::try_parse_from(format!("launcher resume r {line}").split_whitespace())?;
            let Command::Resume(args) = cli.command else { bail!("not resume") };
            Ok(place::find(&args.place, args.nodes, args.gpus, Some(last_shape(manifest)))?.shape)
        };
        assert_eq!(shape("", &manifest)?, Shape { nodes: 1, gpus: 1 });
        manifest.launches.push(Launch { time: 0, nodes: 2, world: 8, from_step: 0, trainers: Vec::new() });
        assert_eq!(shape("", &manifest)?, Shape { nodes: 2, gpus: 4 });
        assert_eq!(shape("--gpus 1", &manifest)?, Shape { nodes: 2, gpus: 1 });
        Ok(())
    }
}
