//! The command line: which commands there are, their flags and what each defaults to.
//!
//! It only parses. What a flag may be together with another is decided by the command that uses it, so that the
//! error can name both values.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use began_credentials::{Arguments, Mode, Role};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod campaign;
mod diagnosis;
mod durations;
mod faults;
mod kubernetes;
mod place;

pub use campaign::CampaignArgs;
pub use diagnosis::{CompareArgs, DiagnoseArgs};
use durations::seconds;
pub use faults::{ChaosArgs, Fault};
pub use kubernetes::{Access, CoordinateArgs, Keys, KubernetesArgs, Monitoring, PodDevice};
pub use place::{NodeCount, Place, PlaceArgs, node_count};

/// The launcher's command line.
#[derive(Debug, Parser)]
#[command(
    name = "launcher",
    version,
    about = "Starts a distributed training of BEGAN, watches over it, and answers for what became of it",
    long_about = "Starts a distributed training of BEGAN, watches over it, and answers for what became of it.\n\n\
                  `train` need not be said: launcher --nodes 1 --gpus 2 --data faces --run runs/first\n\n\
                  Exit codes: 0 the run ended as it should (also after SIGTERM, with a checkpoint written); 1 it failed; \
                  2 the command line or the configuration is wrong, or two runs cannot be compared or computed again; \
                  130 it was stopped by Ctrl-C; 143 it was killed by a second SIGTERM.",
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a new run (the default)
    Train(TrainArgs),
    /// Go on with a run from its last checkpoint
    Resume(ResumeArgs),
    /// Print `STEP HEX` of the last digest of a run
    Digest {
        /// The run's folder
        run: PathBuf,
    },
    /// Whether two runs are the same run, and where they part if not
    Verify {
        /// The one run's folder
        run: PathBuf,
        /// The other's
        other: PathBuf,
    },
    /// Compute a run again into a new folder, and compare the two step by step
    Reproduce(ReproduceArgs),
    /// Which samples a run drew: whether every one came exactly once an epoch, through everything that happened to it
    Ledger {
        /// The run's folder
        run: PathBuf,
        /// Where the run's data lies now, if elsewhere than run.toml says
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// What happened to a run's equilibrium, in words: whether it collapsed, what went wrong, what to try
    Diagnose(DiagnoseArgs),
    /// Several runs side by side: what they were told, how they went, how they came out
    Compare(CompareArgs),
    /// One run on several shapes, with and without faults, and a table of the digests
    Campaign(CampaignArgs),
    /// Look at the nodes as before a run, and start none
    Check(CheckArgs),
    /// Make things go wrong in a running run on this machine, to see it heal
    Chaos(ChaosArgs),
    /// Where a run stands
    Status {
        /// The run's folder, or the address of its coordinator
        run: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Who asks.
        #[command(flatten)]
        credentials: Arguments,
    },
    /// A run in this terminal while it goes on: curves, trainers, events
    Top(TopArgs),
    /// The address of a run's page, with the key that opens it
    Page(PageArgs),
    /// Ask a run to finish its step, write a checkpoint and end
    Stop {
        /// The run's folder
        run: PathBuf,
        /// Seconds to wait for the end
        #[arg(long, default_value = "60", value_parser = seconds, env = "BEGAN_WAIT", value_name = "SECONDS")]
        wait: Duration,
        /// Who asks.
        #[command(flatten)]
        credentials: Arguments,
    },
    /// Print the manifests of a run on Kubernetes
    Kubernetes(Box<KubernetesArgs>),
    /// Make a run, or go on with it, and keep its coordinator (a pod starts this)
    #[command(hide = true)]
    Coordinate(CoordinateArgs),
    /// Start and watch the trainers of one node (the launcher starts this)
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Say what is on a node (the launcher starts this)
    #[command(hide = true)]
    Probe,
    /// Become another program that ends with its parent (the agent starts this)
    #[command(hide = true)]
    Tied {
        /// Withstand TERM and INT
        #[arg(long)]
        deaf: bool,
        /// The parent's process
        parent: i32,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
}

/// Flags of `train`.
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    /// Nodes, or the least and the most of them, as in 2:4; as many as there are hosts if not given, or 1
    #[arg(long, value_parser = node_count, env = "BEGAN_NODES", value_name = "N|N:M")]
    pub nodes: Option<NodeCount>,
    /// Trainers on each node, one a device; as many as the hosts have slots if not given, or 1
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), env = "BEGAN_GPUS", value_name = "N")]
    pub gpus: Option<u32>,
    /// The prepared data set
    #[arg(long, env = "BEGAN_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The folder of the new run
    #[arg(long, env = "BEGAN_RUN", value_name = "RUN")]
    pub run: PathBuf,
    /// The configuration to start from: demo, paper-64, paper-128, paper-256
    #[arg(long, env = "BEGAN_PRESET", value_name = "NAME")]
    pub preset: Option<String>,
    /// A TOML file laid over the preset
    #[arg(long, env = "BEGAN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One key of the configuration, laid over all else; in the environment separated by `;`
    #[arg(long, env = "BEGAN_SET", value_name = "KEY=VALUE", value_delimiter = ';')]
    pub set: Vec<String>,
    /// What the trainers compute on
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto, env = "BEGAN_DEVICE")]
    pub device: DeviceChoice,
    /// Write a batch script for SLURM and submit it, in place of starting anything here
    #[arg(long, env = "BEGAN_SUBMIT")]
    pub submit: bool,
    /// An argument for sbatch, as in --sbatch-args "--partition=gpu --time=8:00:00"
    #[arg(long, env = "BEGAN_SBATCH_ARGS", value_name = "ARGS", allow_hyphen_values = true)]
    pub sbatch_args: Vec<String>,
    /// Where the nodes are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What is shown meanwhile.
    #[command(flatten)]
    pub show: LaunchArgs,
}

/// Flags of `resume`.
#[derive(Args, Clone, Debug)]
pub struct ResumeArgs {
    /// The run's folder
    pub run: PathBuf,
    /// Nodes; as at the last launch if not given
    #[arg(long, value_parser = node_count, env = "BEGAN_NODES", value_name = "N|N:M")]
    pub nodes: Option<NodeCount>,
    /// Trainers on each node; as at the last launch if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), env = "BEGAN_GPUS")]
    pub gpus: Option<u32>,
    /// What the trainers compute on
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto, env = "BEGAN_DEVICE")]
    pub device: DeviceChoice,
    /// A habit of the run to change, as run.steps; never what it computes
    #[arg(long, env = "BEGAN_SET", value_name = "KEY=VALUE", value_delimiter = ';')]
    pub set: Vec<String>,
    /// Go on even if the checkpoint is not as it was written
    #[arg(long, env = "BEGAN_ACCEPT_CHANGED_CHECKPOINT")]
    pub accept_changed_checkpoint: bool,
    /// Where the nodes are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What is shown meanwhile.
    #[command(flatten)]
    pub show: LaunchArgs,
}

/// Flags of `reproduce`.
#[derive(Args, Clone, Debug)]
pub struct ReproduceArgs {
    /// The folder of the run to compute again
    pub run: PathBuf,
    /// The folder of the new run
    #[arg(long, env = "BEGAN_OUT", value_name = "RUN2")]
    pub out: PathBuf,
    /// Nodes; as at the run's last launch if not given
    #[arg(long, value_parser = node_count, env = "BEGAN_NODES", value_name = "N|N:M")]
    pub nodes: Option<NodeCount>,
    /// Trainers on each node; as at the run's last launch if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), env = "BEGAN_GPUS")]
    pub gpus: Option<u32>,
    /// What the trainers compute on
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto, env = "BEGAN_DEVICE")]
    pub device: DeviceChoice,
    /// Where the run's data lies now, if elsewhere than run.toml says
    #[arg(long, env = "BEGAN_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the nodes are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What is shown meanwhile.
    #[command(flatten)]
    pub show: LaunchArgs,
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Nodes, or the least and the most of them; as many as there are hosts if not given
    #[arg(long, value_parser = node_count, env = "BEGAN_NODES", value_name = "N|N:M")]
    pub nodes: Option<NodeCount>,
    /// Trainers on each node
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), env = "BEGAN_GPUS", value_name = "N")]
    pub gpus: Option<u32>,
    /// The prepared data set that every node is to see
    #[arg(long, env = "BEGAN_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where a run's folder is to be, on a file system that all nodes share
    #[arg(long, env = "BEGAN_RUN", value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// What the trainers are to compute on
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto, env = "BEGAN_DEVICE")]
    pub device: DeviceChoice,
    /// Where the nodes are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Flags of `top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// The run's folder, or the address of its coordinator
    pub run: String,
    /// One picture as text, in place of the screen; so too where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Who asks.
    #[command(flatten)]
    pub credentials: Arguments,
}

/// What a launch shows while it lasts, how often it starts again what failed, and how long it waits at the end.
#[derive(Args, Clone, Debug)]
pub struct LaunchArgs {
    /// Progress and events for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "BEGAN_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// One line at the end, nothing before
    #[arg(long, env = "BEGAN_QUIET")]
    pub quiet: bool,
    /// Serve a page about the run, and /metrics for Prometheus, there; port 0 takes a free one
    #[arg(long, env = "BEGAN_HTTP", value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Show the trainers' lines too, each behind "[node 2 rank 17] "
    #[arg(long, env = "BEGAN_FORWARD_LOGS")]
    pub forward_logs: bool,
    /// Seconds a stopping run has to finish its step and write a checkpoint
    #[arg(long, default_value = "30", value_parser = seconds, allow_negative_numbers = true, env = "BEGAN_GRACE", value_name = "SECONDS")]
    pub grace: Duration,
    /// How often in a row a trainer, an agent or the coordinator is started again without a step committed in between;
    /// 0 is never
    #[arg(long, default_value_t = 8, env = "BEGAN_RESTARTS", value_name = "N")]
    pub restarts: u32,
    /// Whether the run's processes prove to each other who they are, over TLS with certificates made for this launch:
    /// auto is on several machines, off is for one machine only
    #[arg(long, value_enum, default_value_t = Mode::Auto, env = "BEGAN_TLS")]
    pub tls: Mode,
    /// A run token for them to hold, in place of certificates
    #[arg(long, env = "BEGAN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Flags of `page`.
#[derive(Args, Clone, Debug)]
pub struct PageArgs {
    /// The run's folder
    pub run: PathBuf,
    /// What the address is to let its holder do
    #[arg(long, value_enum, default_value_t = PageRole::Control)]
    pub role: PageRole,
    /// The coordinator's own credentials, where they are not where it says.
    #[command(flatten)]
    pub credentials: Arguments,
}

/// Who a page's address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PageRole {
    /// Looks on, and orders checkpoints, samples and a stop
    Control,
    /// Looks on
    Observer,
}

impl From<PageRole> for Role {
    fn from(role: PageRole) -> Self {
        match role {
            PageRole::Control => Self::Control,
            PageRole::Observer => Self::Observer,
        }
    }
}

/// Flags of `agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Where the coordinator listens
    #[arg(long, env = "BEGAN_COORDINATOR_ADDRESS", value_name = "ADDR")]
    pub coordinator: String,
    /// The run's folder
    #[arg(long, env = "BEGAN_RUN")]
    pub run: PathBuf,
    /// Index of this node
    #[arg(long, env = "BEGAN_NODE")]
    pub node: u32,
    /// Trainers to start
    #[arg(long, env = "BEGAN_GPUS")]
    pub trainers: u32,
    /// Rank of the first of them; as many before it as on as many nodes of this size, if not given
    #[arg(long)]
    pub first_rank: Option<u32>,
    /// What they compute on: cpu or cuda
    #[arg(long, env = "BEGAN_DEVICE")]
    pub device: String,
    /// Seconds between asking trainers to end and killing them
    #[arg(long, default_value = "30", value_parser = seconds, env = "BEGAN_GRACE")]
    pub grace: Duration,
    /// How often in a row a trainer is started again without a step committed in between
    #[arg(long, default_value_t = 8, value_name = "N", env = "BEGAN_RESTARTS")]
    pub restarts: u32,
    /// Report every line the trainers write
    #[arg(long, env = "BEGAN_FORWARD_LOGS")]
    pub forward_logs: bool,
    /// Wait for the launcher's line with the trainers' credentials before anything is started
    #[arg(long)]
    pub credentials_from_stdin: bool,
    /// Who the trainers are, if that is not handed over; and the agent, where it looks at the coordinator itself.
    #[command(flatten)]
    pub credentials: Arguments,
    /// Wait for the coordinator first, and end with a code that a Job goes by
    #[arg(long, env = "BEGAN_POD")]
    pub pod: bool,
    /// For how long
    #[arg(long, default_value = "3600", value_parser = seconds, env = "BEGAN_WAIT_FOR_COORDINATOR", value_name = "SECONDS")]
    pub wait_for_coordinator: Duration,
    /// The interface whose address the trainers tell the others
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// All trainers compute on this node's first GPU
    #[arg(long)]
    pub share_gpu: bool,
    /// Heed no signals, nor let the trainers: the launcher's lines say what to do
    #[arg(long)]
    pub deaf: bool,
    /// End if no line comes from the launcher for so many seconds
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    pub lost_after: Option<Duration>,
}

impl AgentArgs {
    /// Rank of the first trainer of this node.
    #[must_use]
    pub fn first_rank(&self) -> u32 {
        self.first_rank.unwrap_or(self.node.saturating_mul(self.trainers))
    }
}

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// GPUs if there are enough of them, else the CPU
    Auto,
    /// One GPU a trainer
    Cuda,
    /// The CPU, shared by all trainers of the node
    Cpu,
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        })
    }
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// The arguments with `train` put in where no command was said: `launcher --nodes 4` is `launcher train --nodes 4`.
pub fn with_default_command(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let first = arguments.get(1).map(|first| first.to_string_lossy().into_owned());
    let about_launcher = ["-h", "--help", "-V", "--version"];
    if first.is_some_and(|first| first.starts_with('-') && !about_launcher.contains(&first.as_str())) {
        arguments.insert(1, "train".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_default_command(line.split_whitespace().map(OsString::from)))
    }

    #[test]
    fn train_need_not_be_said() -> Result<(), clap::Error> {
        for line in
            ["launcher --nodes 4 --gpus 8 --data d --run r", "launcher train --nodes 4 --gpus 8 --data d --run r"]
        {
            let Command::Train(train) = parse(line)?.command else { panic!("{line} is not train") };
            assert_eq!((train.nodes, train.gpus), (Some(NodeCount::exactly(4)), Some(8)));
            assert_eq!(train.show.grace, Duration::from_secs(30));
        }
        Ok(())
    }

    #[test]
    fn several_faults_can_be_drawn_from() -> Result<(), clap::Error> {
        let Command::Chaos(chaos) = parse("launcher chaos r --every 500ms --faults kill,stop,two")?.command else {
            panic!("not chaos")
        };
        assert_eq!(chaos.faults, [Fault::Kill, Fault::Stop, Fault::Two]);
        assert_eq!((chaos.every, chaos.stop_for), (Duration::from_millis(500), Duration::from_secs(8)));
        Ok(())
    }

    #[test]
    fn several_keys_can_be_set() -> Result<(), clap::Error> {
        let line = "launcher --data d --run r --set run.steps=3 --set run.seed=2;run.batch=4";
        let Command::Train(train) = parse(line)?.command else { panic!("not train") };
        assert_eq!(train.set, ["run.steps=3", "run.seed=2", "run.batch=4"]);
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (line, words) in [
            ("launcher --nodes 0 --data d --run r", "--nodes"),
            ("launcher --gpus many --data d --run r", "--gpus"),
            ("launcher --data d", "--run"),
            ("launcher --run r --on moon", "moon"),
            ("launcher trian --run r", "trian"),
            ("launcher --run r --grace -1", "--grace"),
            ("launcher --run r --grace nan", "nan"),
            ("launcher --run r --restarts many", "--restarts"),
            ("launcher chaos r", "--faults"),
            ("launcher chaos r --faults kill,flood", "flood"),
            ("launcher chaos r --faults kill --every 20", "20s"),
            ("launcher chaos r --faults kill --for 5m --count 3", "--count"),
            ("launcher reproduce r", "--out"),
        ] {
            let error = parse(line).map(|_| ()).expect_err(line).to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn the_short_help_lists_only_what_people_use() {
        let help = parse("launcher -h").map(|_| ()).expect_err("help").to_string();
        for listed in [
            "train",
            "resume",
            "digest",
            "verify",
            "reproduce",
            "ledger",
            "diagnose",
            "compare",
            "chaos",
            "campaign",
            "check",
            "kubernetes",
            "status",
            "stop",
        ] {
            assert!(help.contains(&format!("  {listed}")), "{help}");
        }
        for hidden in ["  agent", "  tied", "  probe", "  coordinate"] {
            assert!(!help.contains(hidden), "{help}");
        }
    }
}
