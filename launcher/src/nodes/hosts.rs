//! The hosts that people write down: in a list, or in a file as MPI's launchers read them.
//!
//! A list has the form `host1,user@host2:2222:slots=8`. A file has a host a line, `host2 slots=8 port=2222 user=me`, with `#`
//! before remarks.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// A host to be reached over ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `host`, or `user@host`.
    pub name: String,
    /// Its sshd's port, if it is not the usual one.
    pub port: Option<u16>,
    /// How many trainers it has room for, if that was said.
    pub slots: Option<u32>,
}

/// The hosts of `--hosts`: those of a file of this name, or those that it lists.
///
/// # Errors
/// The first that cannot be understood, with its line.
pub fn read(text: &str) -> Result<Vec<Host>> {
    let path = Path::new(text);
    let hosts = if path.is_file() {
        let lines = std::fs::read_to_string(path).with_context(|| format!("cannot read --hosts {text}"))?;
        of_file(&lines).map_err(|error| anyhow!("--hosts {text}, {error:#}"))?
    } else if text.contains('/') && !text.contains(',') {
        bail!("--hosts {text}: there is no such file");
    } else {
        text.split(',').map(of_list).collect::<Result<_>>().context("--hosts")?
    };
    if hosts.is_empty() {
        bail!("--hosts {text} names no host");
    }
    for (index, host) in hosts.iter().enumerate() {
        if hosts[..index].iter().any(|before| (&before.name, before.port) == (&host.name, host.port)) {
            bail!("--hosts names {} twice; a host is one node, with as many trainers as it has slots", host.name);
        }
    }
    Ok(hosts)
}

fn of_file(text: &str) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let host = || -> Result<Host> {
            let mut host = of_list(name)?;
            for word in words {
                match word.split_once('=') {
                    Some(("slots", slots)) => host.slots = Some(slots_of(slots)?),
                    Some(("port", port)) => host.port = Some(port_of(port)?),
                    Some(("user", user)) => host.name = format!("{user}@{}", host.name),
                    _ => bail!("{word:?} is none of slots=N, port=N, user=NAME"),
                }
            }
            Ok(host)
        };
        hosts.push(host().with_context(|| format!("line {number}"))?);
    }
    Ok(hosts)
}

fn of_list(text: &str) -> Result<Host> {
    let text = text.trim();
    // An address of IPv6 has colons of its own.
    let (name, rest) = match text.find(']') {
        Some(end) if text.contains('[') => text.split_at(end + 1),
        _ => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let name: String = name.chars().filter(|letter| !matches!(letter, '[' | ']')).collect();
    let usable = |letter: char| letter.is_alphanumeric() || "-._@:%".contains(letter);
    // What begins with a dash would be an option to ssh.
    if name.is_empty() || name.starts_with('-') || name.ends_with('@') || !name.chars().all(usable) {
        bail!("{text:?} is no host, as in host1, user@host2 or host3:slots=8");
    }
    let mut host = Host { name, port: None, slots: None };
    for part in rest.split(':').skip(1) {
        match part.split_once('=') {
            Some(("slots", slots)) => host.slots = Some(slots_of(slots)?),
            None => host.port = Some(port_of(part)?),
            Some(_) => bail!("{text:?}: {part:?} is neither a port nor slots=N"),
        }
    }
    Ok(host)
}

fn slots_of(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(slots @ 1..=1024) => Ok(slots),
        _ => bail!("slots={text} is not a number from 1 to 1024"),
    }
}

fn port_of(text: &str) -> Result<u16> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => bail!("{text:?} is no port (1 to 65535), nor slots=N"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: Option<u16>, slots: Option<u32>) -> Host {
        Host { name: name.into(), port, slots }
    }

    #[test]
    fn a_list_has_users_ports_and_slots() -> Result<()> {
        assert_eq!(
            read("a,me@b:2222:slots=8,10.0.0.3:slots=2,[fe80::1]:22")?,
            [
                host("a", None, None),
                host("me@b", Some(2222), Some(8)),
                host("10.0.0.3", None, Some(2)),
                host("fe80::1", Some(22), None)
            ]
        );
        Ok(())
    }

    #[test]
    fn a_file_has_a_host_a_line() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("hosts");
        std::fs::write(&file, "# my hosts\n\nnode1 slots=8 # the big one\nnode2 port=2222 user=me\n")?;
        let hosts = read(&file.display().to_string())?;
        assert_eq!(hosts, [host("node1", None, Some(8)), host("me@node2", Some(2222), None)]);
        std::fs::write(&file, "node1\nnode2 gpus=8\n")?;
        let error = format!("{:#}", read(&file.display().to_string()).unwrap_err());
        assert!(error.contains("line 2") && error.contains("gpus=8"), "{error}");
        Ok(())
    }

    #[test]
    fn what_is_no_host_is_refused_by_name() {
        for (text, words) in [
            ("a,,b", "\"\" is no host"),
            ("-oProxyCommand=x", "is no host"),
            ("a:99999", "99999"),
            ("a:slots=0", "slots=0"),
            ("a:rank=3", "rank=3"),
            ("a,a", "twice"),
            ("no/such/file", "no such file"),
            ("a b", "is no host"),
        ] {
            let error = format!("{:#}", read(text).expect_err(text));
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
