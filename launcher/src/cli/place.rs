//! Flags about where the nodes are and how they are reached, and the numbers of nodes that may be asked for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::durations::seconds;

/// `--on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// What fits the surroundings
    Auto,
    /// All nodes on this machine
    Local,
    /// On the hosts of --hosts, over ssh
    Ssh,
    /// Inside a SLURM allocation, or submitted to SLURM with --submit
    Slurm,
}

/// How many nodes: a number, or the least and the most, as in `2:4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCount {
    /// With fewer the run waits, and in the end fails.
    pub least: u32,
    /// More are not used.
    pub most: u32,
}

impl NodeCount {
    /// Exactly so many.
    #[must_use]
    pub fn exactly(count: u32) -> Self {
        Self { least: count, most: count }
    }

    /// Whether fewer than the most will do.
    #[must_use]
    pub fn is_elastic(self) -> bool {
        self.least < self.most
    }
}

/// Reads `4` or `2:4`.
///
/// # Errors
/// If it is neither, or not between 1 and 65536.
pub fn node_count(text: &str) -> Result<NodeCount, String> {
    let number = |text: &str| match text.parse::<u32>() {
        Ok(count @ 1..=65536) => Ok(count),
        Ok(_) => Err(format!("{text} is not in 1..=65536")),
        Err(_) => Err(format!("{text:?} is no number of nodes, as in 4, nor a range, as in 2:4")),
    };
    let count = match text.split_once(':') {
        None => NodeCount::exactly(number(text)?),
        Some((least, most)) => NodeCount { least: number(least)?, most: number(most)? },
    };
    if count.least > count.most {
        return Err(format!("{text}: at least {} and at most {} nodes cannot be", count.least, count.most));
    }
    Ok(count)
}

/// Where the nodes are.
#[derive(Args, Clone, Debug)]
pub struct PlaceArgs {
    /// How the nodes are reached
    #[arg(long, value_enum, default_value_t = Place::Auto, env = "BEGAN_ON")]
    pub on: Place,
    /// The hosts to reach over ssh: `host1,user@host2:2222:slots=8`, or a file with a line `host slots=8` each
    #[arg(long, env = "BEGAN_HOSTS", value_name = "HOSTS|FILE")]
    pub hosts: Option<String>,
    /// An argument for ssh, as in --ssh-args "-i key"; split at blanks
    #[arg(long, env = "BEGAN_SSH_ARGS", value_name = "ARGS", allow_hyphen_values = true)]
    pub ssh_args: Vec<String>,
    /// This machine's address at which the nodes reach the coordinator; found out from the nodes if not given
    #[arg(long, env = "BEGAN_ADDRESS", value_name = "IP")]
    pub address: Option<std::net::IpAddr>,
    /// The network interface whose address each trainer tells the others; the one on the way to the coordinator if not
    /// given
    #[arg(long, env = "BEGAN_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// The launcher's program on the nodes, if it lies elsewhere there than here
    #[arg(long, env = "BEGAN_NODE_LAUNCHER", value_name = "PATH")]
    pub node_launcher: Option<PathBuf>,
    /// A variable for the nodes' environment over ssh: NAME=VALUE, or NAME to pass on this one's value
    #[arg(long = "env", env = "BEGAN_ENV", value_name = "NAME[=VALUE]", value_delimiter = ';')]
    pub environment: Vec<OsString>,
    /// All trainers of a node compute on its first GPU: for tests, slow
    #[arg(long, env = "BEGAN_SHARE_GPU")]
    pub share_gpu: bool,
    /// Do not look at the nodes before the start
    #[arg(long, env = "BEGAN_NO_CHECK")]
    pub no_check: bool,
    /// Seconds without a word after which a node and the launcher give each other up
    #[arg(long, default_value = "30", value_parser = seconds, env = "BEGAN_LOST_AFTER", value_name = "SECONDS")]
    pub lost_after: Duration,
}

impl PlaceArgs {
    /// As words of a command line that say the same.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let on = self.on.to_possible_value().map(|on| on.get_name().to_owned()).unwrap_or_default();
        let mut words: Vec<OsString> = vec!["--on".into(), on.into()];
        let mut say = |flag: &str, value: Option<OsString>| {
            words.extend(value.into_iter().map(|value| {
                // In one word: a value may begin with a dash.
                let mut word = OsString::from(flag);
                word.push("=");
                word.push(value);
                word
            }));
        };
        say("--hosts", self.hosts.as_ref().map(Into::into));
        self.ssh_args.iter().for_each(|words| say("--ssh-args", Some(words.into())));
        say("--address", self.address.map(|address| address.to_string().into()));
        say("--interface", self.interface.as_ref().map(Into::into));
        say("--node-launcher", self.node_launcher.as_ref().map(Into::into));
        self.environment.iter().for_each(|word| say("--env", Some(word.into())));
        say("--lost-after", Some(self.lost_after.as_secs_f64().to_string().into()));
        words.extend(self.share_gpu.then(|| "--share-gpu".into()));
        words.extend(self.no_check.then(|| "--no-check".into()));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_a_number_or_a_range() {
        assert_eq!(node_count("4"), Ok(NodeCount { least: 4, most: 4 }));
        assert_eq!(node_count("2:4"), Ok(NodeCount { least: 2, most: 4 }));
        for (wrong, words) in [
            ("0", "1..=65536"),
            ("4:2", "cannot be"),
            ("2:", "number of nodes"),
            ("many", "many"),
            ("0:3", "1..=65536"),
        ] {
            let error = node_count(wrong).expect_err(wrong);
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
