//! The directory of a run: its layout, its lock and who drives it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use began::{RunConfig, Step};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{Checkpoint, RecordError, RunManifest, checkpoint};

/// The directory of a run.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

/// Where a live coordinator is to be found: `coordinator.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// `host:port` of its gRPC face.
    pub address: String,
    /// Its process.
    pub pid: u32,
    /// Whether those who come have to prove who they are, over TLS.
    #[serde(default)]
    pub tls: bool,
    /// The folder that its credentials lie in, on its machine; others' may lie beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// The address of its page, for a browser, if it serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// The right to drive a run; given up when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: Flock<File>,
}

impl RunDir {
    /// Makes the directory of a new run, with `run.toml` and `manifest.json` in it.
    ///
    /// # Errors
    /// If something is there already (an empty folder is taken), or it cannot be written; nothing is left then.
    pub fn create(path: &Path, config: &RunConfig, manifest: &RunManifest) -> Result<Self, RecordError> {
        let was_there = path.exists();
        if was_there {
            let mut entries = fs::read_dir(path).map_err(RecordError::io("read", path))?;
            if entries.next().is_some() {
                return Err(Self::taken(path));
            }
        }
        let run = Self { path: path.into() };
        let written = run.lay_out(config, manifest);
        if written.is_err() {
            let _ = if was_there { run.empty() } else { fs::remove_dir_all(path) };
        }
        written.map(|()| run)
    }

    /// The error for a place that is taken: by a run, which can be resumed, or by something else.
    #[must_use]
    pub fn taken(path: &Path) -> RecordError {
        if Self::open(path).is_ok() { RecordError::Exists(path.into()) } else { RecordError::InTheWay(path.into()) }
    }

    fn lay_out(&self, config: &RunConfig, manifest: &RunManifest) -> Result<(), RecordError> {
        for folder in [self.checkpoint_folder(), self.samples(), self.tensorboard(), self.logs()] {
            fs::create_dir_all(&folder).map_err(RecordError::io("make the folder", folder))?;
        }
        self.write_manifest(manifest)?;
        self.write_config(config)
    }

    fn empty(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }

    /// The directory of a run that is there.
    ///
    /// # Errors
    /// If it is not there or not a run.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        for missing in ["run.toml", "manifest.json"] {
            if !path.join(missing).is_file() {
                return Err(RecordError::NotARun { path: path.into(), missing });
            }
        }
        Ok(Self { path: path.into() })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `logs/`.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// `samples/`.
    #[must_use]
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// `tensorboard/`.
    #[must_use]
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// `run.db`.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join("run.db")
    }

    /// `checkpoints/`.
    #[must_use]
    pub fn checkpoint_folder(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// A step's place in `checkpoints/` and `samples/`: `step-00001000`.
    #[must_use]
    pub fn step_name(step: Step) -> String {
        format!("step-{:08}", step.0)
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// If `run.toml` cannot be read or does not hold.
    pub fn config(&self) -> Result<RunConfig, RecordError> {
        let path = self.path.join("run.toml");
        let text = fs::read_to_string(&path).map_err(RecordError::io("read", &path))?;
        let config = RunConfig::default().overlay(&text, "run.toml");
        config.and_then(|c| c.validate().map(|()| c)).map_err(|error| RecordError::Config { path, error })
    }

    /// Replaces `run.toml`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_config(&self, config: &RunConfig) -> Result<(), RecordError> {
        let text = format!("# The configuration in force, every default written out.\n{}", config.to_toml());
        write_atomically(&self.path.join("run.toml"), text.as_bytes())
    }

    /// What ran on what.
    ///
    /// # Errors
    /// If `manifest.json` cannot be read.
    pub fn manifest(&self) -> Result<RunManifest, RecordError> {
        RunManifest::read(&self.path.join("manifest.json"))
    }

    /// Replaces `manifest.json`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_manifest(&self, manifest: &RunManifest) -> Result<(), RecordError> {
        manifest.write(&self.path.join("manifest.json"))
    }

    /// The whole checkpoints, oldest first. A checkpoint is whole once its folder has its final name and its `state.json`
    /// reads; whether its tensors are as they were written is not looked at ([`RunDir::survey_checkpoints`] does).
    ///
    /// # Errors
    /// If the folder cannot be read. If there are checkpoints and no `state.json` of theirs can be read: what is wrong with
    /// the newest, since a run that seems to have none would begin again.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, RecordError> {
        let mut whole = Vec::new();
        let mut torn = None;
        for (step, folder) in self.checkpoint_folders()? {
            match Checkpoint::read(&self.path, step, &folder) {
                Ok(checkpoint) => whole.push(checkpoint),
                Err(error) => torn = Some(error),
            }
        }
        match torn {
            Some(error) if whole.is_empty() => Err(error),
            _ => Ok(whole),
        }
    }

    /// Whatever has the name of a checkpoint, whole or not, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn checkpoint_folders(&self) -> Result<Vec<(Step, PathBuf)>, RecordError> {
        checkpoint::folders(&self.checkpoint_folder())
    }

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// As [`RunDir::checkpoints`].
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>, RecordError> {
        Ok(self.checkpoints()?.pop())
    }

    /// Removes all but the newest `keep` checkpoints and those at multiples of `keep_every`; returns the steps removed.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn prune_checkpoints(&self, keep: u32, keep_every: u64) -> Result<Vec<Step>, RecordError> {
        let all = self.checkpoints()?;
        let old = all.len().saturating_sub(keep.max(1) as usize);
        let mut removed = Vec::new();
        for checkpoint in &all[..old] {
            if keep_every > 0 && checkpoint.step.0.is_multiple_of(keep_every) {
                continue;
            }
            let path = self.path.join(&checkpoint.path);
            // Renamed first: a checkpoint that is half removed must not look whole.
            let doomed = path.with_file_name(format!(".removing-{}", Self::step_name(checkpoint.step)));
            fs::rename(&path, &doomed).map_err(RecordError::io("remove", &path))?;
            fs::remove_dir_all(&doomed).map_err(RecordError::io("remove", &doomed))?;
            removed.push(checkpoint.step);
        }
        Ok(removed)
    }

    /// Takes the right to drive the run.
    ///
    /// # Errors
    /// If another process has it, named as far as it is known.
    pub fn lock(&self) -> Result<RunLock, RecordError> {
        let path = self.path.join(".lock");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(RecordError::io("open", &path))?;
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let _ = file.set_len(0);
                let _ = std::io::Seek::rewind(&mut *file);
                let _ = write!(*file, "process {}", std::process::id());
                Ok(RunLock { _file: file })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RecordError::Locked {
                path: self.path.clone(),
                holder: if holder.is_empty() { "another process".into() } else { holder },
            }),
            Err((_, error)) => Err(RecordError::Io { what: "lock", path, error: error.into() }),
        }
    }

    /// Says where the coordinator is.
    ///
    /// # Errors
    /// If `coordinator.json` cannot be written.
    pub fn announce(&self, announcement: &Announcement) -> Result<(), RecordError> {
        let text = serde_json::to_vec(announcement).expect("plain fields have a JSON form");
        write_atomically(&self.path.join("coordinator.json"), &text)
    }

    /// Takes that back. That there is nothing to take back is not an error.
    pub fn retract(&self) {
        let _ = fs::remove_file(self.path.join("coordinator.json"));
    }

    /// Where the run's coordinator is, if one has said so and did not take it back. It may have died since.
    ///
    /// # Errors
    /// If the file is there but cannot be read.
    pub fn announcement(&self) -> Result<Option<Announcement>, RecordError> {
        let path = self.path.join("coordinator.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RecordError::Io { what: "read", path, error }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| RecordError::Damaged { path, reason: error.to_string() })
    }
}

/// Writes a file aside, syncs it and renames it into place.
///
/// # Errors
/// If any of that fails; the file aside is removed then.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".writing-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(RecordError::io("write", path))?;
    file.write_all(content).map_err(RecordError::io("write", path))?;
    file.as_file().sync_all().map_err(RecordError::io("sync", path))?;
    file.persist(path).map_err(|error| RecordError::Io {
        what: "rename into place",
        path: path.into(),
        error: error.error,
    })?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(RecordError::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> RunManifest {
        RunManifest::new(&RunConfig::default(), "data".into())
    }

    #[test]
    fn a_run_reads_back_what_it_was_made_with_and_is_not_made_twice() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a/run");
        let config = RunConfig::preset("demo")?;
        let run = RunDir::create(&path, &config, &manifest())?;
        assert_eq!(run.config()?, config);
        assert_eq!(RunDir::open(&path)?.manifest()?.data_digest, "data");
        let again = RunDir::create(&path, &config, &manifest()).unwrap_err().to_string();
        assert!(again.contains("launcher resume"), "{again}");
        assert!(RunDir::open(folder.path()).unwrap_err().to_string().contains("is not a run"));
        Ok(())
    }

    #[test]
    fn only_one_can_hold_a_run() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest())?;
        let held = run.lock()?;
        let refused = run.lock().unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        run.lock()?;
        Ok(())
    }
}
