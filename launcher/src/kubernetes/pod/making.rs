//! The run's folder in a pod: made from the configuration that the manifests carry, or gone on with.
//!
//! A pod may be killed at any moment: a folder is there whole or not at all. What an earlier pod made stays what it is:
//! a configuration that would make it another run is refused by key.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use began::RunConfig;
use began_data::Manifest;
use began_record::{RunDir, RunManifest};

use crate::configure::{self, Shape};
use crate::train::is_taken;

/// Reads the configuration that a manifest carries, and checks it against itself and the launch.
///
/// # Errors
/// If it cannot be read or does not hold.
pub fn configuration(file: &Path, shape: Shape) -> Result<RunConfig> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read --config {}", file.display()))?;
    let mut config = RunConfig::default().overlay(&text, &file.display().to_string())?;
    if config.run.lanes == 0 {
        config.run.lanes = shape.world();
    }
    config.validate()?;
    shape.fits(config.run.lanes)?;
    Ok(config)
}

/// The run, made if it is not there; what to say of it.
///
/// # Errors
/// If it cannot be made, or is another run than the one that is wanted; it is left as it was.
pub fn run(path: &Path, config: &RunConfig) -> Result<(RunDir, String)> {
    if let Ok(run) = RunDir::open(path) {
        return gone_on_with(run, config);
    }
    if is_taken(path) {
        return Err(RunDir::taken(path).into());
    }
    let data = Manifest::load(Path::new(&config.data.path))?;
    configure::fits_data(config, &data)?;
    let aside = aside(path)?;
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    }
    RunDir::create(&aside, config, &RunManifest::new(config, data.digest))?;
    fs::rename(&aside, path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok((RunDir::open(path)?, format!("new run {}", path.display())))
}

fn gone_on_with(run: RunDir, config: &RunConfig) -> Result<(RunDir, String)> {
    let manifest = run.manifest()?;
    configure::still_the_same(config, &manifest).with_context(|| {
        format!("{} is there and is another run than these manifests'; give them another --name", run.path().display())
    })?;
    configure::same_data(config, &manifest, "--data")?;
    let mut said = format!("going on with {}", run.path().display());
    if run.config()? != *config {
        let before = run.config()?.keys();
        let changed = before.iter().zip(config.keys()).filter(|((_, was), (_, now))| was != now);
        let changed: Vec<String> = changed.map(|((key, was), (_, now))| format!("{key} = {now} (was {was})")).collect();
        run.write_config(config)?;
        said = format!("{said}, with {}", changed.join(", "));
    }
    Ok((run, said))
}

/// Beside the run, on the same file system.
fn aside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
    Ok(path.with_file_name(format!(".making-{}", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn a_run_is_made_once_and_gone_on_with_as_often_as_need_be() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (data, path) = (folder.path().join("data"), folder.path().join("runs/one"));
        fs::create_dir(&data)?;
        made_up::data_set(&data, 32)?;
        let mut config = RunConfig::preset("demo")?;
        config.run.lanes = 2;
        config.data.path = data.display().to_string();
        // One that died while it made the run.
        fs::create_dir_all(folder.path().join("runs/.making-one/logs"))?;

        assert!(run(&path, &config)?.1.starts_with("new run"));
        let identity = RunDir::open(&path)?.manifest()?.run;
        config.run.steps += 1;
        let said = run(&path, &config)?.1;
        assert!(said.contains("going on") && said.contains("run.steps = 3001 (was 3000)"), "{said}");
        assert_eq!(RunDir::open(&path)?.config()?.run.steps, 3001);

        config.run.seed += 1;
        let error = format!("{:#}", run(&path, &config).map(|(_, said)| said).expect_err("another run"));
        assert!(error.contains("run.seed") && error.contains("--name"), "{error}");
        config.run.seed -= 1;
        made_up::data_set(&data, 64)?;
        assert!(run(&path, &config).is_err());
        assert_eq!(RunDir::open(&path)?.manifest()?.run, identity);
        Ok(())
    }

    #[test]
    fn data_of_another_size_and_a_folder_in_the_way_are_refused_and_nothing_is_left() -> Result<()> {
        let folder = tempfile::tempdir()?;
        made_up::data_set(folder.path(), 64)?;
        let mut config = RunConfig::preset("demo")?;
        config.data.path = folder.path().display().to_string();
        config.run.lanes = 1;
        let path = folder.path().join("run");
        let error = run(&path, &config).map(|(_, said)| said).expect_err("64 px").to_string();
        assert!(error.contains("model.size is 32"), "{error}");
        assert!(!path.exists());
        fs::create_dir(&path)?;
        fs::write(path.join("letter"), "dear")?;
        assert!(run(&path, &config).is_err() && path.join("letter").exists());
        Ok(())
    }
}
