//! What whole-run tests share: the programs, a small data set, and runs that clean up after themselves.
//!
//! A test names its own folder, uses ports that the programs choose, and ends only processes it started.

pub mod browser;
pub mod collector;
mod desk;
mod disturbed;
mod place;
pub mod pods;
mod slurm;
mod ssh_hosts;

pub use desk::Desk;
pub use disturbed::{Course, Disturbed, holds, undisturbed};
pub use place::{Mounted, Namespaces, is_root};
pub use slurm::Slurm;
pub use ssh_hosts::SshHosts;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long any one command of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// The smallest network, four lanes, on the CPU.
pub const SMALL: [&str; 10] = [
    "--device",
    "cpu",
    "--set",
    "run.lanes=4",
    "--set",
    "run.batch=3",
    "--set",
    "model.filters=4",
    "--set",
    "model.latent=6",
];

/// The folder with the programs under test, built if `make` did not say that they are.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("BEGAN_BINARIES") {
            return folder.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo).args(["build", "--workspace", "--bins", "--quiet"]).status();
        assert!(built.is_ok_and(|status| status.success()), "cargo build --workspace --bins failed");
        let test = std::env::current_exe().unwrap_or_default();
        // target/debug/deps/TEST
        test.ancestors().nth(2).unwrap_or(Path::new("target/debug")).into()
    })
}

/// A program under test. Its environment is this one's without anything that would change its settings.
pub fn program(name: &str) -> Command {
    undirected(Command::new(programs().join(name)))
}

/// A command whose environment is this one's without anything that would change the settings of a program under test.
pub(crate) fn undirected(mut command: Command) -> Command {
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("BEGAN_") || name.starts_with("OTEL_") {
            command.env_remove(key);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, within [`PATIENCE`].
///
/// # Errors
/// If it cannot be started or does not end.
pub fn finish(mut command: Command) -> Result<Output> {
    let shown = format!("{command:?}");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| shown.clone())?;
    Running(Some(child)).finish().with_context(|| shown)
}

/// Runs `launcher` or `trainer` with arguments, expects success, and gives its standard output.
///
/// # Errors
/// If it fails; the error shows both outputs.
pub fn succeed<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = program(name);
    command.args(args);
    let shown = format!("{command:?}");
    let output = finish(command)?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{shown} ended with {}\n{out}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(out)
}

/// Runs a program that must fail, and gives its exit code and everything it said.
///
/// # Errors
/// If it succeeds, panics, or is killed by a signal.
pub fn fail<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Result<(i32, String)> {
    let mut command = program(name);
    command.args(args);
    let shown = format!("{command:?}");
    let output = finish(command)?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code().with_context(|| format!("{shown} ended with {}\n{said}", output.status))?;
    ensure!(code != 0, "{shown} succeeded\n{said}");
    ensure!(!said.contains("panicked at"), "{shown} panicked\n{said}");
    Ok((code, said))
}

/// A process that is ended when the test is done with it.
pub struct Running(Option<Child>);

impl Running {
    /// Starts a command with its output kept.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let shown = format!("{command:?}");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| shown)?;
        Ok(Self(Some(child)))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.as_ref().map_or(0, |child| child.id() as i32))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Waits for its end, within [`PATIENCE`].
    ///
    /// # Errors
    /// If it does not end; it is killed then.
    pub fn finish(mut self) -> Result<Output> {
        let child = self.0.take().context("it was waited for already")?;
        let pid = Pid::from_raw(child.id() as i32);
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(child.wait_with_output()));
        match receive.recv_timeout(PATIENCE) {
            Ok(output) => Ok(output?),
            Err(_) => {
                let _ = kill(pid, Signal::SIGKILL);
                bail!("process {pid} did not end within {} s", PATIENCE.as_secs())
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits, within 40 s, until `ready` gives something.
///
/// # Errors
/// If it does not.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(40) {
        if let Some(found) = ready() {
            return Ok(found);
        }
        sleep(Duration::from_millis(20));
    }
    bail!("waited 40 s for {what}")
}

/// Both outputs of a process.
#[must_use]
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
