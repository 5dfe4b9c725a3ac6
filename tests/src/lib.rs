//! What whole-run tests share: the programs, a small data set, and runs that clean up after themselves.
//!
//! A test names its own folder, uses ports that the programs choose, and ends only processes it started.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use began_record::RunDir;
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
    let mut command = Command::new(programs().join(name));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("BEGAN_") {
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

/// A folder with a small data set of made-up faces, 16 px.
pub struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// Prepares the data.
    ///
    /// # Errors
    /// If it cannot be prepared.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        began_data::prepare::prepare(&began_data::prepare::Options {
            source: "synthetic:faces".into(),
            out: folder.path().join("data"),
            size: 16,
            count: 120,
            seed: 3,
            samples_per_shard: 25,
            quiet: true,
            ..Default::default()
        })?;
        Ok(Self { folder })
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder, as an argument.
    #[must_use]
    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Arguments of a small training of four lanes into the run `name`.
    #[must_use]
    pub fn training(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> =
            ["--nodes", &nodes.to_string(), "--gpus", &gpus.to_string()].map(String::from).to_vec();
        args.extend(SMALL.map(String::from));
        args.extend(["--data", &self.arg("data"), "--run", &self.arg(name)].map(String::from));
        args.extend(["--set".to_owned(), format!("run.steps={steps}")]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args
    }

    /// Trains to the end, and gives the digest line.
    ///
    /// # Errors
    /// If the run fails.
    pub fn train(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Result<String> {
        succeed("launcher", self.training(name, nodes, gpus, steps, more))?;
        self.digest(name)
    }

    /// What `launcher digest` says of a run.
    ///
    /// # Errors
    /// If it says nothing.
    pub fn digest(&self, name: &str) -> Result<String> {
        succeed("launcher", ["digest", &self.arg(name)])
    }

    /// Starts a training without waiting for its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, name: &str, nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Result<Running> {
        let mut command = program("launcher");
        command.args(self.training(name, nodes, gpus, steps, more));
        Running::start(command)
    }

    /// Waits until a run has `step` steps behind it.
    ///
    /// # Errors
    /// If it does not get there in time.
    pub fn reach(&self, name: &str, step: usize) -> Result<()> {
        let path = self.path(name);
        wait_for(&format!("step {step} of {name}"), || {
            let journal = RunDir::open(&path).and_then(|run| began_record::Journal::read(&run)).ok()?;
            (journal.steps().ok()?.len() >= step).then_some(())
        })
    }

    /// The processes that work on a run, by a word of their command lines: "trainer", "coordinator", "agent".
    #[must_use]
    pub fn processes(&self, name: &str, word: &str) -> Vec<Pid> {
        let run = self.arg(name);
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut found: Vec<i32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let args: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
                args.iter().any(|arg| *arg == run) && args.iter().take(2).any(|arg| arg.ends_with(word))
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(Pid::from_raw).collect()
    }

    /// Waits until nothing works on a run any more.
    ///
    /// # Errors
    /// If something still does.
    pub fn nothing_left(&self, name: &str) -> Result<()> {
        wait_for("every process of the run to end", || {
            ["trainer", "coordinator", "agent"].iter().all(|word| self.processes(name, word).is_empty()).then_some(())
        })
    }
}

/// Waits, within half a minute, until `ready` gives something.
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
