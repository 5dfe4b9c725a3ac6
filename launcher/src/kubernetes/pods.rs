//! The two kinds of pods: the coordinator's, and a node's.
//!
//! What they start is told by `BEGAN_` variables alone, so that whoever reads a manifest sees all of it. No container runs
//! as root, gains privileges, or writes anywhere but into its volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, ExecAction, Lifecycle, LifecycleHandler, LocalObjectReference, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, PodAffinity, PodAffinityTerm, PodSecurityContext, PodSpec, PodTemplateSpec,
    Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::keys;
use super::labels::{self, HTTP_PORT, PORT, Role};
use super::wanted::{DATA, Keeper, RUNS, Wanted};
use crate::cli::{Access, Monitoring, PodDevice};

/// The launcher in an image; trainer and coordinator lie beside it.
const LAUNCHER: &str = "/opt/began/bin/launcher";
/// The trainer in an image.
const TRAINER: &str = "/opt/began/bin/trainer";
/// Where the configuration is mounted.
const CONFIGURATION: &str = "/etc/began/run";
/// User and group of every process.
const USER: i64 = 10_001;
/// For how long a node's pod that has to go leaves its trainers alone, in seconds: where the whole run is to stop, its
/// coordinator was told at the same moment and ends them in order, with a checkpoint.
const LINGER: u32 = 15;
/// How long a pod waits for the rest of the run, in seconds: images are fetched meanwhile.
const FORMING: u32 = 3_600;
/// The same where pods wait in a queue, one kind without the other.
const QUEUED: u32 = 604_800;
/// The resource, and the taint of machines that have it.
const GPU: &str = "nvidia.com/gpu";
const HOST: &str = "kubernetes.io/hostname";

/// The coordinator's pod.
#[must_use]
pub fn coordinator(wanted: &Wanted) -> PodTemplateSpec {
    let shape = wanted.shape;
    let mut env = vec![
        plain("BEGAN_CONFIG", &format!("{CONFIGURATION}/run.toml")),
        plain("BEGAN_RUN", &wanted.run()),
        plain("BEGAN_LISTEN", &format!("0.0.0.0:{PORT}")),
        plain("BEGAN_NODES", &shape.nodes.to_string()),
        plain("BEGAN_GPUS", &shape.gpus.to_string()),
        plain("BEGAN_FORMING_TIMEOUT", &patience(wanted).to_string()),
    ];
    let mut ports = vec![port("grpc", PORT)];
    let mut annotations = None;
    if wanted.monitoring != Monitoring::None {
        env.push(plain("BEGAN_HTTP", &format!("0.0.0.0:{HTTP_PORT}")));
        ports.push(port("http", HTTP_PORT));
    }
    if wanted.monitoring == Monitoring::Annotations {
        let port = HTTP_PORT.to_string();
        let told = [
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/scheme", "https"),
            ("prometheus.io/port", &port),
            ("prometheus.io/path", "/metrics"),
        ];
        annotations = Some(told.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
    env.extend(everywhere(wanted, Role::Coordinator));
    let (cpus, memory) = (quantity("500m"), quantity("2Gi"));
    let container = Container {
        name: Role::Coordinator.container().into(),
        image: Some(wanted.image.clone()),
        command: Some(vec![LAUNCHER.into(), "coordinate".into()]),
        env: Some(env),
        ports: Some(ports),
        resources: Some(ResourceRequirements {
            requests: Some([("cpu".into(), cpus), ("memory".into(), memory.clone())].into()),
            limits: Some([("memory".into(), memory)].into()),
            ..Default::default()
        }),
        // Until it listens: the data may still be on its way, and a long journal is read first.
        startup_probe: Some(probe(wanted, 10, 180)),
        readiness_probe: Some(probe(wanted, 10, 3)),
        liveness_probe: Some(probe(wanted, 20, 6)),
        security_context: Some(locked_down()),
        volume_mounts: Some(vec![
            mount("configuration", CONFIGURATION, true),
            mount("keys", keys::FOLDER, true),
            mount("data", DATA, true),
            mount("runs", RUNS, false),
            mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    };
    let configuration = Volume {
        name: "configuration".into(),
        config_map: Some(ConfigMapVolumeSource { name: format!("{}-run", wanted.name), ..Default::default() }),
        ..Volume::default()
    };
    let mut volumes = volumes(wanted, Role::Coordinator);
    volumes.insert(0, configuration);
    // Where a volume is mounted on one machine only, that is the nodes' one.
    let affinity = (wanted.access == Access::Once).then(|| beside(labels::only(wanted, Role::Node), HOST));
    let tolerations = if wanted.access == Access::Once { tolerations(wanted) } else { None };
    let spec = PodSpec {
        init_containers: preparing(wanted).map(|container| vec![container]),
        containers: vec![container],
        volumes: Some(volumes),
        affinity,
        tolerations,
        // Room for the stop itself, and for the last writes.
        termination_grace_period_seconds: Some(i64::from(wanted.grace + 30)),
        ..pod(wanted)
    };
    template(wanted, Role::Coordinator, annotations, spec)
}

/// A node's pod.
#[must_use]
pub fn node(wanted: &Wanted) -> PodTemplateSpec {
    let mut env = vec![
        plain("BEGAN_POD", "true"),
        plain("BEGAN_RUN", &wanted.run()),
        plain("BEGAN_COORDINATOR_ADDRESS", &format!("{}:{PORT}", labels::coordinator_host(wanted))),
        EnvVar {
            name: "BEGAN_NODE".into(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.annotations['batch.kubernetes.io/job-completion-index']".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..EnvVar::default()
        },
        plain("BEGAN_GPUS", &wanted.shape.gpus.to_string()),
        plain("BEGAN_DEVICE", device(wanted.device)),
        plain("BEGAN_WAIT_FOR_COORDINATOR", &patience(wanted).to_string()),
        plain("BEGAN_FORWARD_LOGS", "true"),
    ];
    env.extend(everywhere(wanted, Role::Node));
    let mut requests: BTreeMap<String, Quantity> =
        [("cpu".into(), wanted.cpus.wire()), ("memory".into(), wanted.memory.wire())].into();
    let mut limits: BTreeMap<String, Quantity> = [("memory".into(), wanted.memory.wire())].into();
    let mut devices: Vec<(String, u32)> = wanted.rdma.iter().cloned().collect();
    if wanted.device == PodDevice::Cuda {
        devices.push((GPU.into(), wanted.shape.gpus));
    }
    for (name, count) in devices {
        requests.insert(name.clone(), quantity(&count.to_string()));
        limits.insert(name, quantity(&count.to_string()));
    }
    let linger = ExecAction { command: Some(vec!["/bin/sleep".into(), LINGER.to_string()]) };
    let container = Container {
        name: Role::Node.container().into(),
        image: Some(wanted.image.clone()),
        command: Some(vec![LAUNCHER.into(), "agent".into()]),
        env: Some(env),
        resources: Some(ResourceRequirements { requests: Some(requests), limits: Some(limits), ..Default::default() }),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { exec: Some(linger), ..Default::default() }),
            ..Lifecycle::default()
        }),
        security_context: Some(locked_down()),
        volume_mounts: Some(vec![
            mount("keys", keys::FOLDER, true),
            mount("data", DATA, true),
            mount("runs", RUNS, false),
            mount("shm", "/dev/shm", false),
            mount("tmp", "/tmp", false),
        ]),
        ..Container::default()
    };
    let mut volumes = volumes(wanted, Role::Node);
    volumes.push(Volume {
        name: "shm".into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".into()),
            size_limit: Some(wanted.shared_memory.wire()),
        }),
        ..Volume::default()
    });
    let (affinity, annotations) = together(wanted);
    let spread = TopologySpreadConstraint {
        max_skew: 1,
        topology_key: HOST.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(labels::only(wanted, Role::Node)),
        ..Default::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        affinity,
        topology_spread_constraints: (wanted.access == Access::Many && wanted.shape.nodes > 1).then(|| vec![spread]),
        node_selector: (!wanted.machines.is_empty()).then(|| wanted.machines.clone()),
        tolerations: tolerations(wanted),
        termination_grace_period_seconds: Some(i64::from(LINGER + wanted.grace + 15)),
        ..pod(wanted)
    };
    template(wanted, Role::Node, annotations, spec)
}

/// What keeps the nodes together: a queue that knows the topology, or the scheduler.
fn together(wanted: &Wanted) -> (Option<Affinity>, Option<BTreeMap<String, String>>) {
    if wanted.access == Access::Once {
        return (Some(beside(labels::only(wanted, Role::Node), HOST)), None);
    }
    match (&wanted.topology, &wanted.queue) {
        (Some(key), Some(_)) => {
            (None, Some([("kueue.x-k8s.io/podset-required-topology".to_owned(), key.clone())].into()))
        }
        (Some(key), None) => (Some(beside(labels::only(wanted, Role::Node), key)), None),
        (None, _) => (None, None),
    }
}

/// Makes the data before the coordinator looks for it, if it is not there.
fn preparing(wanted: &Wanted) -> Option<Container> {
    let prepare = wanted.prepare.as_ref()?;
    let (data, size) = (&wanted.config.data.path, wanted.config.model.size.to_string());
    // What is prepared is an argument, and never read by the shell.
    let mut command: Vec<String> =
        ["/bin/sh", "-c", "test -f \"$0/manifest.json\" || exec \"$@\"", data, TRAINER, "prepare"]
            .map(String::from)
            .to_vec();
    command
        .extend([prepare.source.as_str(), "--out", data, "--size", &size, "--seed", "1", "--quiet"].map(String::from));
    if let Some(count) = prepare.count {
        command.extend(["--count".to_owned(), count.to_string()]);
    }
    let memory = quantity("4Gi");
    Some(Container {
        name: "prepare".into(),
        image: Some(wanted.image.clone()),
        command: Some(command),
        env: Some(vec![plain("HOME", "/tmp")]),
        resources: Some(ResourceRequirements {
            requests: Some([("cpu".into(), quantity("1")), ("memory".into(), memory.clone())].into()),
            limits: Some([("memory".into(), memory)].into()),
            ..Default::default()
        }),
        security_context: Some(locked_down()),
        volume_mounts: Some(vec![mount("data", DATA, false), mount("tmp", "/tmp", false)]),
        ..Container::default()
    })
}

/// What all pods have in common.
fn pod(wanted: &Wanted) -> PodSpec {
    PodSpec {
        // Another is started in its place by its Job, which sees why this one ended.
        restart_policy: Some("Never".into()),
        subdomain: (wanted.keeper == Keeper::Jobs).then(|| wanted.name.clone()),
        automount_service_account_token: Some(false),
        // Variables like BEGAN_PORT of a service called began would be taken for settings.
        enable_service_links: Some(false),
        image_pull_secrets: wanted
            .image_pull_secret
            .as_ref()
            .map(|secret| vec![LocalObjectReference { name: secret.clone() }]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

fn template(
    wanted: &Wanted,
    role: Role,
    annotations: Option<BTreeMap<String, String>>,
    spec: PodSpec,
) -> PodTemplateSpec {
    let labels = Some(labels::of_pod(wanted, role));
    PodTemplateSpec { metadata: Some(ObjectMeta { labels, annotations, ..Default::default() }), spec: Some(spec) }
}

fn volumes(wanted: &Wanted, role: Role) -> Vec<Volume> {
    let claim = |name: &str, claim: &str| Volume {
        name: name.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim.into(), read_only: None }),
        ..Volume::default()
    };
    vec![
        Volume {
            name: "keys".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(format!("{}-keys", wanted.name)),
                default_mode: Some(0o440),
                items: Some(keys::files(wanted, role)),
                optional: None,
            }),
            ..Volume::default()
        },
        claim("data", &wanted.data.claim),
        claim("runs", &wanted.runs.claim),
        Volume {
            name: "tmp".into(),
            empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: Some(quantity("2Gi")) }),
            ..Volume::default()
        },
    ]
}

/// Variables of every container: how much time and how many tries there are, and a home that can be written.
fn everywhere(wanted: &Wanted, role: Role) -> Vec<EnvVar> {
    let keys = keys::variables(wanted, role).into_iter().map(|(name, value)| plain(name, &value));
    let mut variables = vec![
        plain("BEGAN_GRACE", &wanted.grace.to_string()),
        plain("BEGAN_RESTARTS", &wanted.restarts.to_string()),
        plain("HOME", "/tmp"),
    ];
    variables.extend(keys);
    // Where a value says `$(A)`, Kubernetes would put another variable.
    let more = wanted.environment.iter().map(|(name, value)| plain(name, &value.replace("$(", "$$(")));
    variables.extend(more);
    variables
}

fn patience(wanted: &Wanted) -> u32 {
    // One JobSet is let in as a whole; of two Jobs, one may wait for days while the other is there.
    if wanted.queue.is_some() && wanted.keeper == Keeper::Jobs { QUEUED } else { FORMING }
}

/// Machines with GPUs are often kept free of what needs none.
fn tolerations(wanted: &Wanted) -> Option<Vec<Toleration>> {
    (wanted.device == PodDevice::Cuda).then(|| {
        vec![Toleration {
            key: Some(GPU.into()),
            operator: Some("Exists".into()),
            effect: Some("NoSchedule".into()),
            ..Toleration::default()
        }]
    })
}

fn device(device: PodDevice) -> &'static str {
    match device {
        PodDevice::Cuda => "cuda",
        PodDevice::Cpu => "cpu",
    }
}

fn beside(pods: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector, key: &str) -> Affinity {
    let term = PodAffinityTerm { label_selector: Some(pods), topology_key: key.into(), ..Default::default() };
    let required =
        PodAffinity { required_during_scheduling_ignored_during_execution: Some(vec![term]), ..PodAffinity::default() };
    Affinity { pod_affinity: Some(required), ..Affinity::default() }
}

/// Asks the coordinator where the run stands, over gRPC as everybody else does. Kubernetes' own gRPC probe speaks no TLS, and
/// on an address that other machines reach a coordinator speaks nothing else.
fn probe(wanted: &Wanted, period: i32, failures: i32) -> Probe {
    let mut command = vec![LAUNCHER.into(), "status".into(), format!("127.0.0.1:{PORT}")];
    command.extend(keys::looking(wanted));
    Probe {
        exec: Some(ExecAction { command: Some(command) }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(10),
        ..Probe::default()
    }
}

fn locked_down() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        ..SecurityContext::default()
    }
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort { name: Some(name.into()), container_port: port.into(), ..ContainerPort::default() }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    let read_only = read_only.then_some(true);
    VolumeMount { name: name.into(), mount_path: path.into(), read_only, ..VolumeMount::default() }
}

fn quantity(text: &str) -> Quantity {
    Quantity(text.into())
}
