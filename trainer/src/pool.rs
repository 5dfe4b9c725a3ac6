//! Gradient buffers that are used again step after step, and their sum over this trainer's lanes.

use std::ops::Range;

use anyhow::Result;
use began::tree::Fold;

use crate::network::Parameters;
use crate::reduce::Partials;
use crate::step::GradientBuffer;

/// Buffers of one network.
#[derive(Debug, Default)]
pub struct Pool {
    buffers: Vec<GradientBuffer>,
    free: Vec<usize>,
    capacity: i64,
}

impl Pool {
    /// A pool whose buffers have room for `capacity` elements.
    #[must_use]
    pub fn new(capacity: i64) -> Self {
        Self { buffers: Vec::new(), free: Vec::new(), capacity }
    }

    /// A buffer nobody uses, made if there is none.
    ///
    /// # Errors
    /// If memory is short.
    pub fn take(&mut self, parameters: &Parameters) -> Result<usize> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        self.buffers.push(GradientBuffer::new(parameters, self.capacity)?);
        Ok(self.buffers.len() - 1)
    }

    /// The buffer that was taken.
    #[must_use]
    pub fn get(&self, index: usize) -> &GradientBuffer {
        &self.buffers[index]
    }

    /// Gives all back: the step is over, and no sum is under way.
    pub fn give_back_all(&mut self) {
        self.free = (0..self.buffers.len()).rev().collect();
    }

    /// Adds a lane's buffer into the fixed tree.
    ///
    /// # Errors
    /// If libtorch refuses.
    pub fn fold(&mut self, fold: &mut Fold<usize>, lane: u32, index: usize) -> Result<()> {
        let (buffers, free) = (&self.buffers, &mut self.free);
        fold.push(lane..lane + 1, index, |left, right| {
            torch_ext::add_scaled_(&buffers[left].flat, &buffers[right].flat, 1.0)?;
            free.push(right);
            Ok(left)
        })
    }

    /// The sums of a finished fold.
    #[must_use]
    pub fn partials(&self, fold: Fold<usize>) -> Partials {
        let sum = |(span, index): (Range<u32>, usize)| (span, self.buffers[index].flat.shallow_clone());
        fold.finish().into_iter().map(sum).collect()
    }
}
