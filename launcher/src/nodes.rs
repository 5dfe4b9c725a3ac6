//! Where the nodes of a run are, and how a program of ours is started on one of them.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`local`], [`ssh`], [`slurm`] | the backends: the trait [`Backend`] for each kind of place |
//! | [`hosts`] | the hosts that people write down |
//! | [`place`] | which backend it is to be, why, and how many nodes it has |
//! | [`probe`], [`survey`], [`links`] | what a node says of itself, what is made of it, and the network between nodes |
//! | [`submit`] | a run as a job of SLURM |
//! | [`check`] | `launcher check`: all of that without a run |
//!
//! A backend only says how to start; processes are watched and ended by [`crate::launch`] over their pipes, the same way
//! wherever they are: what is started on a node must end when its stdin closes, because killing the client of a connection
//! leaves what runs at its other end alone.

use std::ffi::OsString;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;

use crate::child::Exit;

pub mod check;
pub mod hosts;
pub mod links;
pub mod local;
pub mod place;
pub mod probe;
pub mod slurm;
pub mod ssh;
pub mod submit;
pub mod survey;

/// A program of ours to be started on a node: the launcher with these arguments.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The launcher's arguments.
    pub arguments: Vec<OsString>,
    /// More in its environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// How programs are started on the nodes.
pub trait Backend: Debug {
    /// "on this machine", "over ssh".
    fn name(&self) -> &'static str;

    /// The host of a node, as people call it.
    fn host(&self, node: u32) -> &str;

    /// A command of this machine whose stdin, stdout and stderr are those of the program on the node, and that ends when
    /// the program does.
    ///
    /// # Errors
    /// If there is no such node, or our own program cannot be named.
    fn command(&self, node: u32, start: &Start) -> Result<Command>;

    /// Whether signals to that command do not reach the program, so that it must be told over its stdin.
    fn is_remote(&self) -> bool;

    /// Whether someone other than the launcher signals every process that it starts there.
    fn signals_everyone(&self) -> bool {
        false
    }

    /// Leaves out all nodes but these, which are counted from 0 then.
    fn keep(&mut self, nodes: &[u32]);

    /// What it means that the command for a node ended like this, if more than that.
    fn meaning(&self, node: u32, exit: Exit) -> Option<String>;
}

/// The nodes of a launch.
#[derive(Debug)]
pub struct Nodes {
    /// How they are reached.
    pub backend: Box<dyn Backend>,
    /// Where the coordinator listens for them; nothing: on this machine only.
    pub address: Option<IpAddr>,
    /// The network interface whose address trainers tell each other, if one was named.
    pub interface: Option<String>,
    /// Whether all trainers of a node share its first GPU.
    pub share_gpu: bool,
    /// A node and the launcher that do not hear of each other for this long give each other up.
    pub lost_after: Duration,
}

impl Nodes {
    /// All on this machine.
    #[must_use]
    pub fn here() -> Self {
        Self {
            backend: Box::new(local::Local),
            address: None,
            interface: None,
            share_gpu: false,
            lost_after: Duration::MAX,
        }
    }

    /// Where a first coordinator is to listen. This is the one place that decides it.
    #[must_use]
    pub fn listen(&self) -> String {
        match self.address {
            None => "127.0.0.1:0".into(),
            Some(IpAddr::V4(address)) => format!("{address}:0"),
            Some(IpAddr::V6(address)) => format!("[{address}]:0"),
        }
    }
}
