//! What libtorch has and tch does not expose, each piece a small C++ file compiled against the same headers as tch.
//!
//! All `unsafe` of the trainer lives here. Shapes and types are checked by libtorch itself; its exceptions come back as
//! [`TorchError`].

mod ffi;
pub mod fused;
pub mod gloo;
pub mod nccl;
pub mod profiler;
mod runtime;
pub mod stream;
mod tensor;

pub use runtime::{
    GpuMemory, cpu_capability, deterministic, exit, gpu_memory, gpu_total, keep_memory, load_cuda, single_threaded,
    tf32, torch_version,
};
pub use tensor::{add_scaled_, channels_last, foreach_copy_, fused_adam_, grad, pinned, to_host};

/// What libtorch threw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TorchError(pub String);

impl TorchError {
    fn last() -> Self {
        // SAFETY: the shim returns a NUL-terminated string that lives until this thread's next error.
        let text = unsafe { std::ffi::CStr::from_ptr(ffi::began_last_error()) };
        let text = text.to_string_lossy();
        // The first line is the message; a C++ stack trace may follow.
        Self(text.lines().next().unwrap_or("libtorch gave no reason").to_owned())
    }

    fn check(code: i32) -> Result<(), Self> {
        if code == 0 { Ok(()) } else { Err(Self::last()) }
    }
}
