//! What is looked at before a run is started on other machines: whether each node can be reached, is of one build with the
//! others, has the GPUs, sees the data and the run's folder, and how the network between them is.
//!
//! It starts nothing of the run and leaves nothing behind. What would make the run fail is an error that names the node; what
//! may be slow or odd is said.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::place::Layout;
use super::probe::{self, About, Answer, Ask};
use super::{Backend, Nodes, Start, links};
use crate::child::{self, Child, Exit, Stdout, Waiter};
use crate::cli::DeviceChoice;
use crate::configure::Shape;
use crate::devices::{self, Device, Gpus};
use crate::output::Log;

/// How long a node may take from nothing to its first answer: to be reached, and to read our programs over the network.
const FIRST: Duration = Duration::from_secs(120);
/// How long any other answer may take.
const NEXT: Duration = Duration::from_secs(60);
/// Clocks that are further apart are worth a word: the run does not go by them, but people compare logs.
const SKEW: f64 = 2.0;
/// Less free room than this is worth a word.
const ROOM: u64 = 2 << 30;

/// What is wanted of the nodes.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What to compute on.
    pub device: DeviceChoice,
    /// The data, and its digest.
    pub data: Option<(&'a Path, &'a str)>,
    /// Where the run's folder is, or is to be.
    pub run: Option<&'a Path>,
    /// Whether the nodes are looked at.
    pub check: bool,
}

/// Nodes that a run can be started on.
#[derive(Debug)]
pub struct Ready {
    /// They.
    pub nodes: Nodes,
    /// How many, and trainers on each.
    pub shape: Shape,
    /// What to compute on.
    pub device: Device,
    /// This machine's GPUs, if that is where it is.
    pub gpus: Gpus,
    /// What people should know.
    pub said: Vec<String>,
}

/// Looks at the nodes of a launch.
///
/// # Errors
/// If a run would fail on them.
pub async fn ready(layout: Layout, wanted: Wanted<'_>) -> Result<Ready> {
    let Layout { mut nodes, mut shape, least, why, .. } = layout;
    let mut said: Vec<String> = why.into_iter().collect();
    if !nodes.backend.is_remote() {
        let (device, gpus, chosen) =
            devices::choose(wanted.device, if nodes.share_gpu { 1 } else { shape.world() }, Gpus::find)?;
        said.extend(chosen);
        return Ok(Ready { nodes, shape, device, gpus, said });
    }
    let none = Gpus { names: Vec::new(), source: String::new() };
    if !wanted.check {
        let device = match wanted.device {
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Cuda => Device::Cuda,
            DeviceChoice::Auto => bail!("--no-check: nobody looks for GPUs, so say --device cuda or --device cpu"),
        };
        if nodes.address.is_none() {
            bail!("--no-check: nobody asks the nodes where they see this machine, so say --address IP");
        }
        return Ok(Ready { nodes, shape, device, gpus: none, said });
    }
    let marker = wanted.run.map(Marker::beside).transpose()?;
    let (data, marked) = (wanted.data.map(|(path, _)| path.to_owned()), marker.as_ref().map(|marker| marker.0.clone()));
    let about = Ask::About { data: data.clone(), marker: marked.clone() };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut lines = Vec::new();
    for node in 0..shape.nodes {
        lines.push(Line::open(nodes.backend.as_ref(), node)?);
    }
    let answers = ask_all(lines, |_| about.clone(), FIRST).await;
    // This machine has the programs that count.
    let own = probe::about(data.as_deref(), marked.as_deref());
    let (mut reached, mut away) = (Vec::new(), Vec::new());
    for (line, answer, asked) in answers {
        match answer {
            Ok(Answer::About(about)) => {
                let skew = about.clock - (now() - asked.elapsed().as_secs_f64() / 2.0);
                reached.push((line, *about, skew));
            }
            Ok(other) => away.push(format!("{}: it answered {other:?}", name(nodes.backend.as_ref(), line.node))),
            Err(trouble) => away.push(trouble.of(nodes.backend.as_ref(), line.node)),
        }
    }
    if reached.len() < least as usize {
        bail!("{}", list("not every node can be reached", &away));
    }
    if !away.is_empty() {
        let kept: Vec<u32> = reached.iter().map(|(line, ..)| line.node).collect();
        said.extend(away.iter().map(|away| format!("left out: {away}")));
        nodes.backend.keep(&kept);
        shape.nodes = u32::try_from(kept.len()).context("more nodes than can be")?;
        for (number, (line, ..)) in (0..).zip(&mut reached) {
            line.node = number;
        }
    }
    let backend = nodes.backend.as_ref();
    let mut faults = Vec::new();
    for (line, about, skew) in &reached {
        let found = compare(&own, about, wanted, marker.is_some());
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", name(backend, line.node))));
        said.push(describe(backend, line.node, about));
        said.extend(remarks(about, *skew).into_iter().map(|odd| format!("{}: {odd}", name(backend, line.node))));
    }
    let device = choose_device(
        wanted.device,
        shape,
        reached.iter().map(|(line, about, _)| (name(backend, line.node), about)),
        &mut faults,
        &mut said,
    );
    if !faults.is_empty() {
        bail!("{}", list("the nodes are not ready", &faults));
    }
    let seen = reached.iter().map(|(line, about, _)| (name(backend, line.node), about.seen_from));
    let address = where_seen(nodes.address, seen, &mut said)?;
    let lines = reached.into_iter().map(|(line, ..)| line).collect();
    said.extend(network(backend, lines, address, nodes.interface.as_deref()).await?);
    nodes.address = Some(address);
    Ok(Ready { nodes, shape, device, gpus: none, said })
}

fn name(backend: &dyn Backend, node: u32) -> String {
    format!("node {node} ({})", backend.host(node))
}

fn list(what: &str, faults: &[String]) -> String {
    match faults {
        [one] => format!("{what}: {one}"),
        many => format!("{what}:{}", many.iter().map(|fault| format!("\n  {fault}")).collect::<String>()),
    }
}

/// Why a run would fail on a node.
fn compare(own: &About, node: &About, wanted: Wanted<'_>, marked: bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (what, own, there) in [("launcher", &own.launcher, &node.launcher), ("trainer", &own.trainer, &node.trainer)] {
        match (own, there) {
            (_, Err(error)) => faults.push(error.clone()),
            (Ok(own), Ok(there)) if own != there => {
                faults.push(format!("its {what} is another one: {there}, and here it is {own}"));
            }
            _ => {}
        }
    }
    match (&node.data, wanted.data) {
        (Some(Err(error)), _) => faults.push(error.clone()),
        (Some(Ok(there)), Some((path, digest))) if there != digest => {
            faults.push(format!(
                "{} is other data there: its digest is {there}, and here it is {digest}",
                path.display()
            ));
        }
        _ => {}
    }
    if marked
        && !node.marker
        && let Some(run) = wanted.run
    {
        faults.push(format!(
            "it does not see {}, where the run's folder is: it must lie on a file system that all nodes share",
            run.parent().unwrap_or(run).display()
        ));
    }
    faults
}

fn describe(backend: &dyn Backend, node: u32, about: &About) -> String {
    let gpus = match about.gpus.as_slice() {
        [] => "no GPU".to_owned(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => format!("{} x {first}", about.gpus.len()),
        many => many.join(", "),
    };
    format!("node {node} is {} (its own name: {}), {gpus}", backend.host(node), about.host)
}

fn remarks(about: &About, skew: f64) -> Vec<String> {
    let mut remarks = Vec::new();
    if skew.abs() > SKEW {
        let way = if skew > 0.0 { "fast" } else { "slow" };
        remarks.push(format!("its clock is {:.1} s {way}; times in its logs will not fit the others'", skew.abs()));
    }
    if let Some(free) = about.free
        && free < ROOM
    {
        remarks.push(format!("only {} MB are free where the run is written", free / 1_000_000));
    }
    remarks
}

fn choose_device<'a>(
    choice: DeviceChoice,
    shape: Shape,
    nodes: impl Iterator<Item = (String, &'a About)>,
    faults: &mut Vec<String>,
    said: &mut Vec<String>,
) -> Device {
    let lacking: Vec<String> = nodes
        .filter(|(_, about)| about.gpus.len() < shape.gpus as usize)
        .map(|(name, about)| format!("{name}: {} of {} GPUs were found", about.gpus.len(), shape.gpus))
        .collect();
    match (choice, lacking.first()) {
        (DeviceChoice::Cpu, _) => Device::Cpu,
        (DeviceChoice::Auto, Some(lack)) => {
            said.push(format!("computing on CPUs: {lack}"));
            Device::Cpu
        }
        (DeviceChoice::Auto, None) => {
            said.push(format!("computing on GPUs: every node has {}", shape.gpus));
            Device::Cuda
        }
        (DeviceChoice::Cuda, _) => {
            faults.extend(lacking.into_iter().map(|lack| format!("{lack} (--device cuda)")));
            Device::Cuda
        }
    }
}

/// The address of this machine at which all nodes reach it.
fn where_seen(
    given: Option<IpAddr>,
    seen: impl Iterator<Item = (String, Option<IpAddr>)>,
    said: &mut Vec<String>,
) -> Result<IpAddr> {
    if let Some(address) = given {
        said.push(format!("the coordinator will listen at {address} (--address)"));
        return Ok(address);
    }
    let seen: Vec<(String, Option<IpAddr>)> = seen.collect();
    let mut addresses: Vec<IpAddr> = seen.iter().filter_map(|(_, address)| *address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    match addresses.as_slice() {
        [one] => {
            said.push(format!("the coordinator will listen at {one}: that is where the nodes see this machine"));
            Ok(*one)
        }
        [] => bail!("no node can say at which address it sees this machine; say --address IP"),
        _ => {
            let each: Vec<String> = seen
                .iter()
                .map(|(name, address)| {
                    format!("{name} at {}", address.map_or("no address".into(), |address| address.to_string()))
                })
                .collect();
            bail!("the nodes see this machine at several addresses ({}); say --address IP", each.join(", "))
        }
    }
}

/// Whether every node reaches this machine and every other node, and how fast.
async fn network(
    backend: &dyn Backend,
    lines: Vec<Line>,
    address: IpAddr,
    interface: Option<&str>,
) -> Result<Vec<String>> {
    let token = token()?;
    let here = probe::listen(address, token.clone())
        .with_context(|| format!("{address} is no address of this machine, so the coordinator cannot listen there"))?;
    let reach = Ask::Measure { to: here, token: token.clone() };
    let (mut lines, _) = sorted(backend, ask_all(lines, |_| reach.clone(), NEXT).await, |failed| {
        format!("{failed}; the coordinator will listen at {address}: a firewall, or the wrong --address?")
    })?;
    let ask = Ask::Listen { toward: address, interface: interface.map(str::to_owned), token: token.clone() };
    let (listening, answers) = sorted(backend, ask_all(lines, |_| ask.clone(), NEXT).await, |failed| failed)?;
    lines = listening;
    let places: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Listening(at) => Ok(*at),
            other => bail!("a node answered {other:?}"),
        })
        .collect::<Result<_>>()?;
    let mut said: Vec<String> =
        (0..).zip(&places).map(|(node, at)| format!("node {node}'s trainers will be at {}", at.ip())).collect();
    let mut measured = Vec::new();
    for round in links::rounds(places.len()) {
        let (busy, idle): (Vec<Line>, Vec<Line>) =
            lines.into_iter().partition(|line| round.iter().any(|(one, _)| *one == line.node as usize));
        let partner = |node: u32| round.iter().find(|(one, _)| *one == node as usize).map_or(0, |(_, other)| *other);
        let asked = ask_all(busy, |line| Ask::Measure { to: places[partner(line)], token: token.clone() }, NEXT).await;
        let (busy, answers) = sorted(backend, asked, |failed| {
            format!("{failed}; trainers of different nodes must reach each other at any port")
        })?;
        for (line, answer) in busy.iter().zip(answers) {
            if let Answer::Measured(link) = answer {
                let other = u32::try_from(partner(line.node)).context("more nodes than can be")?;
                measured.push(((name(backend, line.node), name(backend, other)), link));
            }
        }
        lines = busy.into_iter().chain(idle).collect();
        lines.sort_by_key(|line| line.node);
    }
    said.extend(links::verdict(&measured));
    Ok(said)
}

/// The nodes in order with their answers; an error if one could not answer.
fn sorted(
    backend: &dyn Backend,
    answers: Vec<(Line, Result<Answer, Trouble>, std::time::Instant)>,
    explain: impl Fn(String) -> String,
) -> Result<(Vec<Line>, Vec<Answer>)> {
    let (mut lines, mut said, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for (line, answer, _) in answers {
        match answer {
            Ok(Answer::Failed(reason)) => faults.push(explain(format!("{}: {reason}", name(backend, line.node)))),
            Ok(answer) => {
                said.push(answer);
                lines.push(line);
            }
            Err(trouble) => faults.push(trouble.of(backend, line.node)),
        }
    }
    if faults.is_empty() {
        Ok((lines, said))
    } else {
        bail!("{}", list("the network between the nodes does not work", &faults))
    }
}

/// Nobody can guess it.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").context("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes).context("/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A probe on a node, and the way to it.
struct Line {
    node: u32,
    child: Child,
    waiter: Waiter,
    lines: Lines<BufReader<ChildStdout>>,
    log: Log,
}

/// Why a node did not answer.
enum Trouble {
    Silent(Duration),
    Ended(Option<Exit>, Vec<String>),
    Nonsense(String),
}

impl Line {
    fn open(backend: &dyn Backend, node: u32) -> Result<Self> {
        let start = Start { arguments: vec!["probe".into()], environment: Vec::new() };
        let command = backend.command(node, &start)?;
        let log = Log::append_to(Path::new("/dev/null"), None);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let (child, waiter, stdout) = child::start(command, &log, Stdout::Ours)
            .with_context(|| format!("cannot start {program} for {}", name(backend, node)))?;
        let stdout = stdout.context("a probe has no stdout")?;
        Ok(Self { node, child, waiter, lines: BufReader::new(stdout).lines(), log })
    }

    async fn ask(&mut self, ask: &Ask, patience: Duration) -> Result<Answer, Trouble> {
        let question = serde_json::to_string(ask).map_err(|error| Trouble::Nonsense(error.to_string()))?;
        self.child.tell(&question);
        match timeout(patience, self.lines.next_line()).await {
            Err(_) => Err(Trouble::Silent(patience)),
            Ok(Ok(Some(line))) => {
                serde_json::from_str(&line).map_err(|_| Trouble::Nonsense(format!("it said {line:?}")))
            }
            Ok(_) => {
                let exit = self.waiter.within(Duration::from_secs(3)).await;
                Err(Trouble::Ended(exit, self.log.last_lines()))
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The probe ends with its stdin, and with it the way to it.
        self.child.close_stdin();
    }
}

impl Trouble {
    fn of(&self, backend: &dyn Backend, node: u32) -> String {
        let name = name(backend, node);
        match self {
            Self::Silent(time) => format!("{name} did not answer within {} s", time.as_secs()),
            Self::Nonsense(what) => {
                format!(
                    "{name} gives no answer that can be read (does its shell write something at its start?): {what}"
                )
            }
            Self::Ended(exit, lines) => {
                let how = exit.and_then(|exit| backend.meaning(node, exit).or_else(|| Some(exit.to_string())));
                let words = lines.iter().rev().take(3).rev().cloned().collect::<Vec<_>>().join("; ");
                let said = if words.is_empty() { "it said nothing".to_owned() } else { words };
                format!("{name}: {} ({})", said, how.unwrap_or_else(|| "it ended".into()))
            }
        }
    }
}

/// Asks all at once; the answers in the order of the nodes, with when each was asked.
async fn ask_all(
    lines: Vec<Line>,
    ask: impl Fn(u32) -> Ask,
    patience: Duration,
) -> Vec<(Line, Result<Answer, Trouble>, std::time::Instant)> {
    let mut tasks = JoinSet::new();
    for mut line in lines {
        let ask = ask(line.node);
        tasks.spawn(async move {
            let asked = std::time::Instant::now();
            let answer = line.ask(&ask, patience).await;
            (line, answer, asked)
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(line, ..)| line.node);
    answers
}

/// A file beside where a run's folder is to be, gone when dropped.
struct Marker(PathBuf);

impl Marker {
    fn beside(run: &Path) -> Result<Self> {
        let run = std::path::absolute(run)?;
        let folder = run.ancestors().skip(1).find(|folder| folder.is_dir()).context("no folder is above the run's")?;
        let path = folder.join(format!(".began-check-{}", token()?));
        std::fs::write(&path, "made by a launcher that looks whether its nodes see this folder\n")
            .with_context(|| format!("cannot write in {}", folder.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            host: "box".into(),
            seen_from: None,
            launcher: Ok("aa".into()),
            trainer: Ok("trainer 0.1, bb".into()),
            gpus: Vec::new(),
            data: None,
            marker: true,
            free: None,
            clock: 0.0,
        }
    }

    fn wanted() -> Wanted<'static> {
        Wanted {
            device: DeviceChoice::Auto,
            data: Some((Path::new("/data"), "d1")),
            run: Some(Path::new("/runs/a")),
            check: true,
        }
    }

    #[test]
    fn what_would_make_a_run_fail_is_said_of_each_node() {
        let own = about();
        assert_eq!(compare(&own, &own, wanted(), true), [""; 0]);
        let other = About {
            launcher: Ok("cc".into()),
            trainer: Err("libtorch.so: not found".into()),
            data: Some(Ok("d2".into())),
            marker: false,
            ..about()
        };
        let faults = compare(&own, &other, wanted(), true).join("\n");
        for words in ["launcher is another one: cc", "libtorch.so", "digest is d2", "does not see /runs", "share"] {
            assert!(faults.contains(words), "{words}: {faults}");
        }
    }

    #[test]
    fn an_address_must_be_one_that_all_nodes_see() -> Result<()> {
        let at = |last| Some(IpAddr::from([10, 0, 0, last]));
        let seen = |addresses: &[Option<IpAddr>]| {
            let all: Vec<_> =
                (0..).zip(addresses).map(|(n, address): (u32, _)| (format!("node {n}"), *address)).collect();
            where_seen(None, all.into_iter(), &mut Vec::new())
        };
        assert_eq!(Some(seen(&[at(1), None, at(1)])?), at(1));
        let error = seen(&[at(1), at(2)]).unwrap_err().to_string();
        assert!(error.contains("node 1 at 10.0.0.2") && error.contains("--address"), "{error}");
        assert!(seen(&[None]).unwrap_err().to_string().contains("--address"));
        Ok(())
    }

    #[test]
    fn a_clock_or_a_disk_that_is_odd_is_worth_a_word() {
        assert!(remarks(&About { free: Some(1 << 40), ..about() }, 0.5).is_empty());
        let said = remarks(&About { free: Some(5_000_000), ..about() }, -7.0).join("\n");
        assert!(said.contains("7.0 s slow") && said.contains("5 MB"), "{said}");
    }

    #[test]
    fn gpus_are_used_where_every_node_has_enough() {
        let with = |count| About { gpus: vec!["H100".into(); count], ..about() };
        let (mut faults, mut said) = (Vec::new(), Vec::new());
        let mut choose = |choice, few: usize| {
            let nodes = [("node 0".to_owned(), with(8)), ("node 1".to_owned(), with(few))];
            let shape = Shape { nodes: 2, gpus: 8 };
            choose_device(
                choice,
                shape,
                nodes.iter().map(|(name, about)| (name.clone(), about)),
                &mut faults,
                &mut said,
            )
        };
        assert_eq!(choose(DeviceChoice::Auto, 8), Device::Cuda);
        assert_eq!(choose(DeviceChoice::Auto, 7), Device::Cpu);
        assert_eq!(choose(DeviceChoice::Cuda, 7), Device::Cuda);
        assert_eq!(faults, ["node 1: 7 of 8 GPUs were found (--device cuda)"]);
    }
}
