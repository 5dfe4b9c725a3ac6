//! The system's dynamic loader. What is opened here stays open: NCCL starts threads that outlive every communicator, and
//! unloading the code under them would crash the process.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An opened library. Copies share it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened(*mut c_void);

// SAFETY: a handle of the loader names a library in the process; dlsym may be called on it from any thread.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    /// Loads a file; a name without a slash is looked for by the loader in its own places.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        Self::open(path.as_os_str(), libc::RTLD_NOW | libc::RTLD_LOCAL)
    }

    /// The copy that the process has already, under this name or with this name recorded in it.
    pub(crate) fn already(name: &str) -> Option<Self> {
        Self::open(OsStr::new(name), libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NOLOAD).ok()
    }

    fn open(name: &OsStr, flags: c_int) -> Result<Self, String> {
        let name = CString::new(name.as_bytes()).map_err(|_| "there is a NUL in the path".to_owned())?;
        // SAFETY: the name is NUL-terminated. Loading runs the library's initialisers: those of what the caller named.
        let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
        if handle.is_null() { Err(last_message()) } else { Ok(Self(handle)) }
    }

    /// The address of a symbol, null where there is none.
    pub(crate) fn symbol(self, name: &CStr) -> *mut c_void {
        // SAFETY: the handle is open and is never closed; the name is NUL-terminated.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }
}

/// The file that an address was loaded from.
pub(crate) fn file_of(address: *mut c_void) -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: dladdr takes any address, and fills in the structure where it returns non-zero.
    let found = unsafe { libc::dladdr(address, &raw mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: it points at the NUL-terminated name that the loader keeps for as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The loader's message about this thread's last failure.
fn last_message() -> String {
    // SAFETY: dlerror returns null or a NUL-terminated text that lives until this thread's next call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader gave no reason".to_owned();
    }
    // SAFETY: as above; it is copied before the loader is called again.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
