//! What a reduction needs of a group of trainers, whoever provides it: Gloo on CPUs, NCCL on GPUs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tch::Tensor;
use torch_ext::gloo::{Group, Operation, Rendezvous};

/// How often a wait looks up to see whether it was called off.
const SLICE: Duration = Duration::from_millis(20);

/// Collective operations over all trainers of a generation. Each returns when it is done.
///
/// Every trainer must call the same operations in the same order.
pub trait Collective: Send {
    /// Sends `input_splits[r]` elements of `input` to each rank `r` and receives `output_splits[r]` from it into `output`.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<()>;
    /// Lays every rank's `input` end to end in every rank's `output`.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<()>;
    /// Sums in place, in an order that depends on the size of the world.
    ///
    /// # Errors
    /// If a peer is gone, or the wait was called off.
    fn all_reduce(&mut self, tensor: &Tensor) -> Result<()>;
}

/// Says when to give up a wait: the coordinator's word, not a time-out.
pub type CalledOff = Arc<std::sync::atomic::AtomicBool>;

/// Gloo, over TCP.
pub struct Gloo {
    group: Option<Group>,
    called_off: CalledOff,
}

impl Gloo {
    /// Connects to all other trainers of the generation.
    ///
    /// # Errors
    /// If one does not come in time.
    pub fn connect(
        store: Arc<dyn Rendezvous>,
        rank: u32,
        world: u32,
        address: &str,
        timeout: Duration,
        called_off: CalledOff,
    ) -> Result<Self> {
        Ok(Self { group: Some(Group::connect(store, rank, world, address, timeout)?), called_off })
    }

    fn run(
        &mut self,
        what: &str,
        start: impl FnOnce(&mut Group) -> Result<Operation, torch_ext::TorchError>,
    ) -> Result<()> {
        let Some(group) = &mut self.group else { bail!("the group was left already") };
        let mut operation = start(group)?;
        loop {
            match operation.wait(SLICE) {
                Ok(true) => return Ok(()),
                Ok(false) if self.called_off.load(std::sync::atomic::Ordering::Acquire) => {
                    bail!("{what} was called off")
                }
                Ok(false) => {}
                Err(error) => bail!("{what}: {error}"),
            }
        }
    }
}

impl Collective for Gloo {
    fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<()> {
        self.run("all-to-all", |group| group.all_to_all(output, input, output_splits, input_splits))
    }

    fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<()> {
        self.run("all-gather", |group| group.all_gather(output, input))
    }

    fn all_reduce(&mut self, tensor: &Tensor) -> Result<()> {
        self.run("all-reduce", |group| group.all_reduce(tensor))
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // Gloo's destructor waits for operations under way, up to their time limit; nobody should wait for that.
        if let Some(group) = self.group.take() {
            let _ = std::thread::Builder::new().name("gloo-end".into()).spawn(move || drop(group));
        }
    }
}
