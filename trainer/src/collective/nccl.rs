//! Collectives over NCCL, for GPUs. Operations go on the calling thread's stream and return at once.

use std::time::Duration;

use anyhow::{Context, Result};
use tch::Tensor;
use torch_ext::nccl::Group;

use super::Collective;

impl Collective for Group {
    fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<()> {
        Group::all_to_all(self, output, input, output_splits, input_splits).context("all-to-all")
    }

    fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<()> {
        Group::all_gather(self, output, input).context("all-gather")
    }

    fn all_reduce(&mut self, tensor: &Tensor) -> Result<()> {
        Group::all_reduce(self, tensor).context("all-reduce")
    }

    fn settle(&mut self, what: &str) -> Result<()> {
        Ok(Group::settle(self, what)?)
    }

    fn leave(self: Box<Self>, bound: Duration) {
        Group::leave(*self, bound);
    }
}
