//! Flat parameter space: one network's parameters as views into one tensor.
//!
//! One buffer to reduce, one to update, one to save, one to digest. Each parameter begins at a multiple of 64 bytes, so that
//! its alignment, and with it the kernels' way through it, is the same in every process.

use anyhow::{Context, Result};
use began::network::{Layer, Parameter};
use began::random::{Purpose, Stream};
use tch::{Device, Kind, Tensor};

/// Elements between the starts of parameters are multiples of this: 64 bytes of f32.
const ALIGNMENT: u64 = 16;

/// Where each parameter lies in the flat tensor.
#[derive(Clone, Debug)]
pub struct Layout {
    slots: Vec<Slot>,
    len: i64,
}

/// One parameter's place.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Name and shape.
    pub parameter: Parameter,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Layout {
    /// The layout of these layers' parameters, in their order.
    #[must_use]
    pub fn new(layers: &[Layer]) -> Self {
        let mut len = 0;
        let mut slots = Vec::new();
        for parameter in layers.iter().flat_map(Layer::parameters) {
            let shape: Vec<i64> = parameter.shape.iter().map(|&n| n as i64).collect();
            let offset = len;
            len += parameter.count().div_ceil(ALIGNMENT) as i64 * ALIGNMENT as i64;
            slots.push(Slot { strides: strides(&shape), parameter, offset, shape });
        }
        Self { slots, len }
    }

    /// The parameters, in order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Elements of the flat tensor, gaps included.
    #[must_use]
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Whether there is no parameter at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parameters in `flat` (of at least [`Layout::len`] elements), as views of their own shapes.
    ///
    /// # Errors
    /// If `flat` is too short.
    pub fn views(&self, flat: &Tensor) -> Result<Vec<Tensor>> {
        let view = |slot: &Slot| flat.f_as_strided(&slot.shape, &slot.strides, slot.offset);
        self.slots.iter().map(|slot| view(slot).with_context(|| slot.parameter.name.clone())).collect()
    }

    /// Initial values in a new flat tensor: uniform in ±1/sqrt(fan_in), weights and biases both, as PyTorch's defaults.
    /// The gaps are 0. `first` numbers the first parameter among all of the run's.
    ///
    /// # Errors
    /// If memory is short.
    pub fn initial(&self, seed: u64, first: u64, kind: Kind, device: Device) -> Result<Tensor> {
        let flat = Tensor::f_zeros([self.len], (kind, device))?;
        for ((slot, view), index) in self.slots.iter().zip(self.views(&flat)?).zip(first..) {
            let mut values = vec![0f32; slot.parameter.count() as usize];
            let bound = 1.0 / (slot.parameter.fan_in as f64).sqrt();
            Stream::new(seed, Purpose::Weights, index, 0).uniform(bound, &mut values);
            let values = Tensor::f_from_slice(&values)?.f_view(&*slot.shape)?;
            tch::no_grad(|| view.shallow_clone().f_copy_(&values.f_to_device(device)?))?;
        }
        Ok(flat)
    }
}

/// Convolution weights lie with their input channels innermost, as channels-last kernels want them.
fn strides(shape: &[i64]) -> Vec<i64> {
    match *shape {
        [_, inputs, height, width] => vec![height * width * inputs, 1, width * inputs, inputs],
        [_, inputs] => vec![inputs, 1],
        _ => vec![1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::config::Model;

    #[test]
    fn views_cover_the_flat_tensor_without_overlap() -> Result<()> {
        let layers = began::network::discriminator(&Model { size: 16, filters: 3, latent: 5 });
        let layout = Layout::new(&layers);
        let flat = Tensor::zeros([layout.len()], (Kind::Float, Device::Cpu));
        for view in layout.views(&flat)? {
            let _ = view.shallow_clone().f_add_scalar_(1.0)?;
        }
        let total = f64::try_from(flat.f_sum(Kind::Double)?)?;
        assert_eq!(total as u64, began::network::parameter_count(&layers));
        assert_eq!(f64::try_from(flat.f_max()?)?, 1.0);
        Ok(())
    }

    #[test]
    fn initial_values_are_drawn_in_the_order_of_the_shape_whatever_the_memory_order() -> Result<()> {
        let layers = began::network::generator(&Model { size: 16, filters: 2, latent: 3 });
        let layout = Layout::new(&layers);
        let flat = layout.initial(9, 0, Kind::Float, Device::Cpu)?;
        let conv = layout.slots().iter().position(|s| s.shape.len() == 4).context("a convolution")?;
        let mut expected = vec![0f32; layout.slots()[conv].parameter.count() as usize];
        let bound = 1.0 / (layout.slots()[conv].parameter.fan_in as f64).sqrt();
        Stream::new(9, Purpose::Weights, conv as u64, 0).uniform(bound, &mut expected);
        let found = Vec::<f32>::try_from(layout.views(&flat)?[conv].contiguous().view(-1))?;
        assert_eq!(found, expected);
        Ok(())
    }
}
