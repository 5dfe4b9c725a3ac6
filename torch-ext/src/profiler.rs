//! libtorch's profiler: which operations were called and which kernels ran, when and for how long.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use tch::Device;

use crate::{TorchError, ffi};

/// A recording under way, of this thread's operations and of everything on the process's GPUs. Dropping it discards it.
#[derive(Debug)]
pub struct Trace {
    running: bool,
}

impl Trace {
    /// Begins to record. A process records one trace at a time. On a GPU the first recording of a process is slow to begin.
    ///
    /// # Errors
    /// If the profiler cannot be had, or records already.
    pub fn start(device: Device) -> Result<Self, TorchError> {
        // SAFETY: a plain number; exceptions are caught.
        TorchError::check(unsafe { ffi::began_profiler_start(i32::from(device.is_cuda())) })?;
        Ok(Self { running: true })
    }

    /// Ends it and writes it in Chrome's trace format: JSON, times in microseconds.
    ///
    /// # Errors
    /// If nothing was recorded, or the path holds a zero byte.
    pub fn save(mut self, path: &Path) -> Result<(), TorchError> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| TorchError(error.to_string()))?;
        self.running = false;
        // SAFETY: a string that outlives the call; exceptions are caught.
        TorchError::check(unsafe { ffi::began_profiler_stop(path.as_ptr()) })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.running {
            // SAFETY: null discards what was recorded. Nothing can be done about an error here.
            let _ = unsafe { ffi::began_profiler_stop(ptr::null()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn what_was_called_while_it_ran_is_in_the_trace() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("trace.json");
        let x = Tensor::randn([16, 16], (Kind::Float, Device::Cpu));
        let discarded = Trace::start(Device::Cpu)?;
        let _ = x.f_sigmoid()?;
        drop(discarded);
        let trace = Trace::start(Device::Cpu)?;
        let _ = x.f_matmul(&x)?;
        trace.save(&path)?;
        let text = std::fs::read_to_string(path)?;
        assert!(text.contains("aten::matmul") && text.contains("traceEvents"), "{}", &text[..text.len().min(2000)]);
        assert!(!text.contains("aten::sigmoid"), "what was discarded is in the next trace");
        Ok(())
    }
}
