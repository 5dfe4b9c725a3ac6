//! Nodes over the system's own ssh: one connection a program.
//!
//! The program at the other end must end when its stdin closes: sshd closes it when the connection goes, and nothing else does.
//! ssh itself never asks for anything, and gives up a host that does not answer.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::hosts::Host;
use super::{Backend, Start};
use crate::child::Exit;
use crate::tied;

/// How long a host may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// ssh's code for an error of its own, and for a program at the other end that a signal killed.
const FAILED: i32 = 255;

/// Hosts over ssh.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// One a node, in order.
    pub hosts: Vec<Host>,
    /// More arguments for ssh.
    pub arguments: Vec<String>,
    /// The launcher's program on the hosts.
    pub launcher: PathBuf,
    /// What every program there gets in its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// A connection over which nothing came for this long is given up.
    pub lost_after: Duration,
}

impl Backend for Ssh {
    fn name(&self) -> &'static str {
        "over ssh"
    }

    fn host(&self, node: u32) -> &str {
        self.hosts.get(node as usize).map_or("nowhere", |host| &host.name)
    }

    fn command(&self, node: u32, start: &Start) -> Result<Command> {
        let host = self.hosts.get(node as usize).with_context(|| format!("there is no host for node {node}"))?;
        // The client must not outlive us: the other end sees its stdin close then.
        let mut command = tied::command(Path::new("ssh"))?;
        // Asked four times within the time, so that one lost answer is no lost host.
        let interval = (self.lost_after.as_secs() / 4).max(1);
        command
            .args(["-T", "-x", "-o", "BatchMode=yes"])
            .args(["-o", &format!("ConnectTimeout={}", CONNECT.as_secs())])
            .args(["-o", &format!("ServerAliveInterval={interval}"), "-o", "ServerAliveCountMax=3"])
            // A connection that is shared could be closed by another that shares it.
            .args(["-o", "ControlPath=none", "-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes"])
            .args(&self.arguments);
        if let Some(port) = host.port {
            command.args(["-p", &port.to_string()]);
        }
        command.arg("--").arg(&host.name).arg(self.remote(start));
        Ok(command)
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn keep(&mut self, nodes: &[u32]) {
        self.hosts = nodes.iter().filter_map(|&node| self.hosts.get(node as usize).cloned()).collect();
    }

    fn meaning(&self, node: u32, exit: Exit) -> Option<String> {
        (exit.code == Some(FAILED)).then(|| {
            format!(
                "ssh to {} ended with {FAILED}: the connection was refused or lost, or a signal killed what ran there",
                self.host(node)
            )
        })
    }
}

impl Ssh {
    /// What the shell of the host is to run; it becomes the program.
    fn remote(&self, start: &Start) -> OsString {
        let mut line = b"exec env".to_vec();
        for (name, value) in self.environment.iter().chain(&start.environment) {
            let mut word = name.clone();
            word.push("=");
            word.push(value);
            line.push(b' ');
            line.extend(quoted(&word));
        }
        for word in [self.launcher.as_os_str()].into_iter().chain(start.arguments.iter().map(OsString::as_os_str)) {
            line.push(b' ');
            line.extend(quoted(word));
        }
        OsString::from_vec(line)
    }
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &OsStr) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._/=:,@%+".contains(byte);
    let bytes = word.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    let mut quoted = vec![b'\''];
    for &byte in bytes {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_told_is_what_was_meant() -> std::io::Result<()> {
        let words = ["a b", "it's", "$HOME", "", "plain-1.2/x", "`ls`", "new\nline", "\"\\"];
        let ssh = Ssh {
            hosts: Vec::new(),
            arguments: Vec::new(),
            launcher: "printf".into(),
            environment: vec![("A".into(), "x y".into())],
            lost_after: Duration::from_secs(30),
        };
        let arguments = ["%s|"].iter().chain(&words).map(OsString::from).collect();
        let line = ssh.remote(&Start { arguments, environment: Vec::new() });
        let output = std::process::Command::new("sh").arg("-c").arg(line).output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), words.map(|word| format!("{word}|")).concat());
        Ok(())
    }
}
