//! A coordinator process of the bench's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use began::RunConfig;
use began_credentials::Client;
use began_data::Manifest;
use began_proto::v1 as wire;
use began_record::{RunDir, RunManifest};

use crate::device;
use crate::session::Session;

/// The process; it ends with this.
pub struct Coordinator {
    child: Child,
    address: String,
}

impl Coordinator {
    /// Starts it over a run directory of its own.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(run: &Path, config: &RunConfig, data: &Manifest) -> Result<Self> {
        RunDir::create(run, config, &RunManifest::new(config, data.digest.clone()))?;
        let beside = std::env::current_exe()?.with_file_name("coordinator");
        let program = std::env::var_os("BEGAN_COORDINATOR").map_or(beside, Into::into);
        let mut child = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--world", "1", "--supervised", "--run"])
            .arg(run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}; --no-coordinator does without", program.display()))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(address) = said["listening"].as_str() else {
            let _ = child.kill();
            bail!("{} did not say where it listens: {line:?}", program.display());
        };
        Ok(Self { child, address: address.to_owned() })
    }

    /// A trainer's session with it.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn session(&self, device: &str) -> Result<Session> {
        let hello = wire::Hello {
            version: began_proto::VERSION,
            trainer: format!("bench-{}", std::process::id()),
            host: device::host_name(),
            pid: std::process::id(),
            device: device.into(),
            software: device::software(),
            ..wire::Hello::default()
        };
        Session::open(&self.address, Client::plain(), None, hello, Duration::from_secs(30))
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
