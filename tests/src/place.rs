//! Places of a test's own that only root can make: a small disk, and nodes that have nothing but a cable between them. Both
//! are taken down again when dropped.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::{programs, undirected};

/// Whether this is root, who may mount and make namespaces.
#[must_use]
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs a command of the system.
fn system(command: &str, args: &[&str]) -> Result<()> {
    let shown = format!("{command} {}", args.join(" "));
    let output = Command::new(command).args(args).stdin(Stdio::null()).output().with_context(|| shown.clone())?;
    ensure!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A disk in memory, of a few MiB.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts one of `mib` MiB at a folder, which is made.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn new(at: &Path, mib: u32) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        system("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &at.display().to_string()])?;
        Ok(Self { at: at.into() })
    }

    /// Fills it to the last byte; what fills it can be removed again.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn fill(&self) -> Result<PathBuf> {
        use std::io::Write;
        let path = self.at.join("filler");
        let mut file = std::fs::File::create(&path)?;
        let block = [7u8; 64 * 1024];
        let mut size = block.len();
        while size > 0 {
            // Ever smaller pieces, until not even one byte fits.
            if file.write_all(&block[..size]).is_err() {
                size /= 2;
            }
        }
        Ok(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that is still ending must not keep the mount for good.
        let _ = system("umount", &["-l", &self.at.display().to_string()]);
    }
}

/// Nodes with a network each, all on one bridge, on which this machine has an address too.
pub struct Namespaces {
    /// Tells them from those of other test programs and of other tests in this one.
    id: u32,
    count: u32,
}

impl Namespaces {
    /// Makes `count` of them.
    ///
    /// # Errors
    /// Why they cannot be made; nothing is left then.
    pub fn new(count: u32) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let id = std::process::id() * 4 + MADE.fetch_add(1, Ordering::Relaxed);
        let made = Self { id, count };
        made.make()?;
        Ok(made)
    }

    fn make(&self) -> Result<()> {
        let bridge = self.bridge();
        system("ip", &["link", "add", &bridge, "type", "bridge"])?;
        system("ip", &["addr", "add", &format!("{}/24", self.address()), "dev", &bridge])?;
        system("ip", &["link", "set", &bridge, "up"])?;
        for node in 0..self.count {
            let (name, cable, inner) = (self.name(node), self.cable(node), format!("bi{node}n{}", self.id));
            system("ip", &["netns", "add", &name])?;
            system("ip", &["link", "add", &cable, "type", "veth", "peer", "name", &inner])?;
            system("ip", &["link", "set", &cable, "master", &bridge])?;
            system("ip", &["link", "set", &cable, "up"])?;
            system("ip", &["link", "set", &inner, "netns", &name])?;
            let address = format!("{}/24", self.address_of(node));
            system("ip", &["-n", &name, "addr", "add", &address, "dev", &inner])?;
            system("ip", &["-n", &name, "link", "set", &inner, "up"])?;
            system("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn network(&self) -> String {
        format!("10.{}.{}", 100 + self.id / 250 % 100, self.id % 250)
    }

    /// This machine's address on the bridge.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}.1", self.network())
    }

    /// How many nodes there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A node's address on the bridge.
    #[must_use]
    pub fn address_of(&self, node: u32) -> String {
        format!("{}.{}", self.network(), node + 2)
    }

    /// From now on, of every hundred packets to a node so many are lost.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn lose(&self, node: u32, percent: u32) -> Result<()> {
        let (name, part) = (self.name(node), format!("0.{percent:02}"));
        let rule =
            ["iptables", "-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", &part, "-j", "DROP"];
        system("ip", &[&["netns", "exec", &name][..], &rule].concat())
    }

    fn bridge(&self) -> String {
        format!("bb{}", self.id)
    }

    fn name(&self, node: u32) -> String {
        format!("began-{}-{node}", self.id)
    }

    fn cable(&self, node: u32) -> String {
        format!("bo{node}n{}", self.id)
    }

    /// A program under test, on one of the nodes.
    #[must_use]
    pub fn program(&self, node: u32, name: &str) -> Command {
        let mut command = undirected(Command::new("ip"));
        command.args(["netns", "exec", &self.name(node)]).arg(programs().join(name));
        command
    }

    /// Pulls the cable of a node.
    ///
    /// # Errors
    /// If there is none.
    pub fn cut(&self, node: u32) -> Result<()> {
        system("ip", &["link", "set", &self.cable(node), "down"])
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// If there is none.
    pub fn heal(&self, node: u32) -> Result<()> {
        system("ip", &["link", "set", &self.cable(node), "up"])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for node in 0..self.count {
            let _ = system("ip", &["netns", "del", &self.name(node)]);
            let _ = system("ip", &["link", "del", &self.cable(node)]);
        }
        let _ = system("ip", &["link", "del", &self.bridge()]);
    }
}
