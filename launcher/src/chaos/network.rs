//! A cut network: everything on one trainer's TCP connections is dropped, by the kernel's packet filter, for a while.
//!
//! The rules stand in a table (nft) or a chain (iptables) of their own, named after this process, and go when the cut is
//! dropped: nothing of anyone else's is touched. What the trainer opens meanwhile is cut, too, when [`Cut::widen`] is called.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What can drop packets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// nftables.
    Nft,
    /// iptables.
    Iptables,
}

/// A trainer that is cut off.
pub struct Cut {
    filter: Filter,
    name: String,
    pid: u32,
    ports: BTreeSet<u16>,
}

/// Finds a packet filter that this process may use, by making an empty table or chain and removing it again.
///
/// # Errors
/// If there is none.
pub fn find() -> Result<Filter> {
    let mut reasons = Vec::new();
    for filter in [Filter::Nft, Filter::Iptables] {
        let name = name();
        match apply(&filter.begin(&name)) {
            Ok(()) => {
                let _ = apply(&filter.end(&name));
                return Ok(filter);
            }
            Err(error) => {
                let _ = apply(&filter.end(&name));
                reasons.push(format!("{error:#}"));
            }
        }
    }
    bail!(
        "--faults partition: no packet can be dropped here; it takes root and nft or iptables ({})",
        reasons.join("; ")
    )
}

fn name() -> String {
    format!("began_chaos_{}", std::process::id())
}

/// Cuts a process off.
///
/// # Errors
/// If the rules cannot be made; none is left then.
pub fn cut(filter: Filter, pid: u32) -> Result<Cut> {
    // From here on whatever was made goes when this is dropped.
    let mut cut = Cut { filter, name: name(), pid, ports: BTreeSet::new() };
    apply(&filter.begin(&cut.name))?;
    cut.widen()?;
    if cut.ports.is_empty() {
        bail!("process {pid} has no TCP connection to cut");
    }
    Ok(cut)
}

impl Cut {
    /// Cuts what the process has opened since.
    ///
    /// # Errors
    /// If the rules cannot be made.
    pub fn widen(&mut self) -> Result<()> {
        let fresh: Vec<u16> = ports_of(self.pid).difference(&self.ports).copied().collect();
        for port in fresh {
            apply(&self.filter.drop_port(&self.name, port))?;
            self.ports.insert(port);
        }
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = apply(&self.filter.end(&self.name)) {
            let _ = writeln!(std::io::stderr(), "the network of process {} is still cut: {error:#}", self.pid);
        }
    }
}

impl Filter {
    fn begin(self, name: &str) -> Vec<String> {
        match self {
            Self::Nft => vec![
                format!("nft add table inet {name}"),
                format!("nft add chain inet {name} input {{ type filter hook input priority -300 ; }}"),
                format!("nft add chain inet {name} output {{ type filter hook output priority -300 ; }}"),
            ],
            Self::Iptables => vec![
                format!("iptables -w -N {name}"),
                format!("iptables -w -I INPUT -j {name}"),
                format!("iptables -w -I OUTPUT -j {name}"),
            ],
        }
    }

    /// What comes to the port is dropped on its way in, what it sends on its way out.
    fn drop_port(self, name: &str, port: u16) -> Vec<String> {
        match self {
            Self::Nft => vec![
                format!("nft add rule inet {name} input tcp dport {port} drop"),
                format!("nft add rule inet {name} output tcp sport {port} drop"),
            ],
            Self::Iptables => vec![
                format!("iptables -w -A {name} -p tcp --dport {port} -m addrtype --dst-type LOCAL -j DROP"),
                format!("iptables -w -A {name} -p tcp --sport {port} -m addrtype --src-type LOCAL -j DROP"),
            ],
        }
    }

    fn end(self, name: &str) -> Vec<String> {
        match self {
            Self::Nft => vec![format!("nft delete table inet {name}")],
            Self::Iptables => vec![
                format!("iptables -w -D INPUT -j {name}"),
                format!("iptables -w -D OUTPUT -j {name}"),
                format!("iptables -w -F {name}"),
                format!("iptables -w -X {name}"),
            ],
        }
    }
}

/// Runs commands to their end, all of them even if one fails.
fn apply(commands: &[String]) -> Result<()> {
    let mut first = Ok(());
    for line in commands {
        let outcome = run(line);
        if first.is_ok() {
            first = outcome;
        }
    }
    first
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The local ports of a process's TCP sockets.
fn ports_of(pid: u32) -> BTreeSet<u16> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: BTreeSet<u64> =
        links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect();
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    tables.iter().flat_map(|table| ports_in(table, &sockets)).collect()
}

/// The local ports of those sockets in a table like `/proc/net/tcp`.
fn ports_in(table: &str, sockets: &BTreeSet<u64>) -> BTreeSet<u16> {
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let inode = fields.get(9)?.parse().ok()?;
        let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (sockets.contains(&inode) && port != 0).then_some(port)
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_of_a_process_are_those_of_its_sockets() -> Result<()> {
        let ours = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = ours.local_addr()?.port();
        assert!(ports_of(std::process::id()).contains(&port));
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1\n   \
                     1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1\n";
        assert_eq!(ports_in(table, &BTreeSet::from([4242])), BTreeSet::from([8080]));
        Ok(())
    }

    #[test]
    fn what_is_sent_over_a_cut_arrives_once_it_is_healed() -> Result<()> {
        use std::io::Read;
        use std::net::{TcpListener, TcpStream};
        use std::time::Duration;
        let filter = match find() {
            Ok(filter) => filter,
            Err(why) => {
                println!("skipped: {why:#}");
                return Ok(());
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut sender = TcpStream::connect(listener.local_addr()?)?;
        let (mut receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(Duration::from_millis(400)))?;
        let cut = cut(filter, std::process::id())?;
        sender.write_all(b"word")?;
        assert!(receiver.read(&mut [0; 4]).is_err(), "it went through");
        drop(cut);
        receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut word = [0; 4];
        receiver.read_exact(&mut word)?;
        assert_eq!(&word, b"word");
        Ok(())
    }

    #[test]
    fn whatever_is_made_is_unmade_by_name() {
        for filter in [Filter::Nft, Filter::Iptables] {
            let made = [filter.begin("began_chaos_7"), filter.drop_port("began_chaos_7", 8080)].concat();
            let unmade = filter.end("began_chaos_7");
            assert!(made.iter().chain(&unmade).all(|line| line.contains("began_chaos_7")), "{made:?} {unmade:?}");
        }
        assert_eq!(Filter::Nft.end("x"), ["nft delete table inet x"]);
    }
}
