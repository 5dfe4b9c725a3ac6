//! A cluster of SLURM of a test's own: slurmctld, a slurmd for each node, all on this machine, with devices that are none. All
//! that was started is ended when dropped.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{is_root, said, undirected, wait_for};

/// How long nodes may be silent before the controller holds them for dead.
const SILENCE: u32 = 5;

/// The cluster.
pub struct Slurm {
    folder: tempfile::TempDir,
    munged: Option<Child>,
    controller: Option<Child>,
    nodes: Vec<Option<Child>>,
}

impl Slurm {
    /// Starts one of `count` nodes with two devices each; nothing, with the reason printed, where SLURM is not installed.
    ///
    /// # Errors
    /// If it is there and does not start.
    pub fn start(count: u32) -> Result<Option<Self>> {
        for (program, package) in [
            ("/usr/sbin/munged", "munge"),
            ("/usr/sbin/slurmctld", "slurmctld"),
            ("/usr/sbin/slurmd", "slurmd"),
            ("/usr/bin/srun", "slurm-client"),
        ] {
            if !Path::new(program).exists() {
                println!("skipped: there is no {program} (Debian: {package})");
                return Ok(None);
            }
        }
        if !is_root() {
            println!("skipped: only root can make device nodes and start slurmd");
            return Ok(None);
        }
        let mut cluster = Self { folder: tempfile::tempdir()?, munged: None, controller: None, nodes: Vec::new() };
        // The sockets' folder must let others in and nobody write.
        std::fs::set_permissions(cluster.folder.path(), std::fs::Permissions::from_mode(0o755))?;
        cluster.begin(count)?;
        Ok(Some(cluster))
    }

    fn begin(&mut self, count: u32) -> Result<()> {
        for folder in ["munge", "state", "spool", "log"] {
            std::fs::create_dir(self.file(folder))?;
        }
        let mut key = [0; 128];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
        std::fs::write(self.file("munge.key"), key)?;
        std::fs::set_permissions(self.file("munge.key"), std::fs::Permissions::from_mode(0o600))?;
        let mut gres = String::new();
        for node in 0..count {
            for device in 0..2 {
                let made = Command::new("mknod")
                    .arg(self.file(&format!("gpu{node}-{device}")))
                    .args(["c", "1", "3"])
                    .output()?;
                ensure!(made.status.success(), "mknod: {}", said(&made));
                let file = self.file(&format!("gpu{node}-{device}"));
                gres += &format!("NodeName=n{node} Name=gpu File={}\n", file.display());
            }
        }
        std::fs::write(self.file("gres.conf"), gres)?;
        std::fs::write(self.file("cgroup.conf"), "# none\n")?;
        std::fs::write(self.file("slurm.conf"), self.config(count)?)?;

        let munge = self.file("munge");
        let mut munged = Command::new("/usr/sbin/munged");
        munged.args(["--foreground", "--force", "--num-threads", "2"]);
        munged.arg(format!("--socket={}", munge.join("socket").display()));
        munged.arg(format!("--key-file={}", self.file("munge.key").display()));
        munged.arg(format!("--pid-file={}", munge.join("pid").display()));
        munged.arg(format!("--seed-file={}", munge.join("seed").display()));
        munged.arg(format!("--log-file={}", munge.join("log").display()));
        self.munged = Some(quiet(munged).spawn().context("munged")?);
        wait_for("munged to listen", || munge.join("socket").exists().then_some(()))?;

        let config = self.file("slurm.conf");
        let mut controller = Command::new("/usr/sbin/slurmctld");
        controller.args(["-D", "-f"]).arg(&config).env("SLURM_CONF", &config);
        self.controller = Some(quiet(controller).spawn().context("slurmctld")?);
        for node in 0..count {
            self.nodes.push(None);
            self.start_node(node)?;
        }
        let ready = wait_for("SLURM's nodes to be idle", || {
            let states = self.ask("sinfo", &["-h", "-N", "-o", "%T"]).ok()?;
            (states.lines().filter(|state| *state == "idle").count() == count as usize).then_some(())
        });
        if let Err(error) = ready {
            bail!("{error:#}: {}", std::fs::read_to_string(self.file("log/controller")).unwrap_or_default());
        }
        Ok(())
    }

    fn config(&self, count: u32) -> Result<String> {
        let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let host = host.split('.').next().unwrap_or_default().to_owned();
        // Held all at once, so that no two are the same.
        let free: Vec<TcpListener> =
            (0..=count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let ports: Vec<u16> = free.iter().map(|port| Ok(port.local_addr()?.port())).collect::<std::io::Result<_>>()?;
        let at = self.folder.path().display();
        let mut text = format!(
            "ClusterName=began\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={}\nAuthType=auth/munge\n\
             AuthInfo=socket={at}/munge/socket,cred_expire=5\nCredType=cred/munge\nSlurmUser=root\nSlurmdUser=root\n\
             StateSaveLocation={at}/state\nSlurmdSpoolDir={at}/spool/%n\nSlurmctldPidFile={at}/controller.pid\n\
             SlurmdPidFile={at}/%n.pid\nSlurmctldLogFile={at}/log/controller\nSlurmdLogFile={at}/log/%n\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_CPU\nSwitchType=switch/none\nMpiDefault=none\nReturnToService=2\n\
             SlurmdTimeout={SILENCE}\nInactiveLimit=0\nKillWait=20\nJobRequeue=1\nGresTypes=gpu\n\
             SlurmdParameters=config_overrides\nSchedulerParameters=sched_interval=2,bf_interval=2\n",
            ports[0]
        );
        for node in 0..count as usize {
            text += &format!(
                "NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=8 RealMemory=1000 Gres=gpu:2\n",
                ports[node + 1]
            );
        }
        text += "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n";
        Ok(text)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the slurmd of a node.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_node(&mut self, node: u32) -> Result<()> {
        let config = self.file("slurm.conf");
        let mut daemon = Command::new("/usr/sbin/slurmd");
        daemon.args(["-D", "-N", &format!("n{node}"), "-f"]).arg(&config).env("SLURM_CONF", &config);
        self.nodes[node as usize] = Some(quiet(daemon).spawn().context("slurmd")?);
        Ok(())
    }

    /// Kills the slurmd of a node and what watches over its steps, as if the node had died; what runs in the steps stays.
    ///
    /// # Errors
    /// If it is dead already.
    pub fn kill_node(&mut self, node: u32) -> Result<()> {
        let mut daemon = self.nodes[node as usize].take().context("it is dead already")?;
        daemon.kill()?;
        daemon.wait()?;
        self.kill_steps(Some(node));
        Ok(())
    }

    /// Kills the processes that watch over steps: those of a node, or all.
    fn kill_steps(&self, node: Option<u32>) {
        let spool = self.file("spool");
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if !name.starts_with("slurmstepd") {
                continue;
            }
            let opened = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let files = opened.filter_map(|file| std::fs::read_link(file.path()).ok());
            let mut places = files.chain(std::fs::read_link(format!("/proc/{pid}/cwd")));
            let mine = match node {
                Some(node) => {
                    let (log, own) = (self.file(&format!("log/n{node}")), spool.join(format!("n{node}")));
                    places.any(|place| place == log || place.starts_with(&own))
                }
                None => places.any(|place| place.starts_with(self.folder.path())),
            };
            if mine {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// A command that speaks to this cluster.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = undirected(Command::new(program));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("SLURM_") {
                command.env_remove(key);
            }
        }
        command.env("SLURM_CONF", self.file("slurm.conf"));
        command
    }

    /// What one of SLURM's commands says.
    ///
    /// # Errors
    /// If it fails.
    pub fn ask(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        let output = crate::finish(command)?;
        ensure!(output.status.success(), "{program} {}: {}", args.join(" "), said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The state and the exit code of a job, as in `COMPLETED` and `0:0`.
    ///
    /// # Errors
    /// If there is no such job.
    pub fn job(&self, job: &str) -> Result<(String, String)> {
        let text = self.ask("scontrol", &["show", "job", "-o", job])?;
        let field = |name: &str| {
            let found = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        Ok((field("JobState"), field("ExitCode")))
    }
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if self.controller.is_some() {
            let _ = self.ask("scancel", &["--user", "root", "--signal", "KILL", "--full"]);
        }
        let daemons = self.nodes.iter_mut().flatten().chain(self.controller.as_mut()).chain(self.munged.as_mut());
        for daemon in daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.kill_steps(None);
    }
}
