//! Hosts of a test's own, to be reached over ssh: addresses of the loopback network, each with an sshd of its own that knows
//! one key. They see this machine's files. All that was started is ended when dropped.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Namespaces, wait_for};

/// Hosts over ssh.
pub struct SshHosts {
    folder: tempfile::TempDir,
    daemons: Vec<Option<Child>>,
    addresses: Vec<String>,
    ports: Vec<u16>,
}

impl SshHosts {
    /// Starts `count` of them, at 127.0.0.2 and on; nothing, with the reason printed, where there is no sshd.
    ///
    /// # Errors
    /// If sshd is there and does not start.
    pub fn start(count: u8) -> Result<Option<Self>> {
        let addresses = (0..count).map(|node| format!("127.0.0.{}", node + 2)).collect();
        Self::start_at(addresses, |_, sshd| Command::new(sshd))
    }

    /// Starts one on each of these nodes, which have nothing but a cable between them.
    ///
    /// # Errors
    /// If sshd is there and does not start.
    pub fn on(nodes: &Namespaces) -> Result<Option<Self>> {
        let addresses = (0..nodes.count()).map(|node| nodes.address_of(node)).collect();
        Self::start_at(addresses, |node, sshd| nodes.program(node, sshd))
    }

    fn start_at(addresses: Vec<String>, command: impl Fn(u32, &str) -> Command) -> Result<Option<Self>> {
        let sshd = "/usr/sbin/sshd";
        if !Path::new(sshd).exists() {
            println!("skipped: there is no sshd (Debian: openssh-server)");
            return Ok(None);
        }
        if Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
            println!("skipped: there is no ssh (Debian: openssh-client)");
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        // sshd trusts no key that others could write.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
        if crate::is_root() {
            // Where sshd, started by root, goes to be without rights.
            std::fs::create_dir_all("/run/sshd")?;
        }
        let mut hosts = Self { folder, daemons: Vec::new(), addresses, ports: Vec::new() };
        for key in ["host", "user", "stranger"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(hosts.file(key))
                .stdin(Stdio::null())
                .output()?;
            ensure!(made.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&made.stderr));
        }
        std::fs::copy(hosts.file("user.pub"), hosts.file("authorized"))?;
        for (node, address) in (0..).zip(hosts.addresses.clone()) {
            // On another node every port is free.
            let here = TcpListener::bind((address.as_str(), 0));
            let port = here.and_then(|listener| listener.local_addr()).map_or(22, |free| free.port());
            let config = [
                format!("ListenAddress {address}:{port}"),
                format!("HostKey {}", hosts.file("host").display()),
                format!("AuthorizedKeysFile {}", hosts.file("authorized").display()),
                format!("PidFile {}", hosts.file(&format!("pid-{node}")).display()),
                "PasswordAuthentication no".into(),
                "KbdInteractiveAuthentication no".into(),
                "UsePAM no".into(),
                "PermitRootLogin yes".into(),
                "StrictModes no".into(),
                "MaxStartups 100".into(),
            ];
            let path = hosts.file(&format!("sshd-{node}"));
            std::fs::write(&path, config.join("\n") + "\n")?;
            let daemon = hosts.daemon(command(node, sshd), node as usize)?;
            hosts.daemons.push(Some(daemon));
            hosts.ports.push(port);
        }
        for (node, (address, port)) in hosts.addresses.iter().zip(&hosts.ports).enumerate() {
            if wait_for("sshd to listen", || TcpStream::connect((address.as_str(), *port)).ok()).is_err() {
                bail!("sshd of {address} does not listen: {}", hosts.log(node));
            }
        }
        Ok(Some(hosts))
    }

    /// Starts the sshd of a host with what was written for it.
    fn daemon(&self, mut command: Command, node: usize) -> Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.file(&format!("log-{node}")))?;
        command.args(["-D", "-e", "-f"]).arg(self.file(&format!("sshd-{node}")));
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the sshd of a host wrote.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.file(&format!("log-{node}"))).unwrap_or_default()
    }

    /// The launcher's arguments to run on these hosts.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let each = self.addresses.iter().zip(&self.ports).map(|(address, port)| format!("{address}:{port}"));
        let hosts: Vec<String> = each.collect();
        let options = format!(
            "-F none -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.file("user").display()
        );
        vec!["--hosts".into(), hosts.join(","), format!("--ssh-args={options}")]
    }

    /// From now on the hosts know another key only.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn forget_the_key(&self) -> Result<()> {
        std::fs::copy(self.file("stranger.pub"), self.file("authorized"))?;
        Ok(())
    }

    /// Ends the sshd of a host; connections that it has handed on stay.
    ///
    /// # Errors
    /// If it is gone.
    pub fn shut(&mut self, node: usize) -> Result<()> {
        let mut daemon = self.daemons[node].take().context("it is shut already")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Kills the sshd of a host and every process that it started for a connection.
    ///
    /// # Errors
    /// If it is gone.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        let sessions = self.sessions(node)?;
        self.shut(node)?;
        for session in sessions {
            let _ = kill(session, Signal::SIGKILL);
        }
        Ok(())
    }

    /// Starts the sshd of a host of the loopback network again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn revive(&mut self, node: usize) -> Result<()> {
        let daemon = self.daemon(Command::new("/usr/sbin/sshd"), node)?;
        self.daemons[node] = Some(daemon);
        Ok(())
    }

    /// The processes that sshd started for the connections to a host.
    ///
    /// # Errors
    /// If it is gone.
    pub fn sessions(&self, node: usize) -> Result<Vec<Pid>> {
        let daemon = self.daemons[node].as_ref().context("it is shut")?;
        Ok(children(daemon.id()))
    }

    /// The ssh clients that a process started for a host.
    #[must_use]
    pub fn clients(&self, launcher: Pid, node: usize) -> Vec<Pid> {
        let address = &self.addresses[node];
        let of_host = |pid: &Pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
            words.first().is_some_and(|word| word.ends_with(b"ssh")) && words.contains(&address.as_bytes())
        };
        children(launcher.as_raw().unsigned_abs()).into_iter().filter(of_host).collect()
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        behind.split(' ').nth(1) == Some(parent.to_string().as_str())
    };
    pids.filter(is_child).map(Pid::from_raw).collect()
}

impl Drop for SshHosts {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().flatten() {
            // What serves a connection outlives the daemon, and where a cable was pulled no client ends it.
            for session in children(daemon.id()) {
                let _ = kill(session, Signal::SIGKILL);
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
