//! The trainer's commands, one file each.

pub mod bench;
pub mod conform;
pub mod describe;
pub mod evaluate;
pub mod export;
pub mod features;
pub mod interpolate;
pub mod invert;
pub mod model;
pub mod prepare;
pub mod run;
pub mod sample;

use std::path::PathBuf;

use anyhow::{Context, Result};
use began::RunConfig;

/// How a command is told a configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// A named configuration: demo, paper-64, paper-128, paper-256.
    #[arg(long)]
    pub preset: Option<String>,
    /// A configuration file, laid over the preset.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// One key, laid over both, as in `--set model.size=64`; as often as needed.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// The configuration these name.
    ///
    /// # Errors
    /// If a file, a key or a value is wrong; each is named.
    pub fn resolve(&self) -> Result<RunConfig> {
        let mut config = match &self.preset {
            Some(name) => RunConfig::preset(name)?,
            None => RunConfig::default(),
        };
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            config = config.overlay(&text, &path.display().to_string())?;
        }
        for assignment in &self.set {
            config = config.set(assignment)?;
        }
        config.validate()?;
        Ok(config)
    }
}
