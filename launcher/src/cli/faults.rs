//! Flags of `chaos`, and the faults there are.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::durations::duration;

/// Flags of `chaos`.
#[derive(Args, Clone, Debug)]
pub struct ChaosArgs {
    /// The run's folder
    pub run: PathBuf,
    /// Between two faults; each pause is drawn from half of it to one and a half
    #[arg(long, default_value = "20s", value_parser = duration, env = "BEGAN_CHAOS_EVERY", value_name = "DURATION")]
    pub every: Duration,
    /// Which faults to draw from
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        required = true,
        env = "BEGAN_CHAOS_FAULTS",
        value_name = "FAULT,..."
    )]
    pub faults: Vec<Fault>,
    /// For how long; to the end of the run if neither this nor --count is given
    #[arg(long = "for", value_parser = duration, env = "BEGAN_CHAOS_FOR", value_name = "DURATION")]
    pub lasting: Option<Duration>,
    /// How many faults
    #[arg(long, conflicts_with = "lasting", env = "BEGAN_CHAOS_COUNT", value_name = "N")]
    pub count: Option<u32>,
    /// What pauses and faults are drawn from
    #[arg(long, default_value_t = 1, env = "BEGAN_CHAOS_SEED")]
    pub seed: u64,
    /// How long a stopped trainer stays stopped, a network cut and a disk full
    #[arg(long, default_value = "8s", value_parser = duration, env = "BEGAN_CHAOS_STOP_FOR", value_name = "DURATION")]
    pub stop_for: Duration,
}

/// Something that goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Kill a trainer
    Kill,
    /// Kill two trainers at once
    Two,
    /// Stop a trainer (SIGSTOP) for --stop-for
    Stop,
    /// Drop everything on a trainer's connections for --stop-for; needs root and iptables
    Partition,
    /// Kill the coordinator
    Coordinator,
    /// Kill an agent, and with it its trainers
    Agent,
    /// Fill the file system of the run for --stop-for, if it is a small one of its own
    Disk,
}

impl Fault {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Two => "two",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
            Self::Disk => "disk",
        }
    }
}
