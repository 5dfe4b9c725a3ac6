//! A coordinator of the bench's own, over a run of made-up data; it ends with this.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender};

use anyhow::{Context, Result};
use began::RunConfig;
use began_data::manifest::{SkippedCounts, SourceDescription};
use began_data::prepare::{Crop, Split};
use began_data::{DataError, Manifest, ShardEntry};
use began_record::{RunDir, RunManifest};

/// See the module.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: String,
    /// `HOST:PORT` of its page, if it serves one.
    pub(crate) page: Option<String>,
    _folder: tempfile::TempDir,
}

impl Program {
    /// Starts one for a world of so many trainers; with a page, if that is told where to listen.
    fn start(Wanted { trainers, steps, heartbeat, http, .. }: &Wanted) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("made-up-").tempdir()?;
        let digest = made_up_data(folder.path())?;
        let mut config = RunConfig::default();
        config.model.size = 16;
        config.data.path = folder.path().display().to_string();
        config.run.lanes = *trainers;
        config.run.steps = *steps;
        config.run.heartbeat_timeout = *heartbeat;
        (config.run.checkpoint_every, config.run.sample_every, config.run.digest_every) = (0, 0, 0);
        let run = folder.path().join("run");
        RunDir::create(&run, &config, &RunManifest::new(&config, digest))?;
        let beside = std::env::current_exe()?.with_file_name("coordinator");
        let program = std::env::var_os("BEGAN_COORDINATOR").map_or(beside, Into::into);
        let mut command = Command::new(&program);
        if let Some(http) = http {
            command.args(["--http", http]);
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--world", &trainers.to_string(), "--supervised", "--run"])
            .arg(&run)
            .env("BEGAN_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let address = said["listening"].as_str().context("the coordinator did not say where it listens")?.to_owned();
        let page = said["http"].as_str().and_then(|url| url.strip_prefix("http://"));
        let page = page.map(|page| page.trim_end_matches('/').to_owned());
        Ok(Self { child, address, page, _folder: folder })
    }

    /// Processor time so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?.1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / 100.0)
    }

    /// Resident memory.
    pub(crate) fn megabytes(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts coordinators from a thread of another priority than the one that asks for them.
pub(crate) struct Starter(Sender<Wanted>);

/// A coordinator that somebody wants.
pub(crate) struct Wanted {
    trainers: u32,
    steps: u64,
    heartbeat: f64,
    http: Option<String>,
    reply: Sender<Result<Program>>,
}

impl Starter {
    pub(crate) fn new() -> (Self, Receiver<Wanted>) {
        let (sender, wanted) = std::sync::mpsc::channel();
        (Self(sender), wanted)
    }

    /// See [`Program::start`].
    pub(crate) fn start(&self, trainers: u32, steps: u64, heartbeat: f64, http: Option<&str>) -> Result<Program> {
        let (reply, started) = std::sync::mpsc::channel();
        let http = http.map(str::to_owned);
        self.0.send(Wanted { trainers, steps, heartbeat, http, reply }).context("nobody starts coordinators")?;
        started.recv().context("nobody starts coordinators")?
    }

    /// Starts what is wanted, until nobody is left who could want something.
    pub(crate) fn serve(wanted: &Receiver<Wanted>) {
        for one in wanted {
            let _ = one.reply.send(Program::start(&one));
        }
    }
}

/// The manifest of a data set of about CelebA's size, which is all that the coordinator looks at; its digest.
fn made_up_data(folder: &Path) -> Result<String> {
    let shards =
        (0..200).map(|n| ShardEntry { file: format!("shard-{n:05}.safetensors"), samples: 1000, blake3: "aa".into() });
    let mut manifest = Manifest {
        format: 1,
        size: 16,
        channels: 3,
        samples: 200_000,
        shards: shards.collect(),
        digest: String::new(),
        source: SourceDescription { kind: "folder".into(), crop: Crop::Center, split: Split::All, seed: 0, count: 0 },
        skipped: SkippedCounts::default(),
    };
    let path = folder.join("manifest.json");
    std::fs::write(&path, serde_json::to_vec(&manifest)?)?;
    // The loader itself says what the digest should be.
    if let Err(DataError::Digest { found, .. }) = Manifest::load(folder) {
        manifest.digest = found;
    }
    std::fs::write(&path, serde_json::to_vec(&manifest)?)?;
    Ok(manifest.digest)
}
