//! `train`: everything that is decided and checked before a process of a new run is started.
//!
//! What can be refused is refused here, before anything is written. What this launch made, it removes again if no step
//! was taken.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use began_record::{RunDir, RunManifest};

use crate::binaries;
use crate::cli::TrainArgs;
use crate::configure::{self, Shape};
use crate::launch::{self, Plan};
use crate::made::Made;
use crate::nodes::survey::{self, Ready, Wanted};
use crate::nodes::{Nodes, place, submit};
use crate::show::Show;

/// `launcher train`. Returns the exit code.
///
/// # Errors
/// If the run cannot be started as asked for; nothing is left then.
pub async fn train(args: &TrainArgs) -> Result<u8> {
    if args.submit {
        if is_taken(&args.run) {
            return Err(RunDir::taken(&args.run).into());
        }
        let said = submit::submit(args)?;
        writeln!(std::io::stdout(), "{said}")?;
        return Ok(0);
    }
    let layout = place::find(&args.place, args.nodes, args.gpus, None)?;
    if is_taken(&args.run) {
        return Err(RunDir::taken(&args.run).into());
    }
    let (config, data) = configure::new_run(args, &layout)?;
    let (coordinator, _) = (binaries::coordinator()?, binaries::trainer()?);
    let wanted = Wanted {
        device: args.device,
        data: Some((Path::new(&config.data.path), &data.digest)),
        run: Some(&args.run),
        check: !args.place.no_check,
    };
    let Ready { nodes, shape, device, gpus, said } = survey::ready(layout, wanted).await?;

    let made = Made::remember(&args.run);
    let run = RunDir::create(&args.run, &config, &RunManifest::new(&config, data.digest))?;
    let mut show = Show::new(&args.show);
    show.say(&format!(
        "new run {}: {} on {}, {} of {} images of {} x {}, {} steps",
        args.run.display(),
        count(shape.world(), "trainer"),
        place_of(shape, &nodes),
        count(config.run.lanes, "lane"),
        config.run.batch,
        config.model.size,
        config.model.size,
        config.run.steps
    ));
    said.iter().for_each(|said| show.say(said));
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
    launch::launch(plan, &args.show, &mut show).await
}

/// Whether something is where a new run is to go. An empty folder is nothing.
#[must_use]
pub fn is_taken(path: &Path) -> bool {
    path.is_file() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// "2 nodes of 4, all on this machine", "4 nodes of 8 over ssh".
#[must_use]
pub fn place_of(Shape { nodes, gpus }: Shape, places: &Nodes) -> String {
    match (nodes, places.backend.is_remote()) {
        (1, false) => "this machine".into(),
        (_, false) => format!("{nodes} nodes of {gpus}, all on this machine"),
        (_, true) => format!("{} of {gpus} {}", count(nodes, "node"), places.backend.name()),
    }
}

/// "1 lane", "4 lanes".
#[must_use]
pub fn count(number: u32, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, with_default_command};
    use crate::made_up;
    use anyhow::{Context, bail};
    use clap::Parser;

    async fn refused(line: String) -> Result<String> {
        let cli = Cli::try_parse_from(with_default_command(line.split_whitespace().map(Into::into)))?;
        let Command::Train(args) = cli.command else { bail!("not train") };
        Ok(format!("{:#}", train(&args).await.err().context("it was not refused")?))
    }

    #[tokio::test]
    async fn a_place_that_is_not_there_is_refused_and_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("run");
        let error = refused(format!("launcher --data d --run {} --on ssh", run.display())).await?;
        assert!(error.contains("--hosts"), "{error}");
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
        Ok(())
    }
}
