//! What a node says of itself before a run is started on it: `launcher probe`, which the launcher starts on every node.
//!
//! It answers one JSON object a line on stdout for each that it reads on stdin, and ends when stdin closes or nothing is asked
//! for a while. It changes nothing. What it listens for answers nobody who does not know the token that came over its stdin.

use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use began_data::Manifest;
use serde::{Deserialize, Serialize};

use crate::binaries;
use crate::devices::Gpus;

/// A probe that is asked nothing for this long ends.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long one transfer over the network may stall.
const STALL: Duration = Duration::from_secs(10);

/// How long the trainer may take to say its version: the first time, libtorch is read over the network.
const VERSION: Duration = Duration::from_secs(60);

/// Round trips that are measured; the fastest counts.
const ROUND_TRIPS: u32 = 30;

/// Bytes that are sent to measure a bandwidth.
const VOLUME: u64 = 16 << 20;

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// What is there?
    About {
        /// The prepared data.
        data: Option<PathBuf>,
        /// A file that the launcher has just made beside where the run's folder is to be.
        marker: Option<PathBuf>,
    },
    /// Listen for those that measure.
    Listen {
        /// The coordinator's address.
        toward: IpAddr,
        /// The interface whose address trainers are to tell each other.
        interface: Option<String>,
        /// What they say first.
        token: String,
    },
    /// Measure the way to one that listens.
    Measure {
        /// Where it listens.
        to: SocketAddr,
        /// What to say first.
        token: String,
    },
}

/// An answer; nothing in it where the question could not be answered, with the reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::About`].
    About(Box<About>),
    /// To [`Ask::Listen`]: where.
    Listening(SocketAddr),
    /// To [`Ask::Measure`].
    Measured(Link),
    /// To any: why not.
    Failed(String),
}

/// What is on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its own name.
    pub host: String,
    /// The address at which it sees the launcher's machine, as far as ssh or SLURM say.
    pub seen_from: Option<IpAddr>,
    /// The launcher's version there, and its program's hash.
    pub launcher: Told<String>,
    /// The trainer's version as it says it, and its program's hash.
    pub trainer: Told<String>,
    /// What each GPU is called.
    pub gpus: Vec<String>,
    /// The digest of the data; nothing where none was asked for.
    pub data: Option<Told<String>>,
    /// Whether the marker is there.
    pub marker: bool,
    /// Free bytes where the marker is.
    pub free: Option<u64>,
    /// Seconds since 1970.
    pub clock: f64,
}

/// What was found, or why not.
pub type Told<T> = std::result::Result<T, String>;

/// What was measured of the way from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The fastest round trip, in seconds.
    pub round_trip: f64,
    /// Bytes a second.
    pub bandwidth: f64,
}

/// `launcher probe`.
///
/// # Errors
/// If it cannot answer.
pub fn probe() -> Result<u8> {
    let (say, asked) = channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    })?;
    loop {
        let line = match asked.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return Ok(0),
            Err(RecvTimeoutError::Timeout) => bail!("nothing was asked for {} s", PATIENCE.as_secs()),
        };
        let answered = serde_json::from_str(&line).context("what was asked is no question").and_then(answer);
        let answer = answered.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
        stdout.flush()?;
    }
}

fn answer(ask: Ask) -> Result<Answer> {
    match ask {
        Ask::About { data, marker } => Ok(Answer::About(Box::new(about(data.as_deref(), marker.as_deref())))),
        Ask::Listen { toward, interface, token } => {
            let address = own_address(toward, interface.as_deref())?;
            Ok(Answer::Listening(listen(address, token)?))
        }
        Ask::Measure { to, token } => Ok(Answer::Measured(measure(to, &token)?)),
    }
}

/// What is on this machine.
#[must_use]
pub fn about(data: Option<&Path>, marker: Option<&Path>) -> About {
    About {
        host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        seen_from: seen_from(|name| std::env::var(name).ok()),
        launcher: binaries::own().and_then(|own| hash_of(&own)).map_err(|error| format!("{error:#}")),
        trainer: trainer().map_err(|error| format!("{error:#}")),
        gpus: gpus(),
        data: data.map(|data| data_digest(data).map_err(|error| format!("{error:#}"))),
        marker: marker.is_some_and(Path::is_file),
        free: marker.and_then(Path::parent).and_then(|folder| free_bytes(folder).ok()),
        clock: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
    }
}

/// The first word of SSH_CONNECTION is the client's address, as sshd sees it; srun says the same in a variable of its own.
fn seen_from(variable: impl Fn(&str) -> Option<String>) -> Option<IpAddr> {
    let ssh = variable("SSH_CONNECTION").and_then(|words| words.split(' ').next()?.parse().ok());
    ssh.or_else(|| variable("SLURM_LAUNCH_NODE_IPADDR")?.parse().ok())
}

/// "trainer 0.1.0, HASH": it is started, because a library that it needs may be missing.
fn trainer() -> Result<String> {
    let program = binaries::trainer()?;
    let name = program.display();
    let mut child = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let deadline = Instant::now() + VERSION;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{name} did not say its version within {} s", VERSION.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut said)?;
    child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    if !status.success() {
        bail!("{name} --version failed ({status}): {}", said.trim());
    }
    Ok(format!("{}, {}", said.trim(), hash_of(&program)?))
}

/// The first half of a program's hash: enough to tell two builds apart.
fn hash_of(program: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(program).with_context(|| format!("cannot read {}", program.display()))?;
    hasher.update_reader(file).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

fn gpus() -> Vec<String> {
    let models: Vec<String> = std::fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|gpu| {
            let text = std::fs::read_to_string(gpu.path().join("information")).ok()?;
            text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned()))
        })
        .collect();
    Gpus::find()
        .names
        .iter()
        .map(|name| {
            let model = name.parse::<usize>().ok().and_then(|index| models.get(index));
            model.cloned().unwrap_or_else(|| format!("GPU {name}"))
        })
        .collect()
}

/// The digest of prepared data whose shards are all there.
fn data_digest(path: &Path) -> Result<String> {
    let manifest = Manifest::load(path)?;
    for shard in &manifest.shards {
        let file = path.join(&shard.file);
        std::fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(manifest.digest)
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let found = nix::sys::statvfs::statvfs(folder)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// This machine's address on the way to another, or that of an interface.
///
/// # Errors
/// If there is no way, or no such interface.
pub fn own_address(toward: IpAddr, interface: Option<&str>) -> Result<IpAddr> {
    if let Some(name) = interface {
        return address_of(name);
    }
    let any: IpAddr = if toward.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let found = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((toward, 9))?;
        socket.local_addr()
    });
    Ok(found.with_context(|| format!("there is no way to {toward}"))?.ip())
}

/// The address of an interface: the first of IPv4, or else the first that is not only for its own link.
///
/// # Errors
/// If there is no such interface, or it has no address; those there are are named.
pub fn address_of(interface: &str) -> Result<IpAddr> {
    let all: Vec<(String, IpAddr)> = nix::ifaddrs::getifaddrs()
        .context("cannot list the network's interfaces")?
        .filter_map(|found| {
            let address = found.address?;
            let ip = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            Some((found.interface_name, ip.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))?))
        })
        .collect();
    let own = || all.iter().filter(|(name, _)| name == interface).map(|(_, address)| *address);
    let wide = |address: &IpAddr| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    own().find(IpAddr::is_ipv4).or_else(|| own().find(wide)).with_context(|| {
        let mut names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        format!("--interface {interface}: it has no address here; there are {}", names.join(", "))
    })
}

/// Listens at an address for those who measure, as long as this process lives.
///
/// # Errors
/// If it cannot.
pub fn listen(address: IpAddr, token: String) -> Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0)).with_context(|| format!("cannot listen at {address}"))?;
    let at = listener.local_addr()?;
    std::thread::Builder::new().name("links".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let token = token.clone();
            // One who does not know the token, or stalls, is dropped.
            let _ = std::thread::Builder::new().name("link".into()).spawn(move || echo(stream, token.as_bytes()));
        }
    })?;
    Ok(at)
}

/// Answers every byte but the last kind with itself, and a `V` once the volume behind it is there.
fn echo(mut stream: TcpStream, token: &[u8]) -> Result<()> {
    limit(&stream)?;
    let mut said = vec![0; token.len()];
    stream.read_exact(&mut said)?;
    if said != token {
        bail!("a stranger");
    }
    let mut kind = [0];
    while stream.read(&mut kind)? == 1 {
        if kind == *b"V" {
            std::io::copy(&mut Read::by_ref(&mut stream).take(VOLUME), &mut std::io::sink())?;
        }
        stream.write_all(&kind)?;
    }
    Ok(())
}

/// Measures the way to one that listens.
///
/// # Errors
/// If it does not answer.
pub fn measure(to: SocketAddr, token: &str) -> Result<Link> {
    let mut stream = TcpStream::connect_timeout(&to, STALL).with_context(|| format!("cannot connect to {to}"))?;
    let failed = || format!("the connection to {to} did not last");
    limit(&stream)?;
    let mut answer = [0];
    let mut round_trip = f64::INFINITY;
    stream.write_all(token.as_bytes()).with_context(failed)?;
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        stream.write_all(b"p").with_context(failed)?;
        stream.read_exact(&mut answer).with_context(failed)?;
        round_trip = round_trip.min(start.elapsed().as_secs_f64());
    }
    let block = vec![0; 1 << 20];
    let start = Instant::now();
    stream.write_all(b"V").with_context(failed)?;
    for _ in 0..VOLUME / block.len() as u64 {
        stream.write_all(&block).with_context(failed)?;
    }
    stream.read_exact(&mut answer).with_context(failed)?;
    Ok(Link { round_trip, bandwidth: VOLUME as f64 / start.elapsed().as_secs_f64().max(1e-9) })
}

fn limit(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_and_slurm_say_from_where_they_were_started() {
        let ssh = |name: &str| (name == "SSH_CONNECTION").then(|| "10.0.0.7 50022 10.0.0.9 22".to_owned());
        assert_eq!(seen_from(ssh), Some(IpAddr::from([10, 0, 0, 7])));
        let slurm = |name: &str| (name == "SLURM_LAUNCH_NODE_IPADDR").then(|| "10.0.0.8".to_owned());
        assert_eq!(seen_from(slurm), Some(IpAddr::from([10, 0, 0, 8])));
        assert_eq!(seen_from(|_| None), None);
    }

    #[test]
    fn a_way_is_measured_by_one_who_knows_the_token_only() -> Result<()> {
        let at = listen([127, 0, 0, 1].into(), "secret".into())?;
        let link = measure(at, "secret")?;
        assert!(link.round_trip > 0.0 && link.round_trip < 5.0 && link.bandwidth > 1e5, "{link:?}");
        assert!(measure(at, "public").is_err());
        Ok(())
    }

    #[test]
    fn an_interface_that_is_not_there_is_refused_with_those_that_are() {
        assert!(address_of("lo").is_ok_and(|address| address.is_loopback()));
        let error = address_of("nic9").unwrap_err().to_string();
        assert!(error.contains("nic9") && error.contains("lo"), "{error}");
    }
}
