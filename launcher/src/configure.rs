//! The configuration of a launch: what a new run gets, and what a resumed one may still change.
//!
//! A preset, overlaid by a file, by `--data`, by `--set`; then what the data and the size of the launch settle. A
//! resumed run keeps every key that decides what it computes: were one to change, its earlier steps would be another
//! run's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use began::RunConfig;
use began_data::Manifest;
use began_record::RunManifest;

use crate::cli::TrainArgs;
use crate::nodes::place::Layout;

/// How many nodes and trainers a launch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes.
    pub nodes: u32,
    /// Trainers on each.
    pub gpus: u32,
}

impl Shape {
    /// Trainers of the whole launch.
    #[must_use]
    pub fn world(self) -> u32 {
        self.nodes.saturating_mul(self.gpus)
    }

    /// Checks that there is at least one lane for every trainer.
    ///
    /// # Errors
    /// If there are more trainers than lanes.
    pub fn fits(self, lanes: u32) -> Result<()> {
        if self.world() <= lanes {
            return Ok(());
        }
        bail!(
            "--nodes {} --gpus {} makes {} trainers, but the run has {lanes} {} (run.lanes), and each trainer needs one \
             at least; start fewer trainers{}",
            self.nodes,
            self.gpus,
            self.world(),
            if lanes == 1 { "lane" } else { "lanes" },
            if lanes == 0 { "" } else { ", or a new run with more lanes" },
        )
    }
}

/// What a command line says about the configuration of a new run.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// `--preset`.
    pub preset: Option<&'a str>,
    /// `--config`.
    pub file: Option<&'a Path>,
    /// `--data`.
    pub data: Option<&'a Path>,
    /// `--set`.
    pub set: &'a [String],
}

impl Said<'_> {
    /// The preset, overlaid by the file, by the data, by each key; and whether any of it gave `model.size`.
    ///
    /// # Errors
    /// The first thing that cannot be read or is no key, naming the flag, file or key.
    pub fn configuration(&self) -> Result<(RunConfig, bool)> {
        let mut config = match self.preset {
            Some(name) => RunConfig::preset(name).context("--preset")?,
            None => RunConfig::default(),
        };
        let mut size_given = self.preset.is_some();
        if let Some(file) = self.file {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read --config {}", file.display()))?;
            config = config.overlay(&text, &file.display().to_string())?;
            size_given |= gives_size(&text);
        }
        if let Some(data) = self.data {
            config.data.path = path_as_text(data)?;
        }
        for assignment in self.set {
            config = config.set(assignment)?;
            size_given |= key_of(assignment) == "model.size";
        }
        Ok((config, size_given))
    }
}

/// The configuration of a new run, and the manifest of its data.
///
/// # Errors
/// The first thing that does not hold, naming the flag, file or key.
pub fn new_run(args: &TrainArgs, layout: &Layout) -> Result<(RunConfig, Manifest)> {
    let said = Said {
        preset: args.preset.as_deref(),
        file: args.config.as_deref(),
        data: args.data.as_deref(),
        set: &args.set,
    };
    let (mut config, size_given) = said.configuration()?;
    if config.data.path.is_empty() {
        bail!("no data: say --data DIR (a folder that `trainer prepare SOURCE --out DIR` made)");
    }
    config.data.path = path_as_text(&absolute(Path::new(&config.data.path))?)?;
    let data = Manifest::load(Path::new(&config.data.path))?;
    if !size_given {
        config.model.size = data.size;
    }
    config.validate()?;
    fits_data(&config, &data)?;
    if config.run.lanes == 0 {
        // Of the most nodes there may be: a run can never have more trainers than lanes.
        config.run.lanes = layout.most.saturating_mul(layout.shape.gpus);
    }
    elastic(&mut config, layout, &args.set);
    config.validate()?;
    layout.shape.fits(config.run.lanes)?;
    Ok((config, data))
}

/// With fewer nodes than the most, the run is to wait rather than go on with fewer trainers than the least have, unless a key
/// says otherwise.
pub fn elastic(config: &mut RunConfig, layout: &Layout, set: &[String]) {
    if layout.least < layout.most && !set.iter().any(|assignment| key_of(assignment) == "run.min_trainers") {
        config.run.min_trainers = layout.least.saturating_mul(layout.shape.gpus);
    }
}

/// The configuration of a resumed run: what it has, with the allowed changes laid over it.
///
/// # Errors
/// If a change would make it another run, or does not hold.
pub fn resumed(config: &RunConfig, set: &[String]) -> Result<RunConfig> {
    let before = config.keys();
    let mut changed = config.clone();
    for assignment in set {
        changed = changed.set(assignment)?;
    }
    for ((key, before), (_, now)) in before.iter().zip(changed.keys()) {
        if *before != now && RunManifest::key_computes(key) {
            bail!(
                "--set {key}={now}: this run has {key} = {before}, which decides what it computes, so it stays for the \
                 run's whole life; start a new run for another value"
            );
        }
    }
    if config.guard.goes_back() && changed.run.checkpoint_every != config.run.checkpoint_every {
        bail!(
            "--set run.checkpoint_every={}: a guard of this run goes back to a checkpoint when it fires, so that its spacing \
             ({}) decides what the run computes; start a new run for another value",
            changed.run.checkpoint_every,
            config.run.checkpoint_every
        );
    }
    if changed.data.path != config.data.path {
        changed.data.path = path_as_text(&absolute(Path::new(&changed.data.path))?)?;
    }
    changed.validate()?;
    Ok(changed)
}

/// Checks that `run.toml` still says what the run began with.
///
/// # Errors
/// If a key that decides what the run computes was changed by hand; it is named.
pub fn still_the_same(config: &RunConfig, manifest: &RunManifest) -> Result<()> {
    if let Some((key, was, now)) = manifest.changed_keys(config).into_iter().next() {
        bail!(
            "run.toml says {key} = {now}, but this run began with {key} = {was} (manifest.json), and that decides what it \
             computes; put it back, or start a new run"
        );
    }
    Ok(())
}

/// Checks that a run that goes on, or is computed again, finds the data it began with; `flag` says where it lies now.
///
/// # Errors
/// If the data is not there, or is other data.
pub fn same_data(config: &RunConfig, manifest: &RunManifest, flag: &str) -> Result<()> {
    let data = Manifest::load(Path::new(&config.data.path))?;
    if data.digest != manifest.data_digest {
        bail!(
            "{} is not the data this run began with: the run's has the digest {}, this one {}; \
             put the data back, or say where it lies now with {flag}",
            config.data.path,
            manifest.data_digest,
            data.digest
        );
    }
    fits_data(config, &data)
}

/// Checks that the images of the data are of the size that the network takes.
///
/// # Errors
/// If not.
pub fn fits_data(config: &RunConfig, data: &Manifest) -> Result<()> {
    if config.model.size == data.size {
        return Ok(());
    }
    bail!(
        "model.size is {}, but the images in {} are {} pixels wide; prepare the data with `trainer prepare --size {}`, \
         or take --set model.size={}",
        config.model.size,
        config.data.path,
        data.size,
        config.model.size,
        data.size
    )
}

/// Whether a TOML text sets `model.size`. A text that is not TOML was refused before.
fn gives_size(text: &str) -> bool {
    let table: Option<toml::Table> = text.parse().ok();
    table.is_some_and(|table| table.get("model").is_some_and(|model| model.get("size").is_some()))
}

/// The key of `key=value`.
pub fn key_of(assignment: &str) -> &str {
    assignment.split_once('=').map_or("", |(key, _)| key.trim())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} cannot be made an absolute path", path.display()))
}

fn path_as_text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| anyhow!("the path {} is not UTF-8, and run.toml can hold no other", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, with_default_command};
    use clap::Parser;

    /// A folder with the manifest of 64 px data that has no shards.
    fn data(size: u32) -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        crate::made_up::data_set(folder.path(), size)?;
        Ok(folder)
    }

    fn assemble(line: &str) -> Result<RunConfig> {
        let words = format!("launcher --run r {line}");
        let cli = Cli::try_parse_from(with_default_command(words.split_whitespace().map(Into::into)))?;
        let Command::Train(args) = cli.command else { bail!("not train") };
        let layout = crate::nodes::place::find(&args.place, args.nodes, args.gpus, None)?;
        new_run(&args, &layout).map(|(config, _)| config)
    }

    #[test]
    fn the_size_comes_from_the_data_unless_it_was_said() -> Result<()> {
        let folder = data(32)?;
        let at = folder.path().display();
        assert_eq!(assemble(&format!("--data {at}"))?.model.size, 32);
        for said in ["--preset paper-64", "--set model.size=64"] {
            let error = assemble(&format!("--data {at} {said}")).unwrap_err().to_string();
            assert!(error.contains("model.size is 64") && error.contains("32 pixels"), "{error}");
            assert!(error.contains("trainer prepare --size 64") && error.contains("--set model.size=32"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_file_is_laid_over_the_preset_and_set_over_the_file() -> Result<()> {
        let folder = data(32)?;
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "[run]\nsteps = 7\nbatch = 3\n[model]\nsize = 32\n")?;
        let (at, file) = (folder.path().display(), file.display());
        let config = assemble(&format!("--data {at} --preset paper-128 --config {file} --set run.batch=5"))?;
        assert_eq!((config.run.steps, config.run.batch, config.model.filters), (7, 5, 128));
        assert_eq!(config.model.size, 32);
        Ok(())
    }

    #[test]
    fn lanes_are_the_trainers_of_the_first_launch() -> Result<()> {
        let folder = data(32)?;
        let at = folder.path().display();
        assert_eq!(assemble(&format!("--data {at} --nodes 4 --gpus 8"))?.run.lanes, 32);
        assert_eq!(assemble(&format!("--data {at} --nodes 2 --gpus 1 --set run.lanes=8"))?.run.lanes, 8);
        let config = assemble(&format!("--data {at} --nodes 2:4 --gpus 2"))?;
        assert_eq!((config.run.lanes, config.run.min_trainers), (8, 4));
        let error = assemble(&format!("--data {at} --nodes 4 --gpus 3 --set run.lanes=8")).unwrap_err().to_string();
        assert!(error.contains("12 trainers") && error.contains("8 lanes"), "{error}");
        Ok(())
    }

    #[test]
    fn missing_data_is_an_error_that_says_how_to_make_it() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for line in [String::new(), format!("--data {}", folder.path().display())] {
            let error = assemble(&line).unwrap_err().to_string();
            assert!(error.contains("trainer prepare"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn the_path_of_the_data_is_made_absolute() -> Result<()> {
        let folder = data(32)?;
        let config = assemble(&format!("--data {}", folder.path().display()))?;
        assert!(Path::new(&config.data.path).is_absolute());
        let error = assemble("--data no/such/data").unwrap_err().to_string();
        assert!(error.contains("/no/such/data"), "{error}");
        Ok(())
    }

    #[test]
    fn habits_of_a_run_may_change_and_what_it_computes_may_not() -> Result<()> {
        let mut config = RunConfig::default();
        config.run.lanes = 4;
        let set = |assignment: &str| resumed(&config, &[assignment.to_owned()]);
        assert_eq!(set("run.steps=7")?.run.steps, 7);
        for habit in ["run.checkpoint_every=9", "run.keep_checkpoints=9", "run.heartbeat_timeout=60", "run.seed=1"] {
            set(habit)?;
        }
        for fixed in [
            "model.filters=9",
            "objective.gamma=0.7",
            "optimizer.rate=1",
            "run.lanes=8",
            "run.batch=2",
            "run.seed=2",
            "run.precision=f64",
            "run.reduce=fast",
            "data.flip=false",
        ] {
            let key = key_of(fixed).to_owned();
            let error = set(fixed).unwrap_err().to_string();
            assert!(error.contains(&key) && error.contains("decides what it computes"), "{error}");
        }
        assert!(set("run.steps=0").is_err() && set("run.stepz=1").is_err());
        Ok(())
    }

    #[test]
    fn other_data_is_refused_by_its_digest() -> Result<()> {
        let folder = data(64)?;
        let mut config = RunConfig::default();
        config.data.path = folder.path().display().to_string();
        let error = same_data(&config, &RunManifest::new(&config, "0000".into()), "--set data.path=DIR")
            .unwrap_err()
            .to_string();
        assert!(error.contains("0000") && error.contains("data.path"), "{error}");
        let found = Manifest::load(folder.path())?.digest;
        same_data(&config, &RunManifest::new(&config, found), "--set data.path=DIR")?;
        Ok(())
    }
}
