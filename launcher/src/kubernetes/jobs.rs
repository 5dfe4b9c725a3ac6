//! The Jobs that keep the pods: when another pod takes a lost one's place, and when that would help nobody.
//!
//! What an exit code means is settled in [`super::pod::ending`]; here it is said to Kubernetes.

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::labels::{self, Role};
use super::pod::ending::{CANNOT, INTERRUPTED, RUN_FAILED};
use super::pods;
use super::wanted::Wanted;
use crate::child::{SET_ASIDE, STOPPED_FOR_ANOTHER};

/// How often the coordinator's pod is replaced after failures of its own.
const COORDINATORS: i32 = 6;
/// How often a node's pod is; its trainers were started again many times before it fails.
const PODS_OF_A_NODE: i32 = 4;

/// The Job of the coordinator. Indexed, because that gives its pod a host name that stays.
#[must_use]
pub fn coordinator(wanted: &Wanted) -> Job {
    job(wanted, Role::Coordinator, coordinator_spec(wanted))
}

/// The Indexed Job of the nodes.
#[must_use]
pub fn nodes(wanted: &Wanted) -> Job {
    job(wanted, Role::Node, nodes_spec(wanted))
}

/// What the coordinator's Job does.
#[must_use]
pub fn coordinator_spec(wanted: &Wanted) -> JobSpec {
    let codes = vec![on_codes(Role::Coordinator, "FailJob", vec![RUN_FAILED.into(), CANNOT.into()])];
    JobSpec { backoff_limit: Some(COORDINATORS), ..indexed(1, Role::Coordinator, codes, pods::coordinator(wanted)) }
}

/// What the nodes' Job does. A node that is given up does not end the others: the run goes on without it.
#[must_use]
pub fn nodes_spec(wanted: &Wanted) -> JobSpec {
    let codes = vec![
        on_codes(Role::Node, "FailJob", vec![CANNOT.into(), STOPPED_FOR_ANOTHER]),
        on_codes(Role::Node, "FailIndex", vec![SET_ASIDE]),
    ];
    let nodes = i32::try_from(wanted.shape.nodes).unwrap_or(i32::MAX);
    JobSpec { backoff_limit_per_index: Some(PODS_OF_A_NODE), ..indexed(nodes, Role::Node, codes, pods::node(wanted)) }
}

fn job(wanted: &Wanted, role: Role, spec: JobSpec) -> Job {
    let spec = JobSpec { suspend: labels::suspend(wanted), ..spec };
    Job { metadata: labels::queued(wanted, role.job()), spec: Some(spec), status: None }
}

fn indexed(pods: i32, role: Role, codes: Vec<PodFailurePolicyRule>, template: PodTemplateSpec) -> JobSpec {
    // Drained, preempted or evicted, or ended in order for the same reason: that is nobody's failure.
    let disrupted = PodFailurePolicyRule {
        action: "Ignore".into(),
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
        }]),
        on_exit_codes: None,
    };
    let mut rules = vec![disrupted, on_codes(role, "Ignore", vec![INTERRUPTED.into()])];
    rules.extend(codes);
    JobSpec {
        completion_mode: Some("Indexed".into()),
        completions: Some(pods),
        parallelism: Some(pods),
        pod_failure_policy: Some(PodFailurePolicy { rules }),
        // Never two of one place at once.
        pod_replacement_policy: Some("Failed".into()),
        template,
        ..JobSpec::default()
    }
}

fn on_codes(role: Role, action: &str, mut values: Vec<i32>) -> PodFailurePolicyRule {
    values.sort_unstable();
    PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(role.container().into()),
            operator: "In".into(),
            values,
        }),
        on_pod_conditions: None,
    }
}
