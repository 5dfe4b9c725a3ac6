//! What stands around the pods of a run: their names in the network and who may reach them, configuration, volumes,
//! and what tells Prometheus of the coordinator.

use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, SecretKeySelector, Service, ServicePort, ServiceSpec,
    VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::keys;
use super::labels::{self, HTTP_PORT, PORT, Role};
use super::wanted::{Volume, Wanted};
use crate::cli::{Access, Keys, Monitoring};

/// The headless service that gives the pods of two Jobs their names. Also of those that are not ready: a coordinator is
/// looked for before it is.
#[must_use]
pub fn service(wanted: &Wanted) -> Service {
    Service {
        metadata: labels::metadata(wanted, ""),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::of(wanted)),
            ports: Some(vec![ServicePort { name: Some("grpc".into()), port: PORT.into(), ..Default::default() }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// `run.toml`, every default written out.
#[must_use]
pub fn configuration(wanted: &Wanted) -> ConfigMap {
    ConfigMap {
        metadata: labels::metadata(wanted, "run"),
        data: Some([("run.toml".to_owned(), wanted.config.to_toml())].into()),
        ..ConfigMap::default()
    }
}

/// The claims that are to be made.
#[must_use]
pub fn claims(wanted: &Wanted) -> Vec<PersistentVolumeClaim> {
    let claim = |part: &str, volume: &Volume| {
        let size = volume.made.as_ref()?.wire();
        Some(PersistentVolumeClaim {
            metadata: labels::metadata(wanted, part),
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(vec![access(wanted.access).into()]),
                storage_class_name: wanted.storage_class.clone(),
                resources: Some(VolumeResourceRequirements {
                    requests: Some([("storage".to_owned(), size)].into()),
                    limits: None,
                }),
                ..PersistentVolumeClaimSpec::default()
            }),
            status: None,
        })
    };
    [claim("data", &wanted.data), claim("runs", &wanted.runs)].into_iter().flatten().collect()
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Many => "ReadWriteMany",
        Access::Once => "ReadWriteOnce",
    }
}

/// The pods of a run reach each other, on any port (their collectives choose them), and ask for names; nothing else reaches
/// them, nor they anything. Volumes and probes are the machine's, and not the pods', affair.
#[must_use]
pub fn network_policy(wanted: &Wanted) -> NetworkPolicy {
    let each_other = || NetworkPolicyPeer { pod_selector: Some(labels::all(wanted)), ..Default::default() };
    let port = |protocol: &str, port: u16| NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(port.into())),
        end_port: None,
    };
    let mut ingress = vec![NetworkPolicyIngressRule { from: Some(vec![each_other()]), ports: None }];
    if wanted.monitoring != Monitoring::None {
        let anywhere = NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..Default::default() };
        let ports = Some(vec![port("TCP", HTTP_PORT)]);
        ingress.push(NetworkPolicyIngressRule { from: Some(vec![anywhere]), ports });
    }
    let names = NetworkPolicyEgressRule { to: None, ports: Some(vec![port("UDP", 53), port("TCP", 53)]) };
    NetworkPolicy {
        metadata: labels::metadata(wanted, ""),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels::all(wanted)),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(ingress),
            egress: Some(vec![NetworkPolicyEgressRule { to: Some(vec![each_other()]), ports: None }, names]),
        }),
    }
}

/// `monitoring.coreos.com/v1`, as much of it as is used here.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitor {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta,
    spec: PodMonitorSpec,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodMonitorSpec {
    selector: LabelSelector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    port: &'static str,
    path: &'static str,
    interval: &'static str,
    scheme: &'static str,
    tls_config: TlsConfig,
    authorization: Authorization,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum TlsConfig {
    /// It knows the coordinator by the run's authority.
    #[serde(rename_all = "camelCase")]
    Authority { ca: FromSecret, server_name: &'static str },
    /// With a token alone the coordinator's certificate is its own.
    #[serde(rename_all = "camelCase")]
    Unknown { insecure_skip_verify: bool },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct FromSecret {
    secret: SecretKeySelector,
}

/// The page key of those who look on, as `Authorization: Bearer`.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Authorization {
    credentials: SecretKeySelector,
}

/// Tells the Prometheus operator of the coordinator, if that was asked for.
#[must_use]
pub fn pod_monitor(wanted: &Wanted) -> Option<PodMonitor> {
    (wanted.monitoring == Monitoring::PodMonitor).then(|| PodMonitor {
        api_version: "monitoring.coreos.com/v1",
        kind: "PodMonitor",
        metadata: labels::metadata(wanted, ""),
        spec: PodMonitorSpec {
            selector: labels::only(wanted, Role::Coordinator),
            pod_metrics_endpoints: vec![endpoint(wanted)],
        },
    })
}

fn endpoint(wanted: &Wanted) -> Endpoint {
    let name = labels::metadata(wanted, "keys").name.unwrap_or_default();
    let key = |key: &str| SecretKeySelector { name: name.clone(), key: key.into(), optional: None };
    let tls_config = match wanted.keys {
        Keys::Certificates => TlsConfig::Authority {
            ca: FromSecret { secret: key("ca.pem") },
            server_name: began_credentials::COORDINATOR_NAME,
        },
        Keys::Token => TlsConfig::Unknown { insecure_skip_verify: true },
    };
    Endpoint {
        port: "http",
        path: "/metrics",
        interval: "15s",
        scheme: "https",
        tls_config,
        authorization: Authorization { credentials: key(keys::PAGE_OBSERVER) },
    }
}
