//! All nodes on this machine: what is started on one is a child process.

use anyhow::Result;
use tokio::process::Command;

use super::{Backend, Start};
use crate::binaries;
use crate::child::Exit;

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct Local;

impl Backend for Local {
    fn name(&self) -> &'static str {
        "on this machine"
    }

    fn host(&self, _: u32) -> &str {
        "this machine"
    }

    fn command(&self, _: u32, start: &Start) -> Result<Command> {
        let mut command = Command::new(binaries::own()?);
        command.args(&start.arguments).envs(start.environment.iter().cloned());
        Ok(command)
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn keep(&mut self, _: &[u32]) {}

    fn meaning(&self, _: u32, _: Exit) -> Option<String> {
        None
    }
}
