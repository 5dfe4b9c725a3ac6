//! Flags of `kubernetes`, and of what its pods start.
//!
//! Numbers and names are taken as they come: what is wrong with one is said in a sentence by [`crate::kubernetes`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::durations::seconds;

/// Flags of `kubernetes`.
#[derive(Args, Clone, Debug)]
pub struct KubernetesArgs {
    /// Nodes: one pod each
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, env = "BEGAN_NODES")]
    pub nodes: u32,
    /// Trainers in each pod, one a GPU
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, env = "BEGAN_GPUS")]
    pub gpus: u32,
    /// What the trainers compute on
    #[arg(long, value_enum, default_value_t = PodDevice::Cuda, env = "BEGAN_DEVICE")]
    pub device: PodDevice,
    /// The run's name, and that of all that is made for it
    #[arg(long, default_value = "began", env = "BEGAN_NAME")]
    pub name: String,
    /// The namespace; the one that kubectl uses if not given
    #[arg(long, env = "BEGAN_NAMESPACE", value_name = "NS")]
    pub namespace: Option<String>,
    /// The container image; began:VERSION or began-cpu:VERSION if not given
    #[arg(long, env = "BEGAN_IMAGE")]
    pub image: Option<String>,
    /// A secret to fetch the image with
    #[arg(long, env = "BEGAN_IMAGE_PULL_SECRET", value_name = "SECRET")]
    pub image_pull_secret: Option<String>,

    /// One JobSet instead of two Jobs
    #[arg(long, env = "BEGAN_JOBSET")]
    pub jobset: bool,
    /// A TrainJob with its TrainingRuntime (Kubeflow Trainer) instead of two Jobs
    #[arg(long, env = "BEGAN_TRAINJOB")]
    pub trainjob: bool,
    /// The Kueue local queue to wait in
    #[arg(long, env = "BEGAN_QUEUE", value_name = "QUEUE")]
    pub queue: Option<String>,
    /// Keep all nodes within one domain of this node label, as in topology.kubernetes.io/zone
    #[arg(long, env = "BEGAN_TOPOLOGY", value_name = "KEY")]
    pub topology: Option<String>,
    /// The type of machine, as its label node.kubernetes.io/instance-type has it; with :GPUS for one the launcher does not know
    #[arg(long, env = "BEGAN_MACHINE", value_name = "TYPE[:GPUS]")]
    pub machine: Option<String>,
    /// Only machines with this label
    #[arg(long, env = "BEGAN_NODE_SELECTOR", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_selector: Vec<String>,
    /// An RDMA resource for each pod, as in rdma/hca_shared_devices_a or vpc.amazonaws.com/efa=4
    #[arg(long, env = "BEGAN_RDMA", value_name = "RESOURCE[=COUNT]")]
    pub rdma: Option<String>,

    /// The prepared data set: its folder in the data volume
    #[arg(long, default_value = "prepared", env = "BEGAN_DATA", value_name = "DIR")]
    pub data: String,
    /// Prepare the data first, if it is not there: synthetic:faces, or a folder or file in the data volume
    #[arg(long, env = "BEGAN_PREPARE", value_name = "SOURCE")]
    pub prepare: Option<String>,
    /// How many images to prepare; synthetic:faces needs a number
    #[arg(long, env = "BEGAN_PREPARE_COUNT", value_name = "N", requires = "prepare", allow_negative_numbers = true)]
    pub prepare_count: Option<u64>,
    /// A persistent volume claim that is there, for the data; one is made if not given
    #[arg(long, env = "BEGAN_DATA_CLAIM", value_name = "PVC")]
    pub data_claim: Option<String>,
    /// A persistent volume claim that is there, for runs; one is made if not given
    #[arg(long, env = "BEGAN_RUNS_CLAIM", value_name = "PVC")]
    pub runs_claim: Option<String>,
    /// Size of the claim for data that is made
    #[arg(long, default_value = "100Gi", env = "BEGAN_DATA_SIZE", value_name = "QUANTITY")]
    pub data_size: String,
    /// Size of the claim for runs that is made
    #[arg(long, default_value = "100Gi", env = "BEGAN_RUNS_SIZE", value_name = "QUANTITY")]
    pub runs_size: String,
    /// Storage class of the claims that are made; the cluster's default if not given
    #[arg(long, env = "BEGAN_STORAGE_CLASS", value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// How the claims may be mounted; ReadWriteOnce keeps all pods on one machine
    #[arg(long, value_enum, default_value_t = Access::Many, env = "BEGAN_ACCESS")]
    pub access: Access,

    /// CPUs of each node's pod; 4 a GPU, or 1 a trainer on CPUs, if not given
    #[arg(long, env = "BEGAN_CPUS", value_name = "QUANTITY")]
    pub cpus: Option<String>,
    /// Memory of each node's pod; 16Gi a GPU, or 2Gi a trainer on CPUs, if not given
    #[arg(long, env = "BEGAN_MEMORY", value_name = "QUANTITY")]
    pub memory: Option<String>,
    /// Shared memory (/dev/shm) of each node's pod, a part of its memory; a quarter of it if not given
    #[arg(long, env = "BEGAN_SHARED_MEMORY", value_name = "QUANTITY")]
    pub shared_memory: Option<String>,

    /// What the pods prove to each other who they are with
    #[arg(long, value_enum, default_value_t = Keys::Token, env = "BEGAN_KEYS")]
    pub keys: Keys,
    /// Print the Secret with fresh keys, and nothing else: kubectl gets it from a pipe, and no file ever holds it
    #[arg(long)]
    pub print_keys: bool,
    /// How Prometheus is told of the coordinator
    #[arg(long, value_enum, default_value_t = Monitoring::None, env = "BEGAN_MONITORING")]
    pub monitoring: Monitoring,
    /// Seconds a stopping run has to finish its step and write a checkpoint
    #[arg(long, default_value = "60", value_parser = seconds, allow_negative_numbers = true, env = "BEGAN_GRACE", value_name = "SECONDS")]
    pub grace: Duration,
    /// How often in a row a process is started again in its pod without a step committed in between
    #[arg(long, default_value_t = 8, allow_negative_numbers = true, env = "BEGAN_RESTARTS", value_name = "N")]
    pub restarts: u32,
    /// A variable for the pods' environment, as in NCCL_DEBUG=INFO
    #[arg(long = "env", env = "BEGAN_ENV", value_name = "NAME=VALUE", value_delimiter = ';')]
    pub environment: Vec<String>,

    /// The configuration to start from: demo, paper-64, paper-128, paper-256
    #[arg(long, env = "BEGAN_PRESET", value_name = "NAME")]
    pub preset: Option<String>,
    /// A TOML file laid over the preset
    #[arg(long, env = "BEGAN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One key of the configuration, laid over all else; in the environment separated by `;`
    #[arg(long, env = "BEGAN_SET", value_name = "KEY=VALUE", value_delimiter = ';')]
    pub set: Vec<String>,
}

/// `--device` of a pod: what it asks the cluster for, so it has to be known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodDevice {
    /// One GPU a trainer
    Cuda,
    /// The CPU, one a trainer
    Cpu,
}

/// `--access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// From many machines
    #[value(name = "ReadWriteMany")]
    Many,
    /// From one machine
    #[value(name = "ReadWriteOnce")]
    Once,
}

/// `--keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Keys {
    /// A token that all of them hold
    Token,
    /// Certificates of an authority that signs for this run alone
    Certificates,
}

/// `--monitoring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Monitoring {
    /// Not at all
    None,
    /// By prometheus.io annotations on the coordinator's pod
    Annotations,
    /// By a PodMonitor of the Prometheus operator
    PodMonitor,
}

/// Flags of `coordinate`, which the coordinator's pod starts.
#[derive(Args, Clone, Debug)]
pub struct CoordinateArgs {
    /// The run's whole configuration
    #[arg(long, env = "BEGAN_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// The run's folder; it is made if it is not there
    #[arg(long, env = "BEGAN_RUN", value_name = "RUN")]
    pub run: PathBuf,
    /// Where the coordinator is to listen
    #[arg(long, env = "BEGAN_LISTEN", value_name = "HOST:PORT")]
    pub listen: String,
    /// Nodes
    #[arg(long, env = "BEGAN_NODES", value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: u32,
    /// Trainers on each
    #[arg(long, env = "BEGAN_GPUS", value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: u32,
    /// How long to wait for all trainers to come
    #[arg(long, env = "BEGAN_FORMING_TIMEOUT", default_value = "3600", value_parser = seconds, value_name = "SECONDS")]
    pub forming_timeout: Duration,
    /// Seconds a stopping run has to finish its step and write a checkpoint
    #[arg(long, env = "BEGAN_GRACE", default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    pub grace: Duration,
    /// How often in a row the coordinator is started again
    #[arg(long, env = "BEGAN_RESTARTS", default_value_t = 8, value_name = "N")]
    pub restarts: u32,
    /// Go on even if the checkpoint is not as it was written
    #[arg(long, env = "BEGAN_ACCEPT_CHANGED_CHECKPOINT")]
    pub accept_changed_checkpoint: bool,
}
