//! What was asked for, checked: whatever a cluster would refuse, or would leave waiting forever, is refused here by flag.
//!
//! It looks at nothing but the flags and the files they name: the data and the cluster are out of sight.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use began::RunConfig;

use super::machines::{Machine, USUAL};
use super::names;
use super::quantity::{Of, Quantity};
use crate::cli::{Access, Keys, KubernetesArgs, Monitoring, PodDevice};
use crate::configure::{Said, Shape, key_of};

/// Where the data volume is mounted.
pub const DATA: &str = "/data";
/// Where the volume of the runs is mounted.
pub const RUNS: &str = "/runs";

/// An Indexed Job has no more pods than this.
const MOST_NODES: u32 = 10_000;

/// What keeps the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A Job for the coordinator and an Indexed Job for the nodes.
    Jobs,
    /// A JobSet of the two.
    JobSet,
    /// A TrainJob, whose runtime is that JobSet.
    TrainJob,
}

/// A volume: a claim that is there, or one that is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// The claim.
    pub claim: String,
    /// Its size, if it is made.
    pub made: Option<Quantity>,
}

/// How the data is made where it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// As `trainer prepare` takes it.
    pub source: String,
    /// How many images, if not all.
    pub count: Option<u64>,
}

/// All that the manifests say.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Nodes and trainers.
    pub shape: Shape,
    /// What trainers compute on.
    pub device: PodDevice,
    /// The run.
    pub name: String,
    /// Where.
    pub namespace: Option<String>,
    /// The image of every container.
    pub image: String,
    /// What it is fetched with.
    pub image_pull_secret: Option<String>,
    /// What keeps the pods.
    pub keeper: Keeper,
    /// The Kueue queue.
    pub queue: Option<String>,
    /// The label whose domain all nodes share.
    pub topology: Option<String>,
    /// Labels of the machines.
    pub machines: BTreeMap<String, String>,
    /// An RDMA resource and how many of it.
    pub rdma: Option<(String, u32)>,
    /// How the data is made.
    pub prepare: Option<Prepare>,
    /// The volume of the data.
    pub data: Volume,
    /// The volume of the runs.
    pub runs: Volume,
    /// The class of the claims that are made.
    pub storage_class: Option<String>,
    /// How they may be mounted.
    pub access: Access,
    /// CPUs of a node's pod.
    pub cpus: Quantity,
    /// Memory of a node's pod.
    pub memory: Quantity,
    /// The part of it that is /dev/shm.
    pub shared_memory: Quantity,
    /// What pods prove to each other who they are with.
    pub keys: Keys,
    /// How Prometheus is told.
    pub monitoring: Monitoring,
    /// Whole seconds for a stop in order.
    pub grace: u32,
    /// Restarts within a pod.
    pub restarts: u32,
    /// More variables of every container.
    pub environment: BTreeMap<String, String>,
    /// The run's configuration, nothing left open.
    pub config: RunConfig,
}

impl Wanted {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// The first thing that cannot be, by flag.
    pub fn checked(args: &KubernetesArgs) -> Result<Self> {
        let shape = shape(args)?;
        let machine = args.machine.as_deref().map(Machine::parse).transpose()?;
        if args.device == PodDevice::Cuda {
            enough_gpus(args, machine.as_ref())?;
        }
        let name = names::run(&args.name)?;
        let named =
            |flag: &str, given: &Option<String>| given.as_deref().map(|text| names::object(flag, text)).transpose();
        let volume = |flag: &str, given: &Option<String>, kind: &str, size: (&str, &str)| -> Result<Volume> {
            let made = Quantity::parse(size.0, size.1, Of::Bytes)?;
            Ok(match named(flag, given)? {
                Some(claim) => Volume { claim, made: None },
                None => Volume { claim: format!("{name}-{kind}"), made: Some(made) },
            })
        };
        let (cpus, memory, shared_memory) = resources(args)?;
        let prepare = prepare(args)?;
        let config = configuration(args, shape)?;
        Ok(Self {
            shape,
            device: args.device,
            namespace: args.namespace.as_deref().map(|text| names::label("--namespace", text)).transpose()?,
            image: image(args)?,
            image_pull_secret: named("--image-pull-secret", &args.image_pull_secret)?,
            keeper: keeper(args)?,
            queue: args.queue.as_deref().map(names::queue).transpose()?,
            topology: args.topology.as_deref().map(|text| names::key("--topology", text)).transpose()?,
            machines: selector(args, machine)?,
            rdma: args.rdma.as_deref().map(|text| names::resource("--rdma", text)).transpose()?,
            prepare,
            data: volume("--data-claim", &args.data_claim, "data", ("--data-size", &args.data_size))?,
            runs: volume("--runs-claim", &args.runs_claim, "runs", ("--runs-size", &args.runs_size))?,
            storage_class: named("--storage-class", &args.storage_class)?,
            access: args.access,
            cpus,
            memory,
            shared_memory,
            keys: args.keys,
            monitoring: args.monitoring,
            grace: grace(args)?,
            restarts: args.restarts,
            environment: environment(args)?,
            config,
            name,
        })
    }

    /// The run's folder in a pod.
    #[must_use]
    pub fn run(&self) -> String {
        format!("{RUNS}/{}", self.name)
    }
}

fn shape(args: &KubernetesArgs) -> Result<Shape> {
    let shape = Shape { nodes: args.nodes, gpus: args.gpus };
    if args.nodes == 0 {
        bail!("--nodes 0: a run needs at least one node");
    }
    if args.gpus == 0 {
        bail!("--gpus 0: a node needs at least one trainer");
    }
    if args.nodes > MOST_NODES {
        bail!("--nodes {}: {MOST_NODES} nodes are the most that one run has on Kubernetes", args.nodes);
    }
    if args.gpus > 1024 {
        bail!("--gpus {}: 1024 trainers are the most that one node has", args.gpus);
    }
    Ok(shape)
}

fn enough_gpus(args: &KubernetesArgs, machine: Option<&Machine>) -> Result<()> {
    let gpus = args.gpus;
    match machine {
        Some(Machine { kind, gpus: has }) if gpus > *has => bail!(
            "--gpus {gpus}: a {kind} has {has} {}, and a node is one machine; take more nodes (--nodes) with fewer GPUs each",
            if *has == 1 { "GPU" } else { "GPUs" }
        ),
        None if gpus > USUAL => bail!(
            "--gpus {gpus}: a machine is taken to have {USUAL} GPUs, and a node is one machine; take more nodes (--nodes), or say \
             what machine has more: --machine TYPE:{gpus}"
        ),
        _ => {}
    }
    let (all, has) = (args.nodes.saturating_mul(gpus), machine.map_or(USUAL, |machine| machine.gpus));
    if args.access == Access::Once && all > has {
        bail!(
            "--access ReadWriteOnce keeps all pods on one machine, and --nodes {} --gpus {gpus} needs {all} GPUs where it has {has}; \
             take a storage class that can be mounted from many (ReadWriteMany)",
            args.nodes
        );
    }
    Ok(())
}

fn keeper(args: &KubernetesArgs) -> Result<Keeper> {
    match (args.jobset, args.trainjob) {
        (true, true) => bail!("--jobset and --trainjob exclude each other: a TrainJob makes a JobSet of its own"),
        (true, false) => Ok(Keeper::JobSet),
        (false, true) => Ok(Keeper::TrainJob),
        (false, false) => Ok(Keeper::Jobs),
    }
}

fn image(args: &KubernetesArgs) -> Result<String> {
    let name = match args.device {
        PodDevice::Cuda => "began",
        PodDevice::Cpu => "began-cpu",
    };
    match &args.image {
        Some(image) => names::image(image),
        None => Ok(format!("{name}:{}", env!("CARGO_PKG_VERSION"))),
    }
}

fn selector(args: &KubernetesArgs, machine: Option<Machine>) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for text in &args.node_selector {
        let (key, value) = names::pair("--node-selector", text)?;
        if labels.insert(key.clone(), value).is_some() {
            bail!("--node-selector {text}: {key} is given twice, and a machine has one value of it");
        }
    }
    if let Some(machine) = machine {
        let key = "node.kubernetes.io/instance-type";
        if labels.insert(key.into(), machine.kind).is_some() {
            bail!("--node-selector {key} and --machine say the same; leave one out");
        }
    }
    Ok(labels)
}

fn environment(args: &KubernetesArgs) -> Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for text in &args.environment {
        let (name, value) = names::variable("--env", text)?;
        if environment.insert(name.clone(), value).is_some() {
            bail!("--env {text}: {name} is given twice");
        }
    }
    Ok(environment)
}

fn resources(args: &KubernetesArgs) -> Result<(Quantity, Quantity, Quantity)> {
    let trainers = u64::from(args.gpus);
    let (cpus, gibibytes) = match args.device {
        PodDevice::Cuda => (4, 16),
        PodDevice::Cpu => (1, 2),
    };
    let cpus = match &args.cpus {
        Some(text) => Quantity::parse("--cpus", text, Of::Cpus)?,
        None => Quantity::cpus(cpus * trainers),
    };
    let memory = match &args.memory {
        Some(text) => Quantity::parse("--memory", text, Of::Bytes)?,
        None => Quantity::mebibytes(gibibytes * 1024 * trainers),
    };
    let shared = match &args.shared_memory {
        Some(text) => Quantity::parse("--shared-memory", text, Of::Bytes)?,
        None => Quantity::mebibytes(((memory.value() / 4.0 / 1_048_576.0) as u64).max(1)),
    };
    if shared.value() >= memory.value() {
        bail!(
            "--shared-memory {shared} leaves nothing of --memory {memory} for the trainers themselves: what lies in /dev/shm counts as \
             the pod's memory"
        );
    }
    Ok((cpus, memory, shared))
}

fn grace(args: &KubernetesArgs) -> Result<u32> {
    let seconds = args.grace.as_secs_f64();
    if !(1.0..=3600.0).contains(&seconds) {
        bail!("--grace {seconds}: a pod needs from 1 to 3600 seconds to end in order");
    }
    Ok(seconds.ceil() as u32)
}

/// A folder or file in a volume. Where a manifest says `$(A)`, Kubernetes would put a variable: such a name is none.
fn inside(flag: &str, text: &str, mount: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let below = text.strip_prefix(mount).filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(text);
    let absolute = below == text && text.starts_with('/');
    let parts = || below.split('/').filter(|part| !part.is_empty() && *part != ".");
    if text.is_empty() || absolute || !text.chars().all(plain) || parts().any(|part| part == "..") || text.len() > 1024
    {
        bail!(
            "{flag} {text:?} is no path in the data volume: that is relative to it, or begins with {mount}, and takes letters, digits, \
             -, _, dots and slashes"
        );
    }
    Ok(parts().fold(mount.to_owned(), |path, part| format!("{path}/{part}")))
}

fn prepare(args: &KubernetesArgs) -> Result<Option<Prepare>> {
    let Some(source) = &args.prepare else { return Ok(None) };
    let made_up = source == "synthetic:faces";
    if made_up && args.prepare_count.unwrap_or(0) == 0 {
        bail!("--prepare synthetic:faces: how many images? Say --prepare-count N");
    }
    if args.prepare_count == Some(0) {
        bail!("--prepare-count 0: a data set needs images; leave it out to take all there are");
    }
    let source = if made_up { source.clone() } else { inside("--prepare", source, DATA)? };
    Ok(Some(Prepare { source, count: args.prepare_count }))
}

fn configuration(args: &KubernetesArgs, shape: Shape) -> Result<RunConfig> {
    if let Some(assignment) = args.set.iter().find(|assignment| key_of(assignment) == "data.path") {
        bail!("--set {assignment}: where the data lies in a pod is said with --data, a folder in the data volume");
    }
    let said = Said { preset: args.preset.as_deref(), file: args.config.as_deref(), data: None, set: &args.set };
    let (mut config, _) = said.configuration()?;
    config.data.path = inside("--data", &args.data, DATA)?;
    config.validate()?;
    if config.run.lanes == 0 {
        config.run.lanes = shape.world();
    }
    config.validate()?;
    shape.fits(config.run.lanes)?;
    if config.run.min_trainers > shape.world() {
        bail!(
            "run.min_trainers is {}, but --nodes {} --gpus {} makes {} trainers: the run would never begin",
            config.run.min_trainers,
            shape.nodes,
            shape.gpus,
            shape.world()
        );
    }
    Ok(config)
}
