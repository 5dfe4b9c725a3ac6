//! What goes between host and device beside the computation: a lane's images and noise on the way there, its losses on the
//! way back. On a GPU nobody waits for either: they go through pinned memory, the uploads on a stream of their own, and events
//! tell what is there. On a CPU everything is there at once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use began::LaneLosses;
use began_proto::v1::LaneImages;
use tch::{Device, Tensor};
use torch_ext::stream::{Event, Stream};

use crate::images::Measured;

/// The way to the device.
#[derive(Debug)]
pub struct Uploads {
    device: Device,
    stream: Stream,
}

impl Uploads {
    /// To this device.
    ///
    /// # Errors
    /// If it is not there.
    pub fn new(device: Device) -> Result<Self> {
        Ok(Self { device, stream: Stream::new(device, true)? })
    }

    /// Sends a tensor of the host; what is put on the current stream from now on finds it there.
    ///
    /// # Errors
    /// If memory is short or the device refuses.
    pub fn send(&self, host: Tensor) -> Result<Tensor> {
        if self.device == Device::Cpu {
            return Ok(host);
        }
        let pinned = torch_ext::pinned(&host)?;
        let mut sent = Event::new(self.device, false)?;
        let there = {
            let _entered = self.stream.enter()?;
            // The allocator keeps the pinned memory until this stream has read it.
            let there = pinned.f_to_device_(self.device, pinned.kind(), true, false)?;
            sent.record(self.stream)?;
            there
        };
        let current = Stream::current(self.device)?;
        sent.hold_up(current)?;
        // It was made on the uploads' stream: its memory must not be taken again there while this one still reads it.
        current.uses(&there)?;
        Ok(there)
    }
}

/// How long to look at an event before looking away for a moment, and for how long.
const PAUSE: Duration = Duration::from_micros(20);

/// A lane's losses on their way to the host.
#[derive(Debug)]
pub struct PendingLosses {
    /// L(x) and L(G(z)); whole once `there` is done.
    values: Tensor,
    /// What is known of single images, on the same way.
    images: Option<Measured>,
    there: Event,
    drawn: u64,
}

/// A tensor on its way to the host, behind what the current stream holds; itself, where it is there.
pub(crate) fn to_host(tensor: &Tensor) -> Result<Tensor> {
    Ok(if tensor.device() == Device::Cpu { tensor.shallow_clone() } else { torch_ext::to_host(tensor)? })
}

impl PendingLosses {
    /// Starts their way, behind what the current stream holds; `drawn` says which samples they are of.
    ///
    /// # Errors
    /// If memory is short or the device refuses.
    pub fn start(real: &Tensor, fake: &Tensor, images: Option<&Measured>, drawn: u64) -> Result<Self> {
        let device = real.device();
        let both = Tensor::f_stack(&[real, fake], 0)?;
        let values = to_host(&both)?;
        let images = images.map(Measured::to_host).transpose()?;
        let mut there = Event::new(device, false)?;
        there.record(Stream::current(device)?)?;
        Ok(Self { values, images, there, drawn })
    }

    /// Whether they are there.
    ///
    /// # Errors
    /// If the device failed.
    pub fn is_there(&self) -> Result<bool> {
        Ok(self.there.is_done()?)
    }

    /// Waits for them, at most `patience`.
    ///
    /// # Errors
    /// If the device failed, or is not done by then.
    pub fn wait(self, patience: Duration) -> Result<(LaneLosses, Option<LaneImages>)> {
        let started = Instant::now();
        while !self.is_there()? {
            if started.elapsed() > patience {
                bail!("waited {:.0} s for the device to compute the losses of a lane", patience.as_secs_f64());
            }
            thread::sleep(PAUSE);
        }
        let losses = LaneLosses {
            real: self.values.f_double_value(&[0])?,
            fake: self.values.f_double_value(&[1])?,
            drawn: self.drawn,
        };
        Ok((losses, self.images.map(Measured::read).transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn on_a_cpu_everything_is_there_at_once() -> Result<()> {
        let uploads = Uploads::new(Device::Cpu)?;
        let sent = uploads.send(Tensor::from_slice(&[1.0, 2.0]))?;
        assert_eq!(Vec::<f64>::try_from(&sent)?, [1.0, 2.0]);
        for kind in [Kind::Float, Kind::Double] {
            let loss = |value: f64| Tensor::from(value).to_kind(kind);
            let pending = PendingLosses::start(&loss(0.1), &loss(0.25), None, 7)?;
            assert!(pending.is_there()?);
            let (losses, _) = pending.wait(Duration::ZERO)?;
            // The very value of the tensor, whatever its kind.
            let expected = if kind == Kind::Float { f64::from(0.1f32) } else { 0.1 };
            assert_eq!((losses.real, losses.fake, losses.drawn), (expected, 0.25, 7));
        }
        Ok(())
    }
}
