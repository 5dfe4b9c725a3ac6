//! How the objects of a run are named, and by which labels they are found.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::wanted::{Keeper, Wanted};

/// Where the coordinator listens in its pod.
pub const PORT: u16 = 7430;
/// Where its page and metrics are.
pub const HTTP_PORT: u16 = 7431;

/// Which of the two kinds of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one with the coordinator.
    Coordinator,
    /// One a node, with its trainers.
    Node,
}

impl Role {
    /// What its Job's name ends with.
    #[must_use]
    pub fn job(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "nodes",
        }
    }

    /// The name of its container. Kubeflow Trainer knows the trainers' by "node".
    #[must_use]
    pub fn container(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
        }
    }
}

/// Labels of whatever belongs to a run.
#[must_use]
pub fn of(wanted: &Wanted) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", "began"), ("app.kubernetes.io/instance", &wanted.name)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Labels of a pod.
#[must_use]
pub fn of_pod(wanted: &Wanted, role: Role) -> BTreeMap<String, String> {
    let mut labels = of(wanted);
    labels.insert("app.kubernetes.io/component".into(), role.container().into());
    labels
}

/// What finds all pods of a run.
#[must_use]
pub fn all(wanted: &Wanted) -> LabelSelector {
    LabelSelector { match_labels: Some(of(wanted)), ..Default::default() }
}

/// What finds its pods of one kind.
#[must_use]
pub fn only(wanted: &Wanted, role: Role) -> LabelSelector {
    LabelSelector { match_labels: Some(of_pod(wanted, role)), ..Default::default() }
}

/// The metadata of an object: the run's name, with a part behind it.
#[must_use]
pub fn metadata(wanted: &Wanted, part: &str) -> ObjectMeta {
    let name = if part.is_empty() { wanted.name.clone() } else { format!("{}-{part}", wanted.name) };
    ObjectMeta {
        name: Some(name),
        namespace: wanted.namespace.clone(),
        labels: Some(of(wanted)),
        ..ObjectMeta::default()
    }
}

/// As [`metadata`], of what waits in the queue, if there is one.
#[must_use]
pub fn queued(wanted: &Wanted, part: &str) -> ObjectMeta {
    let mut metadata = metadata(wanted, part);
    if let (Some(queue), Some(labels)) = (&wanted.queue, &mut metadata.labels) {
        labels.insert("kueue.x-k8s.io/queue-name".into(), queue.clone());
    }
    metadata
}

/// Whether it is to wait for a queue to let it start.
#[must_use]
pub fn suspend(wanted: &Wanted) -> Option<bool> {
    wanted.queue.is_some().then_some(true)
}

/// The coordinator's host, as its pod is known in the run's subdomain: an Indexed Job and a JobSet give it a name that stays.
#[must_use]
pub fn coordinator_host(wanted: &Wanted) -> String {
    let name = &wanted.name;
    match wanted.keeper {
        Keeper::Jobs => format!("{name}-coordinator-0.{name}"),
        Keeper::JobSet | Keeper::TrainJob => format!("{name}-coordinator-0-0.{name}"),
    }
}
