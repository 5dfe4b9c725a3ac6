//! Collectives over Gloo, for CPUs. Each operation is done when it returns.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;
use torch_ext::TorchError;
use torch_ext::gloo::{Group, Operation};

use super::{CalledOff, Collective};

/// How often a wait looks up to see whether it was called off.
const SLICE: Duration = Duration::from_millis(20);

/// Gloo, over TCP. Dropping it leaves the group: whatever is pending ends, here and at every peer.
#[derive(Debug)]
pub struct Gloo {
    group: Group,
    called_off: CalledOff,
}

impl Gloo {
    /// Over a group that is connected; waits end when they are called off.
    #[must_use]
    pub fn new(group: Group, called_off: CalledOff) -> Self {
        Self { group, called_off }
    }

    fn finish(&self, what: &str, operation: Result<Operation, TorchError>) -> Result<()> {
        let rank = self.group.member().rank;
        let mut operation = operation.with_context(|| format!("{what} of rank {rank}"))?;
        loop {
            match operation.wait(SLICE).with_context(|| format!("{what} of rank {rank}"))? {
                true => return Ok(()),
                false if self.called_off.is_stopped() => bail!("{what} of rank {rank} was called off"),
                false => {}
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
        let operation = self.group.all_to_all(output, input, output_splits, input_splits);
        self.finish("all-to-all", operation)
    }

    fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<()> {
        let operation = self.group.all_gather(output, input);
        self.finish("all-gather", operation)
    }

    fn all_reduce(&mut self, tensor: &Tensor) -> Result<()> {
        let (world, len) = (i64::from(self.group.member().world), tensor.numel() as i64);
        ensure!(len % world == 0, "all-reduce: {len} elements do not divide among {world} trainers");
        let chunk = len / world;
        let parts = tensor.f_empty_like()?;
        let splits = vec![chunk; world as usize];
        self.all_to_all(&parts, tensor, &splits, &splits)?;
        let sum = parts.f_narrow(0, 0, chunk)?;
        for rank in 1..world {
            torch_ext::add_scaled_(&sum, &parts.f_narrow(0, rank * chunk, chunk)?, 1.0)?;
        }
        self.all_gather(tensor, &sum)
    }

    fn settle(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    /// What was sent is on its way, and arrives.
    fn leave(self: Box<Self>, _: Duration) {}
}
