//! A run from its Kubernetes manifests, without Kubernetes: every pod is a process with the command, the variables and the
//! files that the manifests give it. Only places are others: folders for volumes, loopback for the pods' names.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Desk, Running, SMALL, program, programs, succeed};

/// The name of the run, in its manifests and (below `runs/`) on its desk.
pub const NAME: &str = "faces";

/// The manifests of a run on a desk, and where their places are here.
pub struct Pods {
    /// Data, volumes and the run.
    pub desk: Desk,
    manifests: Vec<Value>,
    port: u16,
}

impl Pods {
    /// Prints manifests of a small run of four lanes, and lays out what a cluster would mount.
    ///
    /// # Errors
    /// If they cannot be printed or read.
    pub fn new(nodes: u32, gpus: u32, steps: u64, more: &[&str]) -> Result<Self> {
        let desk = Desk::new()?;
        let mut flags: Vec<String> = ["kubernetes", "--name", NAME, "--data", "data"].map(String::from).to_vec();
        flags.extend(["--nodes".into(), nodes.to_string(), "--gpus".into(), gpus.to_string()]);
        flags.extend(SMALL.map(String::from));
        flags.extend(["--set", "model.size=16", "--set", &format!("run.steps={steps}")].map(String::from));
        flags.extend(more.iter().map(|&flag| flag.to_owned()));
        let manifests: Vec<Value> = serde_saphyr::from_multiple(&succeed("launcher", &flags)?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let pods = Self { desk, manifests, port };
        for folder in ["runs", "keys", "configuration"] {
            fs::create_dir(pods.desk.path(folder))?;
        }
        flags.push("--print-keys".into());
        let keys: Vec<Value> = serde_saphyr::from_multiple(&succeed("launcher", &flags)?)?;
        for (name, text) in keys[0]["stringData"].as_object().context("the Secret has no keys")? {
            fs::write(pods.desk.path("keys").join(name), text.as_str().context("a key")?)?;
        }
        let configuration = pods.find("ConfigMap", "-run")?["data"]["run.toml"].as_str().context("run.toml")?;
        let here = configuration.replace("\"/data/", &format!("\"{}/", pods.desk.arg("")));
        fs::write(pods.desk.path("configuration/run.toml"), here)?;
        Ok(pods)
    }

    fn find(&self, kind: &str, part: &str) -> Result<&Value> {
        let name = format!("{NAME}{part}");
        let found = self.manifests.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name.as_str());
        found.with_context(|| format!("no {kind} {name}"))
    }

    /// The Job of the coordinator, or of the nodes; in a JobSet, too.
    ///
    /// # Errors
    /// If there is none.
    pub fn job(&self, part: &str) -> Result<&Value> {
        if let Ok(set) = self.find("JobSet", "") {
            let jobs = set["spec"]["replicatedJobs"].as_array().context("replicatedJobs")?;
            return Ok(&jobs.iter().find(|job| job["name"] == part).context("a job")?["template"]["spec"]);
        }
        Ok(&self.find("Job", &format!("-{part}"))?["spec"])
    }

    /// What a Job does with a pod that ends with this code, by its policy.
    ///
    /// # Errors
    /// If it has none.
    pub fn action(&self, part: &str, code: i32) -> Result<Option<&str>> {
        let rules = self.job(part)?["podFailurePolicy"]["rules"].as_array().context("rules")?;
        let of_code = |rule: &&Value| {
            let values = rule["onExitCodes"]["values"].as_array();
            values.is_some_and(|values| values.contains(&code.into()))
        };
        Ok(rules.iter().find(of_code).and_then(|rule| rule["action"].as_str()))
    }

    fn here(&self, text: &str) -> String {
        let (port, desk) = (self.port, &self.desk);
        let places = [
            ("/runs", desk.arg("runs")),
            ("/data", desk.arg("")),
            ("/etc/began/tls", desk.arg("keys")),
            ("/etc/began/run", desk.arg("configuration")),
            ("/opt/began/bin", programs().display().to_string()),
        ];
        for (there, here) in places {
            if let Some(rest) = text.strip_prefix(there).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                return format!("{here}{rest}");
            }
        }
        match text.rsplit_once(':') {
            Some((_, "7430")) => format!("127.0.0.1:{port}"),
            _ => text.to_owned(),
        }
    }

    /// A command in a pod, with its variables; `index` is the pod's completion index.
    fn inside<'a>(&self, part: &str, index: u32, words: impl IntoIterator<Item = &'a str>) -> Result<Command> {
        let mut words = words.into_iter().map(|word| self.here(word));
        let mut command = program(&words.next().context("a program")?);
        command.args(words);
        for variable in self.container(part)?["env"].as_array().context("env")? {
            let name = variable["name"].as_str().context("a name")?;
            let value = match variable["value"].as_str() {
                Some(value) => self.here(value),
                None => {
                    let path = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
                    ensure!(path.ends_with("['batch.kubernetes.io/job-completion-index']"), "{name} is {path}");
                    index.to_string()
                }
            };
            command.env(name, value);
        }
        Ok(command)
    }

    fn container(&self, part: &str) -> Result<&Value> {
        Ok(&self.job(part)?["template"]["spec"]["containers"][0])
    }

    fn start(&self, part: &str, index: u32) -> Result<Running> {
        Running::start(self.inside(part, index, words(&self.container(part)?["command"])?)?)
    }

    /// Starts the coordinator's pod.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn coordinator(&self) -> Result<Running> {
        self.start("coordinator", 0)
    }

    /// Starts a node's pod.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn node(&self, index: u32) -> Result<Running> {
        self.start("nodes", index)
    }

    /// What the coordinator's probe runs.
    ///
    /// # Errors
    /// If there is none.
    pub fn probe(&self) -> Result<Command> {
        let probe = &self.container("coordinator")?["readinessProbe"]["exec"]["command"];
        self.inside("coordinator", 0, words(probe)?)
    }

    /// A command of the launcher in the coordinator's pod, as `kubectl exec` starts it.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn launcher(&self, words: &[&str]) -> Result<Command> {
        self.inside("coordinator", 0, std::iter::once("/opt/began/bin/launcher").chain(words.iter().copied()))
    }
}

fn words(list: &Value) -> Result<Vec<&str>> {
    Ok(list.as_array().context("a command")?.iter().filter_map(Value::as_str).collect())
}
