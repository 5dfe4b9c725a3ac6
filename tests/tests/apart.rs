//! A run over ssh on four hosts that are network namespaces: it crosses them, and a cable that is pulled for a while or for good,
//! or that loses every fifth packet, changes nothing of what is computed. Needs root, `ip netns` and sshd; says so and does
//! nothing where they are not to be had.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use began_tests::{Desk, Namespaces, Running, SshHosts, holds, is_root, said, undisturbed, wait_for};

const HABITS: [&str; 6] = ["--set", "run.lanes=8", "--set", "run.checkpoint_every=25", "--set", "run.digest_every=20"];

/// A run on four hosts.
struct Apart {
    // In this order: who runs is ended before what it runs on is taken away.
    running: Option<Running>,
    _hosts: SshHosts,
    desk: Desk,
    nodes: Namespaces,
    golden: String,
}

impl Apart {
    /// Nothing where it cannot be made; the reason is printed.
    fn start(steps: u64, habits: &[&str]) -> Result<Option<Self>> {
        if !is_root() {
            println!("skipped: only root can make namespaces");
            return Ok(None);
        }
        let nodes = match Namespaces::new(4) {
            Ok(nodes) => nodes,
            Err(error) => {
                println!("skipped: {error:#}");
                return Ok(None);
            }
        };
        let Some(hosts) = SshHosts::on(&nodes)? else { return Ok(None) };
        let golden = undisturbed(steps, &[])?;
        let desk = Desk::new()?;
        let words: Vec<String> = hosts.arguments();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(HABITS).chain(habits.iter().copied()).collect();
        let running = Some(desk.start("run", 4, 1, steps, &words)?);
        Ok(Some(Self { running, _hosts: hosts, desk, nodes, golden }))
    }

    /// Waits for the end, which must be the one of the undisturbed run; what the launcher said.
    fn ends_as_if_undisturbed(&mut self) -> Result<String> {
        let output = self.running.take().context("it ended already")?.finish()?;
        let text = said(&output);
        ensure!(output.status.success(), "{:?}: {text}", output.status);
        holds(&self.desk, "run", &self.golden).with_context(|| text.clone())?;
        Ok(text)
    }
}

#[test]
fn a_run_crosses_networks_and_waits_for_a_node_that_is_cut_off_for_twenty_seconds() -> Result<()> {
    let habits = ["--set", "run.heartbeat_timeout=1", "--set", "run.rejoin_wait=90"];
    let Some(mut apart) = Apart::start(120, &habits)? else { return Ok(()) };
    apart.desk.reach("run", 30)?;
    let before = apart.desk.trainer("run", 2, 0)?;
    apart.nodes.cut(2)?;
    sleep(Duration::from_secs(20));
    let meanwhile = apart.desk.steps("run")?;
    apart.nodes.heal(2)?;
    let text = apart.ends_as_if_undisturbed()?;
    ensure!(meanwhile < 120, "it did not wait: step {meanwhile}");
    let at = format!("the coordinator will listen at {}: that is where", apart.nodes.address());
    ensure!(text.contains(&at), "{at} is not in {text}");
    for node in 0..4 {
        let at = format!("node {node}'s trainers will be at {}", apart.nodes.address_of(node));
        ensure!(text.contains(&at), "{at} is not in {text}");
    }
    let last = apart.desk.told("run", "generation")?.pop().context("no generation")?;
    ensure!(last.contains("4 trainers"), "it was not taken back: {last} (it was process {before})");
    apart.desk.nothing_left("run")
}

#[test]
fn a_node_that_is_cut_off_for_good_is_done_without_and_ends_itself() -> Result<()> {
    let habits = ["--set", "run.heartbeat_timeout=1", "--lost-after", "4"];
    let Some(mut apart) = Apart::start(300, &habits)? else { return Ok(()) };
    apart.desk.reach("run", 30)?;
    apart.nodes.cut(1)?;
    let cut = Instant::now();
    apart.ends_as_if_undisturbed()?;
    ensure!(cut.elapsed() < Duration::from_secs(80), "the end took {:?}", cut.elapsed());
    wait_for("the node's own processes to end", || apart.desk.nothing_left("run").ok())
}

#[test]
fn a_cable_that_loses_every_fifth_packet_slows_the_run_and_changes_nothing() -> Result<()> {
    let Some(mut apart) = Apart::start(40, &[])? else { return Ok(()) };
    apart.desk.reach("run", 5)?;
    if let Err(error) = apart.nodes.lose(3, 20) {
        println!("skipped: {error:#}");
        return Ok(());
    }
    apart.ends_as_if_undisturbed()?;
    apart.desk.nothing_left("run")
}
