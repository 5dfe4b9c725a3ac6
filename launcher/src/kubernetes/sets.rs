//! A JobSet of the two Jobs, and a TrainJob of Kubeflow Trainer around it: as much of their types as is used here.
//!
//! A JobSet starts, suspends and fails as one, so it is what a queue should be given. It makes the headless service itself.

use k8s_openapi::api::batch::v1::{JobSpec, JobTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::jobs;
use super::labels::{self, Role};
use super::wanted::Wanted;

/// How often the whole set is started again after a failure that is not the run's own.
const RESTARTS: u32 = 3;

/// `jobset.x-k8s.io/v1alpha2`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSet {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta,
    spec: JobSetSpec,
}

/// What a JobSet does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSetSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    suspend: Option<bool>,
    network: Network,
    success_policy: SuccessPolicy,
    failure_policy: FailurePolicy,
    replicated_jobs: Vec<ReplicatedJob>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Network {
    #[serde(rename = "enableDNSHostnames")]
    enable_dns_hostnames: bool,
    subdomain: String,
    #[serde(rename = "publishNotReadyAddresses")]
    publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SuccessPolicy {
    operator: &'static str,
    target_replicated_jobs: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailurePolicy {
    max_restarts: u32,
    rules: Vec<FailureRule>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailureRule {
    name: &'static str,
    action: &'static str,
    on_job_failure_reasons: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ReplicatedJob {
    name: &'static str,
    replicas: u32,
    template: JobTemplateSpec,
}

/// The JobSet of a run.
#[must_use]
pub fn job_set(wanted: &Wanted) -> JobSet {
    JobSet {
        api_version: "jobset.x-k8s.io/v1alpha2",
        kind: "JobSet",
        metadata: labels::queued(wanted, ""),
        spec: JobSetSpec { suspend: labels::suspend(wanted), ..spec(wanted) },
    }
}

fn spec(wanted: &Wanted) -> JobSetSpec {
    let replicated = |role: Role, spec: JobSpec| {
        let mut labels = labels::of_pod(wanted, role);
        if role == Role::Node {
            // By this Kubeflow Trainer knows whose pods it is to count; nobody else looks at it.
            labels.insert("trainer.kubeflow.org/trainjob-ancestor-step".into(), "trainer".into());
        }
        let metadata = Some(ObjectMeta { labels: Some(labels), ..Default::default() });
        ReplicatedJob { name: role.job(), replicas: 1, template: JobTemplateSpec { metadata, spec: Some(spec) } }
    };
    JobSetSpec {
        suspend: None,
        network: Network {
            enable_dns_hostnames: true,
            subdomain: wanted.name.clone(),
            publish_not_ready_addresses: true,
        },
        // The coordinator knows what became of the run; a node that was given up on the way is no matter then.
        success_policy: SuccessPolicy { operator: "All", target_replicated_jobs: vec![Role::Coordinator.job()] },
        failure_policy: FailurePolicy {
            max_restarts: RESTARTS,
            rules: vec![FailureRule {
                name: "runFailed",
                action: "FailJobSet",
                on_job_failure_reasons: vec!["PodFailurePolicy"],
            }],
        },
        replicated_jobs: vec![
            replicated(Role::Coordinator, jobs::coordinator_spec(wanted)),
            replicated(Role::Node, jobs::nodes_spec(wanted)),
        ],
    }
}

/// `trainer.kubeflow.org/v1alpha1`: what a TrainJob is made from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainingRuntime {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta,
    spec: TrainingRuntimeSpec,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrainingRuntimeSpec {
    ml_policy: MlPolicy,
    template: JobSetTemplate,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct MlPolicy {
    num_nodes: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct JobSetTemplate {
    spec: JobSetSpec,
}

/// `trainer.kubeflow.org/v1alpha1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainJob {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta,
    spec: TrainJobSpec,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrainJobSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    suspend: Option<bool>,
    runtime_ref: RuntimeRef,
    trainer: MlPolicy,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeRef {
    api_group: &'static str,
    kind: &'static str,
    name: String,
}

const TRAINER: &str = "trainer.kubeflow.org/v1alpha1";

/// The runtime of a run's TrainJob: the same JobSet.
#[must_use]
pub fn training_runtime(wanted: &Wanted) -> TrainingRuntime {
    TrainingRuntime {
        api_version: TRAINER,
        kind: "TrainingRuntime",
        metadata: labels::metadata(wanted, ""),
        spec: TrainingRuntimeSpec {
            ml_policy: MlPolicy { num_nodes: wanted.shape.nodes },
            template: JobSetTemplate { spec: spec(wanted) },
        },
    }
}

/// The TrainJob of a run. Its JobSet has its name, and so its pods are found where a JobSet's are.
#[must_use]
pub fn train_job(wanted: &Wanted) -> TrainJob {
    TrainJob {
        api_version: TRAINER,
        kind: "TrainJob",
        metadata: labels::queued(wanted, ""),
        spec: TrainJobSpec {
            suspend: labels::suspend(wanted),
            runtime_ref: RuntimeRef {
                api_group: "trainer.kubeflow.org",
                kind: "TrainingRuntime",
                name: wanted.name.clone(),
            },
            trainer: MlPolicy { num_nodes: wanted.shape.nodes },
        },
    }
}
