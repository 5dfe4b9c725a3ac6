//! The test's end: where the double's library is, and what became of a stream.
//!
//! A test links this as a library and loads the double as another copy. Only the loaded copy has streams, so they are
//! asked for through its exported functions.

#![allow(unsafe_code)]

use std::env;
use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The double, as cargo builds it for whoever depends on this crate: beside the test that runs, or as
/// `NCCL_DOUBLE_LIBRARY` says.
///
/// # Errors
/// Every place looked at.
pub fn library() -> Result<PathBuf, String> {
    const NAME: &str = "libnccl_double.so";
    if let Some(path) = env::var_os("NCCL_DOUBLE_LIBRARY") {
        return Ok(path.into());
    }
    let program = env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    // Tests run in deps, examples beside it, binaries above it.
    let around = program.ancestors().skip(1).take(3);
    let candidates: Vec<PathBuf> = around.flat_map(|up| [up.join(NAME), up.join("deps").join(NAME)]).collect();
    let found = candidates.iter().find(|path| path.exists()).cloned();
    found
        .ok_or_else(|| format!("{NAME} is in none of {candidates:?}; cargo builds it with the tests that depend on it"))
}

/// A stream's address as the number it is used as.
type Query = unsafe extern "C" fn(usize) -> c_int;
type Synchronize = unsafe extern "C" fn(usize, c_int) -> c_int;

/// The streams of the loaded double.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    query: Query,
    synchronize: Synchronize,
}

impl Device {
    /// Loads the double, or finds the copy that is loaded.
    ///
    /// # Errors
    /// Where it is not built or does not load.
    pub fn open() -> Result<Self, String> {
        let path = library()?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: a NUL-terminated path; the double has no initialisers beyond Rust's own.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(format!("{} does not load", path.display()));
        }
        // SAFETY: an open handle and NUL-terminated names.
        let (query, synchronize) = unsafe {
            (
                libc::dlsym(handle, c"doubleStreamQuery".as_ptr()),
                libc::dlsym(handle, c"doubleStreamSynchronize".as_ptr()),
            )
        };
        if query.is_null() || synchronize.is_null() {
            return Err(format!("{} is not the double", path.display()));
        }
        // SAFETY: non-null addresses of functions that this crate declares with these signatures.
        unsafe {
            Ok(Self {
                query: std::mem::transmute::<*mut c_void, Query>(query),
                synchronize: std::mem::transmute::<*mut c_void, Synchronize>(synchronize),
            })
        }
    }

    /// The address of a stream that nobody has yet.
    #[must_use]
    pub fn stream(&self) -> *mut c_void {
        static NEXT: AtomicUsize = AtomicUsize::new(0x5000);
        std::ptr::without_provenance_mut(NEXT.fetch_add(0x10, Ordering::Relaxed))
    }

    /// Whether everything on a stream is done, as `cudaStreamQuery` says.
    #[must_use]
    pub fn is_idle(&self, stream: *mut c_void) -> bool {
        // SAFETY: the double's function, which takes any number.
        unsafe { (self.query)(stream.addr()) == 1 }
    }

    /// Waits until everything on a stream is done, and says whether that came about within the bound.
    #[must_use]
    pub fn synchronize(&self, stream: *mut c_void, bound: Duration) -> bool {
        let milliseconds = c_int::try_from(bound.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the double's function, which takes any number.
        unsafe { (self.synchronize)(stream.addr(), milliseconds) == 1 }
    }
}
