//! `manifest.json`: what ran on what. The promise of equal bits is bound to what stands here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use began::RunConfig;
use serde::{Deserialize, Serialize};

use crate::{RecordError, write_atomically};

/// What a run is, and each launch of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunManifest {
    /// Version of this file's form.
    pub format: u32,
    /// The run's identity: every message on the wire carries it.
    pub run: String,
    /// Version of began that made it.
    pub began: String,
    /// Seconds since 1970.
    pub created: u64,
    /// `run.seed`.
    pub seed: u64,
    /// `run.lanes`.
    pub lanes: u32,
    /// Digest of the prepared data.
    pub data_digest: String,
    /// BLAKE3 over the keys that decide what the run computes.
    pub config_digest: String,
    /// Those keys, with their values.
    #[serde(default)]
    pub keys: BTreeMap<String, String>,
    /// Every time it was started, oldest first.
    #[serde(default)]
    pub launches: Vec<Launch>,
}

/// One start of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Seconds since 1970.
    pub time: u64,
    /// Nodes.
    pub nodes: u32,
    /// Trainers.
    pub world: u32,
    /// The step it went on from.
    pub from_step: u64,
    /// Each trainer, by rank.
    pub trainers: Vec<LaunchedTrainer>,
}

/// One trainer of a launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchedTrainer {
    /// Its rank.
    pub rank: u32,
    /// Its node.
    pub node: u32,
    /// The node's name.
    pub host: String,
    /// "cpu" or the GPU's name.
    pub device: String,
    /// Versions of trainer and libtorch.
    pub software: String,
}

impl RunManifest {
    /// The manifest of a new run; `config.run.lanes` must be settled.
    #[must_use]
    pub fn new(config: &RunConfig, data_digest: String) -> Self {
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let config_digest = computing_digest(config);
        let identity = format!("{config_digest} {data_digest} {} {}", created.as_nanos(), std::process::id());
        Self {
            format: 1,
            run: blake3::hash(identity.as_bytes()).to_hex()[..16].to_owned(),
            began: env!("CARGO_PKG_VERSION").into(),
            created: created.as_secs(),
            seed: config.run.seed,
            lanes: config.run.lanes,
            data_digest,
            config_digest,
            keys: config.keys().into_iter().filter(|(key, _)| computes(key)).collect(),
            launches: Vec::new(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// If the file cannot be read or is of another form.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = fs::read(path).map_err(RecordError::io("read", path))?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| RecordError::Damaged { path: path.into(), reason: error.to_string() })?;
        if manifest.format != 1 {
            let reason = format!("its format is {}, this version reads 1", manifest.format);
            return Err(RecordError::Damaged { path: path.into(), reason });
        }
        Ok(manifest)
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let text = serde_json::to_vec_pretty(self).expect("plain fields have a JSON form");
        write_atomically(path, &text)
    }
}

/// BLAKE3 over the keys that decide what a run computes, leaving out how long it runs, where its data lies and how often
/// it writes.
fn computing_digest(config: &RunConfig) -> String {
    let mut hash = blake3::Hasher::new();
    for (key, value) in config.keys() {
        if computes(&key) {
            hash.update(format!("{key}={value}\n").as_bytes());
        }
    }
    hash.finalize().to_hex().to_string()
}

impl RunManifest {
    /// The keys that decide what the run computes and are no longer what it began with: key, value then, value now. A key that
    /// came later than the run had its default then; defaults are what runs computed before there was a key.
    #[must_use]
    pub fn changed_keys(&self, config: &RunConfig) -> Vec<(String, String, String)> {
        if self.keys.is_empty() {
            return Vec::new();
        }
        let defaults: BTreeMap<String, String> = RunConfig::default().keys().into_iter().collect();
        let now = config.keys().into_iter().filter(|(key, _)| computes(key));
        now.filter_map(|(key, now)| {
            let was = self.keys.get(&key).or_else(|| defaults.get(&key))?;
            (*was != now).then(|| (key, was.clone(), now))
        })
        .collect()
    }

    /// Whether a configuration key decides what a run computes, rather than how long, where or how often it writes.
    #[must_use]
    pub fn key_computes(key: &str) -> bool {
        computes(key)
    }
}

fn computes(key: &str) -> bool {
    matches!(key, "run.lanes" | "run.batch" | "run.seed" | "run.precision" | "run.reduce" | "data.flip")
        || ["model.", "objective.", "optimizer.", "guard."].iter().any(|section| key.starts_with(section))
}
