//! Nodes with a network of their own, and a cable that is pulled: what is cut off is done without, and the run ends as if
//! nothing had happened. Needs root and `ip netns`; says so and does nothing where they are not to be had.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use began::RunConfig;
use began_record::{RunDir, RunManifest};
use began_tests::{Desk, Namespaces, Running, holds, is_root, program, said, undisturbed, wait_for};

const STEPS: u64 = 300;

/// A coordinator here, and a trainer on each of four nodes.
struct Network {
    // In this order: who runs is ended before what it runs on is taken away.
    trainers: Vec<Running>,
    coordinator: Option<Running>,
    desk: Desk,
    nodes: Namespaces,
}

impl Network {
    /// Nothing where it cannot be made; the reason is printed.
    fn start() -> Result<Option<Self>> {
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
        let desk = Desk::new()?;
        RunDir::create(&desk.path("run"), &config(&desk)?, &manifest(&desk)?)?;
        let mut command = program("coordinator");
        let listen = format!("{}:0", nodes.address());
        // Off this machine nobody listens without credentials.
        std::fs::write(desk.path("token"), "a token of a test, which is long enough")?;
        command.args(["--run", &desk.arg("run"), "--world", "4", "--nodes", "4", "--listen", &listen]);
        command.args(["--token-file", &desk.arg("token")]);
        let coordinator = Some(Running::start(command)?);
        let mut network = Self { trainers: Vec::new(), coordinator, desk, nodes };
        let run = RunDir::open(&network.desk.path("run"))?;
        let address = wait_for("the coordinator to listen", || run.announcement().ok().flatten())?.address;
        for node in 0..4 {
            let mut command = network.nodes.program(node, "trainer");
            command.args(["run", "--coordinator", &address, "--run", &network.desk.arg("run"), "--device", "cpu"]);
            command.args(["--node", &node.to_string(), "--local-rank", "0"]);
            command.args(["--token-file", &network.desk.arg("token")]);
            command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1");
            network.trainers.push(Running::start(command)?);
        }
        Ok(Some(network))
    }

    /// Waits for the coordinator's end, which must be the one of the undisturbed run.
    fn ends_as_if_undisturbed(&mut self) -> Result<()> {
        let output = self.coordinator.take().context("it ended already")?.finish()?;
        ensure!(output.status.success(), "{}", said(&output));
        holds(&self.desk, "run", &undisturbed(STEPS, &[])?).with_context(|| said(&output))
    }
}

/// What [`undisturbed`] trains, as a configuration.
fn config(desk: &Desk) -> Result<RunConfig> {
    let mut config = RunConfig::default();
    (config.model.size, config.model.filters, config.model.latent) = (16, 4, 6);
    (config.run.lanes, config.run.batch, config.run.steps) = (8, 3, STEPS);
    (config.run.checkpoint_every, config.run.digest_every) = (25, 20);
    config.run.heartbeat_timeout = 1.0;
    config.data.path = desk.arg("data");
    config.validate()?;
    Ok(config)
}

fn manifest(desk: &Desk) -> Result<RunManifest> {
    Ok(RunManifest::new(&config(desk)?, began_data::Manifest::load(&desk.path("data"))?.digest))
}

#[test]
fn a_node_that_is_cut_off_for_a_while_is_done_without_and_taken_back() -> Result<()> {
    undisturbed(STEPS, &[])?;
    let Some(mut network) = Network::start()? else { return Ok(()) };
    network.desk.reach("run", 60)?;
    network.nodes.cut(2)?;
    sleep(Duration::from_secs(3));
    let meanwhile = network.desk.steps("run")?;
    network.nodes.heal(2)?;
    network.ends_as_if_undisturbed()?;
    let lost = network.desk.told("run", "lost")?;
    ensure!(lost.iter().any(|text| text.contains("node 2")), "nobody noticed: {lost:?}");
    let last = network.desk.told("run", "generation")?.pop().context("no generation")?;
    ensure!(last.contains("4 trainers"), "it was not taken back: {last}");
    for trainer in std::mem::take(&mut network.trainers) {
        let output = trainer.finish()?;
        ensure!(output.status.success(), "{}", said(&output));
    }
    ensure!(meanwhile > 65, "the others did not go on: step {meanwhile} after 3 s");
    Ok(())
}

#[test]
fn a_node_that_is_cut_off_for_good_is_done_without() -> Result<()> {
    undisturbed(STEPS, &[])?;
    let Some(mut network) = Network::start()? else { return Ok(()) };
    network.desk.reach("run", 60)?;
    network.nodes.cut(1)?;
    network.ends_as_if_undisturbed()?;
    let last = network.desk.told("run", "generation")?.pop().context("no generation")?;
    ensure!(last.contains("3 trainers"), "{last}");
    Ok(())
}
