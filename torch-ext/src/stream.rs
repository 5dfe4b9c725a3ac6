//! Streams and events: in which order a device does what it was given, without the host waiting for it.
//!
//! A CPU does everything at once, in the order in which it is told: its streams and events are done as soon as they are made, so that
//! the code over them is the same for both kinds of device. Work on one stream sees what another has written only behind an event.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;

use tch::{Device, Tensor};

use crate::{TorchError, ffi};

/// An order of work on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The host's own order.
    Host,
    /// A stream of a GPU.
    Cuda {
        /// The GPU's index, as libtorch counts.
        index: i32,
        /// libtorch's number for the stream.
        id: i64,
    },
}

fn index_of(device: Device) -> Result<Option<i32>, TorchError> {
    match device {
        Device::Cpu => Ok(None),
        Device::Cuda(index) => i32::try_from(index).map(Some).map_err(|_| TorchError(format!("no GPU {index}"))),
        other => Err(TorchError(format!("{other:?} has no streams here"))),
    }
}

impl Stream {
    /// A stream beside the others; `urgent`: its work comes first where the device must choose.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn new(device: Device, urgent: bool) -> Result<Self, TorchError> {
        let Some(index) = index_of(device)? else { return Ok(Self::Host) };
        let mut id = 0;
        // SAFETY: the answer goes into a local.
        TorchError::check(unsafe { ffi::began_stream_new(index, i32::from(urgent), &mut id) })?;
        Ok(Self::Cuda { index, id })
    }

    /// The one on which this thread's operations go.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn current(device: Device) -> Result<Self, TorchError> {
        let Some(index) = index_of(device)? else { return Ok(Self::Host) };
        let mut id = 0;
        // SAFETY: the answer goes into a local.
        TorchError::check(unsafe { ffi::began_stream_current(index, &mut id) })?;
        Ok(Self::Cuda { index, id })
    }

    /// Has this thread's operations go here until what is returned is dropped. Also makes its device this thread's current one.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn enter(self) -> Result<Entered, TorchError> {
        let before = match self {
            Self::Host => Self::Host,
            Self::Cuda { index, id } => {
                let mut before = 0;
                // SAFETY: the stream was given by libtorch; the answer goes into a local.
                TorchError::check(unsafe { ffi::began_device_set(index) })?;
                TorchError::check(unsafe { ffi::began_stream_exchange(index, id, &mut before) })?;
                Self::Cuda { index, id: before }
            }
        };
        Ok(Entered { before, here: PhantomData })
    }

    /// The `cudaStream_t` behind it, for libraries beside libtorch; null for the host's, and for a GPU's default one.
    ///
    /// # Errors
    /// If libtorch does not tell.
    pub fn native(self) -> Result<*mut c_void, TorchError> {
        let Self::Cuda { index, id } = self else { return Ok(ptr::null_mut()) };
        let mut native = ptr::null_mut();
        // SAFETY: the stream was given by libtorch; the answer goes into a local.
        TorchError::check(unsafe { ffi::began_stream_native(index, id, &mut native) })?;
        Ok(native)
    }

    /// Keeps the tensor's memory from being used again before what the stream holds now is done: for a tensor that was made on
    /// another stream.
    ///
    /// # Errors
    /// If the tensor is not on this device.
    pub fn uses(self, tensor: &Tensor) -> Result<(), TorchError> {
        let Self::Cuda { index, id } = self else { return Ok(()) };
        // SAFETY: the tensor is alive, the stream was given by libtorch.
        TorchError::check(unsafe { ffi::began_record_stream(tensor.as_ptr(), index, id) })
    }

    /// Waits on the host until all that it holds is done. Has no bound: where a peer may be missing, look at an [`Event`] instead.
    ///
    /// # Errors
    /// If the device failed.
    pub fn synchronize(self) -> Result<(), TorchError> {
        let Self::Cuda { index, id } = self else { return Ok(()) };
        // SAFETY: the stream was given by libtorch.
        TorchError::check(unsafe { ffi::began_stream_synchronize(index, id) })
    }
}

/// This thread's operations go to a stream while this lives; it stays on its thread.
#[derive(Debug)]
pub struct Entered {
    before: Stream,
    here: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Stream::Cuda { index, id } = self.before {
            let mut left = 0;
            // SAFETY: the stream was given by libtorch. A device that fails here fails at its next operation as well.
            unsafe { ffi::began_stream_exchange(index, id, &mut left) };
        }
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event {
    /// Null on the host, where all is done.
    raw: *mut ffi::Event,
}

// SAFETY: a CUDA event may be recorded and asked from any thread; `&self` methods only read it, and recording takes `&mut`.
unsafe impl Send for Event {}

impl Event {
    /// An event of this kind of device; `timing`: it can tell how long after another it was, at some cost.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn new(device: Device, timing: bool) -> Result<Self, TorchError> {
        if index_of(device)?.is_none() {
            return Ok(Self { raw: ptr::null_mut() });
        }
        // SAFETY: makes a new one, or none with an error.
        let raw = unsafe { ffi::began_event_new(i32::from(timing)) };
        if raw.is_null() { Err(TorchError::last()) } else { Ok(Self { raw }) }
    }

    /// Puts it behind what the stream holds now.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn record(&mut self, stream: Stream) -> Result<(), TorchError> {
        let Stream::Cuda { index, id } = stream else { return Ok(()) };
        if self.raw.is_null() {
            return Err(TorchError("an event of the host cannot be put on a GPU's stream".into()));
        }
        // SAFETY: the event is alive, the stream was given by libtorch.
        TorchError::check(unsafe { ffi::began_event_record(self.raw, index, id) })
    }

    /// Has what is put on the stream from now on wait for it. The host does not wait.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn hold_up(&self, stream: Stream) -> Result<(), TorchError> {
        let Stream::Cuda { index, id } = stream else { return Ok(()) };
        if self.raw.is_null() {
            return Ok(());
        }
        // SAFETY: the event is alive, the stream was given by libtorch.
        TorchError::check(unsafe { ffi::began_event_block(self.raw, index, id) })
    }

    /// Whether what is before it is done. One that was never recorded is.
    ///
    /// # Errors
    /// If the device failed.
    pub fn is_done(&self) -> Result<bool, TorchError> {
        if self.raw.is_null() {
            return Ok(true);
        }
        // SAFETY: the event is alive.
        match unsafe { ffi::began_event_query(self.raw) } {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(TorchError::last()),
        }
    }

    /// Milliseconds from `earlier` to this; nothing on the host. Both must be done, and made for timing.
    ///
    /// # Errors
    /// If they are not.
    pub fn milliseconds_since(&self, earlier: &Self) -> Result<Option<f64>, TorchError> {
        if self.raw.is_null() || earlier.raw.is_null() {
            return Ok(None);
        }
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive; the answer goes into a local.
        TorchError::check(unsafe { ffi::began_event_elapsed(earlier.raw, self.raw, &mut milliseconds) })?;
        Ok(Some(milliseconds))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: made by `began_event_new`, freed once.
            unsafe { ffi::began_event_free(self.raw) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_host_everything_is_done_when_it_is_told() -> Result<(), TorchError> {
        let stream = Stream::new(Device::Cpu, true)?;
        assert_eq!((stream, Stream::current(Device::Cpu)?), (Stream::Host, Stream::Host));
        let _entered = stream.enter()?;
        let mut event = Event::new(Device::Cpu, true)?;
        event.record(stream)?;
        event.hold_up(stream)?;
        assert!(event.is_done()? && stream.native()?.is_null());
        assert_eq!(event.milliseconds_since(&event)?, None);
        stream.uses(&Tensor::from_slice(&[1.0]))?;
        stream.synchronize()
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        if crate::load_cuda().is_ok() && tch::Cuda::is_available() {
            println!("skipped: there is a GPU here");
            return;
        }
        let found = Stream::new(Device::Cuda(0), false);
        assert!(found.as_ref().is_err_and(|error| !error.0.is_empty()), "{found:?}");
        assert!(Event::new(Device::Cuda(0), false).is_err());
    }
}
