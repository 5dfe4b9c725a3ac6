//! libtorch's switches for a process: threads, determinism, CUDA.

use std::ffi::CStr;
use std::io::Write;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{TorchError, ffi};

/// One intra-op and one inter-op thread: the bits of a step differ between one thread and two. Once, at the start.
///
/// # Errors
/// If libtorch has started its threads already.
pub fn single_threaded() -> Result<(), TorchError> {
    // SAFETY: no arguments, exceptions are caught.
    TorchError::check(unsafe { ffi::began_single_threaded() })
}

/// Keeps freed memory in the process: a step allocates the same sizes again and again, and fresh pages cost a fault each.
/// Whether the allocator took it; nothing depends on it but speed.
pub fn keep_memory() -> bool {
    // SAFETY: sets the allocator's own parameters.
    unsafe { ffi::began_keep_memory() != 0 }
}

/// Deterministic algorithms, no autotuning, no TF32.
///
/// # Errors
/// If libtorch refuses.
pub fn deterministic() -> Result<(), TorchError> {
    // SAFETY: no arguments, exceptions are caught.
    TorchError::check(unsafe { ffi::began_deterministic() })
}

/// Whether a GPU's matrix units may round the operands of f32 products to TF32.
///
/// # Errors
/// If libtorch refuses.
pub fn tf32(allowed: bool) -> Result<(), TorchError> {
    // SAFETY: sets two switches, exceptions are caught.
    TorchError::check(unsafe { ffi::began_tf32(i32::from(allowed)) })
}

/// The most memory of a GPU that this process has used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// By tensors at a time.
    pub allocated: i64,
    /// Held by libtorch's allocator.
    pub reserved: i64,
}

/// What libtorch's allocator has counted on the GPU of this index.
///
/// # Errors
/// If there is no such GPU.
pub fn gpu_memory(index: usize) -> Result<GpuMemory, TorchError> {
    let index = i32::try_from(index).map_err(|_| TorchError(format!("no GPU {index}")))?;
    let mut found = GpuMemory { allocated: 0, reserved: 0 };
    // SAFETY: both answers go into a local; exceptions are caught.
    TorchError::check(unsafe { ffi::began_gpu_memory(index, &mut found.allocated, &mut found.reserved) })?;
    Ok(found)
}

/// All the memory of the GPU of this index, in bytes, as the driver says.
///
/// # Errors
/// If there is no such GPU.
pub fn gpu_total(index: usize) -> Result<i64, TorchError> {
    let index = i32::try_from(index).map_err(|_| TorchError(format!("no GPU {index}")))?;
    let mut total = 0;
    // SAFETY: the answer goes into a local; exceptions are caught.
    TorchError::check(unsafe { ffi::began_gpu_total(index, &mut total) })?;
    Ok(total)
}

/// Whether [`load_cuda`] has loaded the library.
static CUDA_IS_LOADED: AtomicBool = AtomicBool::new(false);

/// Loads `libtorch_cuda.so`, which is not linked to, so that one binary serves machines with and without GPUs.
///
/// # Errors
/// Where it does not load, with the loader's words.
pub fn load_cuda() -> Result<(), TorchError> {
    // SAFETY: no arguments; the library registers its kernels with libtorch when loaded.
    TorchError::check(unsafe { ffi::began_load_cuda() })?;
    CUDA_IS_LOADED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Ends the process with this code. Where libtorch's CUDA part is loaded no destructor of a library runs: those of libtorch may
/// abort a process whose threads still hold tensors of a GPU.
pub fn exit(code: u8) -> ! {
    if CUDA_IS_LOADED.load(Ordering::Relaxed) {
        exit_at_once(code);
    }
    process::exit(code.into())
}

/// Writes what standard output holds, and ends the process without its destructors.
fn exit_at_once(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process; nothing of this program waits for being dropped.
    unsafe { nix::libc::_exit(code.into()) }
}

/// The version of libtorch this was compiled against.
#[must_use]
pub fn torch_version() -> &'static str {
    // SAFETY: a string constant of the shim, NUL-terminated and there for good.
    unsafe { CStr::from_ptr(ffi::began_torch_version()) }.to_str().unwrap_or("unknown")
}

/// Which CPU kernels libtorch chose: "AVX2", "AVX512", ... The bits of a run on CPUs depend on it.
#[must_use]
pub fn cpu_capability() -> &'static str {
    // SAFETY: a static of the shim, NUL-terminated and there for good.
    unsafe { CStr::from_ptr(ffi::began_cpu_capability()) }.to_str().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLE: &str = "BEGAN_TEST_EXITS_AT_ONCE";

    extern "C" fn at_exit() {
        println!("a destructor ran");
        let _ = std::io::stdout().flush();
    }

    #[test]
    fn an_exit_at_once_writes_what_was_printed_and_runs_no_destructor() -> Result<(), Box<dyn std::error::Error>> {
        if std::env::var_os(VARIABLE).is_some() {
            // SAFETY: registers a function that prints.
            assert_eq!(unsafe { nix::libc::atexit(at_exit) }, 0);
            print!("printed without a line's end");
            exit_at_once(7);
        }
        let name = "runtime::tests::an_exit_at_once_writes_what_was_printed_and_runs_no_destructor";
        let mut command = process::Command::new(std::env::current_exe()?);
        let out = command.args(["--exact", name, "--nocapture"]).env(VARIABLE, "1").output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(7), "{text}");
        assert!(text.contains("printed without a line's end") && !text.contains("a destructor ran"), "{text}");
        Ok(())
    }
}
