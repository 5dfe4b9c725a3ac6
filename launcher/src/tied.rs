//! A program tied to its parent: the kernel kills it when the parent ends, however that ends.
//!
//! The program never has to know; it is started through `launcher tied PARENT PROGRAM ...`, which becomes it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use tokio::process::Command;

/// A command that becomes `program`, tied to us.
///
/// # Errors
/// If our own program cannot be named.
pub fn command(program: &Path) -> Result<Command> {
    tied(program, false)
}

/// As [`command`], and TERM and INT do not get to it.
///
/// # Errors
/// If our own program cannot be named.
pub fn deaf(program: &Path) -> Result<Command> {
    tied(program, true)
}

fn tied(program: &Path, deaf: bool) -> Result<Command> {
    let mut command = Command::new(crate::binaries::own()?);
    command.arg("tied").args(deaf.then_some("--deaf")).arg(std::process::id().to_string()).arg(program);
    Ok(command)
}

/// Becomes `program`, which the kernel kills when the process `parent` ends.
///
/// # Errors
/// If the parent is gone already, or the program cannot be started; otherwise it does not return.
pub fn become_tied(parent: i32, program: &[OsString], deaf: bool) -> Result<Infallible> {
    let (name, arguments) = program.split_first().context("no program was named")?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot be tied to the parent")?;
    // Had it died before the line above, no signal would come.
    if nix::unistd::getppid().as_raw() != parent {
        bail!("process {parent}, which {} belongs to, is gone", name.display());
    }
    if deaf {
        // What is blocked stays so in the program that this becomes.
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        signals.thread_block().context("cannot block signals")?;
    }
    let error = std::process::Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", name.display()))
}
