//! Manifests from command lines: what is refused, and what the printed text says.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;

use super::documents;
use super::wanted::Wanted;
use crate::cli::{Cli, Command};

fn printed(line: &str) -> Result<String> {
    let words = format!("launcher kubernetes {line}");
    let Command::Kubernetes(args) = Cli::try_parse_from(words.split_whitespace())?.command else { bail!("{words}") };
    documents::of(&Wanted::checked(&args)?)
}

fn manifests(line: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(&printed(line)?)?)
}

fn find<'a>(manifests: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = manifests.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.with_context(|| format!("there is no {kind} {name}"))
}

/// Every value under a key, wherever it stands.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key));
            fields.values().for_each(|value| under(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| under(item, key, found)),
        _ => {}
    }
}

fn all_under<'a>(manifests: &'a [Value], key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    manifests.iter().for_each(|one| under(one, key, &mut found));
    found
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence_that_names_the_flag() {
    for (line, words) in [
        ("--nodes 0", "--nodes 0: a run needs at least one node"),
        ("--gpus 0", "--gpus 0"),
        ("--nodes -1", "--nodes"),
        ("--nodes many", "--nodes"),
        ("--nodes 100000", "10000 nodes are the most"),
        ("--nodes 10000 --gpus 8", "run.lanes"),
        ("--gpus 9", "taken to have 8 GPUs"),
        ("--gpus 9 --machine p5.48xlarge", "a p5.48xlarge has 8 GPUs"),
        ("--gpus 2 --machine p5.4xlarge", "has 1 GPU,"),
        ("--machine toaster", "--machine toaster:GPUS"),
        ("--gpus 2000 --device cpu", "1024"),
        ("--name Faces", "--name"),
        ("--env NCCL_DEBUG", "--env"),
        ("--env A=1 --env A=2", "A is given twice"),
        ("--name 4x8", "begins with a letter"),
        ("--name a_b", "--name"),
        ("--namespace Team", "no DNS label"),
        ("--queue Big_Queue", "--queue"),
        ("--topology rack/", "--topology"),
        ("--image Began", "--image"),
        ("--image-pull-secret S", "--image-pull-secret"),
        ("--data-claim a/b", "--data-claim"),
        ("--runs-claim A", "--runs-claim"),
        ("--storage-class Fast!", "--storage-class"),
        ("--data-size 100", "100 bytes"),
        ("--runs-size big", "not a quantity"),
        ("--memory lots", "not a quantity"),
        ("--memory 16", "16 bytes"),
        ("--cpus 0", "--cpus"),
        ("--cpus 4Gib", "--cpus"),
        ("--memory 4Gi --shared-memory 8Gi", "--shared-memory 8Gi leaves nothing"),
        ("--rdma infiniband", "no extended resource"),
        ("--rdma rdma/hca=0", "--rdma"),
        ("--node-selector gpu", "KEY=VALUE"),
        ("--node-selector a=1,a=2", "given twice"),
        ("--machine p5.48xlarge --node-selector node.kubernetes.io/instance-type=x", "leave one out"),
        ("--device auto", "--device"),
        ("--access ReadWriteSometimes", "ReadWriteMany"),
        ("--nodes 4 --gpus 8 --access ReadWriteOnce", "needs 32 GPUs where it has 8"),
        ("--jobset --trainjob", "exclude each other"),
        ("--grace 0", "--grace 0"),
        ("--grace 99999", "--grace"),
        ("--data /elsewhere", "--data"),
        ("--data ../runs", "--data"),
        ("--data $(HOME)", "--data"),
        ("--prepare synthetic:faces", "--prepare-count"),
        ("--prepare raw;rm", "--prepare"),
        ("--prepare-count 5", "--prepare"),
        ("--prepare raw --prepare-count 0", "--prepare-count 0"),
        ("--preset paper-99", "--preset"),
        ("--config no/such/file", "no/such/file"),
        ("--set run.stepz=1", "run.steps"),
        ("--set run.steps=0", "run.steps"),
        ("--set data.path=/x", "--data"),
        ("--nodes 4 --set run.lanes=3", "4 trainers"),
        ("--set run.min_trainers=2 --set run.lanes=8", "would never begin"),
        ("--monitoring maybe", "--monitoring"),
    ] {
        let error = printed(line).map(drop).expect_err(line);
        let error = format!("{error:#}");
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn a_node_is_one_pod_with_its_gpus_and_knows_its_index_and_its_coordinator() -> Result<()> {
    let manifests = manifests("--nodes 4 --gpus 8 --name faces --rdma vpc.amazonaws.com/efa=4 --machine p5.48xlarge")?;
    let nodes = find(&manifests, "Job", "faces-nodes")?;
    assert_eq!((&nodes["spec"]["completions"], &nodes["spec"]["parallelism"]), (&4.into(), &4.into()));
    assert_eq!(nodes["spec"]["completionMode"], "Indexed");
    let pod = &nodes["spec"]["template"]["spec"];
    assert_eq!((&pod["subdomain"], &pod["restartPolicy"]), (&"faces".into(), &"Never".into()));
    assert_eq!(pod["nodeSelector"]["node.kubernetes.io/instance-type"], "p5.48xlarge");
    let container = &pod["containers"][0];
    assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], "8");
    assert_eq!(container["resources"]["limits"]["vpc.amazonaws.com/efa"], "4");
    let env = container["env"].as_array().context("env")?;
    let variable = |name: &str| env.iter().find(|one| one["name"] == name).context(name.to_owned());
    assert_eq!(variable("BEGAN_COORDINATOR_ADDRESS")?["value"], "faces-coordinator-0.faces:7430");
    let path = &variable("BEGAN_NODE")?["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(path, "metadata.annotations['batch.kubernetes.io/job-completion-index']");
    find(&manifests, "Service", "faces")?;
    let coordinator = find(&manifests, "Job", "faces-coordinator")?;
    let probes = &coordinator["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let command: Vec<&str> =
            probes[probe]["exec"]["command"].as_array().context("exec")?.iter().filter_map(Value::as_str).collect();
        assert_eq!(command[1..], ["status", "127.0.0.1:7430"]);
    }
    Ok(())
}

#[test]
fn no_container_runs_as_root_or_writes_into_its_image() -> Result<()> {
    for line in [
        "",
        "--jobset",
        "--trainjob --queue q",
        "--device cpu --prepare synthetic:faces --prepare-count 9 --data-claim d",
    ] {
        let manifests = manifests(line)?;
        let pods: Vec<&Value> = all_under(&manifests, "containers");
        let containers = pods.into_iter().chain(all_under(&manifests, "initContainers"));
        let containers: Vec<&Value> = containers.flat_map(|list| list.as_array().into_iter().flatten()).collect();
        assert!(containers.len() >= 2, "{line}");
        for container in containers {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"], serde_json::json!({ "drop": ["ALL"] }));
            assert!(container["resources"]["limits"]["memory"].is_string(), "{line}");
        }
        assert_eq!(all_under(&manifests, "runAsNonRoot"), [&Value::Bool(true), &Value::Bool(true)]);
        assert!(all_under(&manifests, "seccompProfile").iter().all(|profile| profile["type"] == "RuntimeDefault"));
    }
    Ok(())
}

#[test]
fn run_toml_is_in_it_with_every_default_and_the_lanes_of_the_launch() -> Result<()> {
    let manifests = manifests("--nodes 2 --gpus 4 --preset paper-128 --set run.steps=7 --data sets/celeba")?;
    let text = find(&manifests, "ConfigMap", "began-run")?["data"]["run.toml"].as_str().context("text")?;
    let config = began::RunConfig::default().overlay(text, "run.toml")?;
    assert_eq!((config.run.lanes, config.run.steps, config.model.filters), (8, 7, 128));
    assert_eq!(config.data.path, "/data/sets/celeba");
    assert_eq!(config.to_toml(), text);
    Ok(())
}

#[test]
fn a_queue_suspends_what_it_is_to_let_in_and_knows_the_topology_itself() -> Result<()> {
    let line = "--queue users --topology cloud.google.com/gce-topology-block";
    for (keeper, names, kind) in [
        ("", vec!["began-coordinator", "began-nodes"], "Job"),
        ("--jobset", vec!["began"], "JobSet"),
        ("--trainjob", vec!["began"], "TrainJob"),
    ] {
        let manifests = manifests(&format!("{line} {keeper} --nodes 2"))?;
        for name in names {
            let queued = find(&manifests, kind, name)?;
            assert_eq!(queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "users");
            assert_eq!(queued["spec"]["suspend"], true);
        }
        let required = all_under(&manifests, "kueue.x-k8s.io/podset-required-topology");
        assert_eq!(required, ["cloud.google.com/gce-topology-block"]);
        assert!(all_under(&manifests, "podAffinity").is_empty());
    }
    let without = manifests("--topology rack --nodes 2")?;
    assert_eq!(all_under(&without, "podAffinity").len(), 1);
    Ok(())
}

#[test]
fn claims_that_are_there_are_used_and_others_made() -> Result<()> {
    let made = manifests("--storage-class fast --data-size 1Ti")?;
    assert_eq!(find(&made, "PersistentVolumeClaim", "began-data")?["spec"]["resources"]["requests"]["storage"], "1Ti");
    let used = manifests("--data-claim photos --runs-claim results")?;
    assert!(used.iter().all(|one| one["kind"] != "PersistentVolumeClaim"));
    let claims: BTreeSet<&str> = all_under(&used, "claimName").into_iter().filter_map(Value::as_str).collect();
    assert_eq!(claims, ["photos", "results"].into());
    Ok(())
}

#[test]
fn manifests_hold_no_key_and_each_pod_sees_only_its_own() -> Result<()> {
    for (keys, coordinator, node) in [("token", "token", "token"), ("certificates", "coordinator.key", "trainer.key")] {
        let manifests = manifests(&format!("--keys {keys}"))?;
        let secret = find(&manifests, "Secret", "began-keys")?;
        assert!(secret.get("data").is_none() && secret.get("stringData").is_none());
        let seen = |job: &str| -> Result<Vec<String>> {
            let mut items = Vec::new();
            under(find(&manifests, "Job", job)?, "items", &mut items);
            let keys = items.iter().flat_map(|items| items.as_array().into_iter().flatten());
            Ok(keys.filter_map(|item| item["key"].as_str().map(str::to_owned)).collect())
        };
        assert!(seen("began-coordinator")?.contains(&coordinator.to_owned()));
        assert!(seen("began-nodes")?.contains(&node.to_owned()));
        assert!(!seen("began-nodes")?.contains(&"coordinator.key".to_owned()));
    }
    Ok(())
}

#[test]
fn fresh_keys_are_long_and_never_the_same() -> Result<()> {
    let Command::Kubernetes(args) = Cli::try_parse_from(["launcher", "kubernetes", "--print-keys"])?.command else {
        bail!("not kubernetes")
    };
    let token = || -> Result<String> {
        let secret = super::keys::fresh(&Wanted::checked(&args)?)?;
        Ok(secret.string_data.context("data")?["token"].clone())
    };
    let (one, other) = (token()?, token()?);
    assert!(one.len() == 64 && one != other);
    Ok(())
}

#[test]
fn a_namespace_is_on_every_object() -> Result<()> {
    for keeper in ["", "--jobset", "--trainjob"] {
        let manifests = manifests(&format!("--namespace team {keeper} --monitoring pod-monitor"))?;
        assert!(manifests.iter().all(|one| one["metadata"]["namespace"] == "team"));
    }
    Ok(())
}

#[test]
fn fresh_certificates_are_all_that_the_pods_ask_for_and_the_authority_is_gone() -> Result<()> {
    let line = ["launcher", "kubernetes", "--print-keys", "--keys", "certificates"];
    let Command::Kubernetes(args) = Cli::try_parse_from(line)?.command else { bail!("not kubernetes") };
    let wanted = Wanted::checked(&args)?;
    let made = super::keys::fresh(&wanted)?.string_data.context("data")?;
    for role in [super::labels::Role::Coordinator, super::labels::Role::Node] {
        for file in super::keys::files(&wanted, role) {
            assert!(made.get(&file.key).is_some_and(|text| text.starts_with("-----BEGIN")), "{}", file.key);
        }
    }
    assert!(!made.contains_key("ca.key"));
    Ok(())
}

#[test]
fn a_variable_is_in_every_container_and_stands_for_itself() -> Result<()> {
    let text = "--env OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4317 --env A=$(HOME)";
    let manifests = manifests(text)?;
    let lists: Vec<_> = all_under(&manifests, "env");
    assert!(lists.len() >= 2, "{}", lists.len());
    for list in lists {
        let value = |name: &str| list.as_array()?.iter().find(|one| one["name"] == name)?["value"].as_str();
        assert_eq!(value("OTEL_EXPORTER_OTLP_ENDPOINT"), Some("http://collector:4317"), "{list}");
        assert_eq!(value("A"), Some("$$(HOME)"));
    }
    Ok(())
}
