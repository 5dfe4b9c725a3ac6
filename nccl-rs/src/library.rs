//! The loaded library, and what can be asked of it without a communicator.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::api::Api;
use crate::error::Error;
use crate::ffi;
use crate::search::{LoadError, Search};
use crate::unique_id::UniqueId;
use crate::version::Version;

/// NCCL, loaded. Clones share it; it stays loaded until the process ends.
#[derive(Clone)]
pub struct Nccl(pub(crate) Arc<Api>);

impl Nccl {
    /// Finds and loads the library. No GPU is needed for that.
    ///
    /// # Errors
    /// What was looked at and why it did not serve, or that what was found is older than [`Version::OLDEST`].
    pub fn load(search: &Search) -> Result<Self, LoadError> {
        Ok(Self(Arc::new(Api::of(search.open()?)?)))
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The file it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A new identifier for a communicator to be. It opens a listening socket in this process, on the interface that
    /// NCCL chooses (`NCCL_SOCKET_IFNAME`), and needs no GPU.
    ///
    /// # Errors
    /// [`Error::Call`] where NCCL cannot open the socket.
    pub fn unique_id(&self) -> Result<UniqueId, Error> {
        let mut id = ffi::UniqueId { internal: [0; UniqueId::BYTES] };
        // SAFETY: it writes the 128 bytes.
        let code = unsafe { (self.0.get_unique_id)(&raw mut id) };
        self.0.check("ncclGetUniqueId", code)?;
        Ok(UniqueId::from_bytes(id.internal))
    }

    /// Memory on the calling thread's current device, allocated such that registering it
    /// ([`Communicator::register`](crate::Communicator::register)) serves every transport.
    ///
    /// # Errors
    /// [`Error::Missing`] before NCCL 2.19, [`Error::Refused`] for no bytes, [`Error::Call`] where there is no such
    /// memory left, or no device.
    pub fn allocate(&self, bytes: usize) -> Result<DeviceMemory, Error> {
        if bytes == 0 {
            return Err(Error::Refused("no bytes of device memory were asked for".to_owned()));
        }
        let allocate = self.0.mem_alloc()?;
        // Known to be there before something is allocated that could not be freed.
        let free = self.0.mem_free()?;
        let mut pointer: *mut c_void = std::ptr::null_mut();
        // SAFETY: it writes one pointer.
        let code = unsafe { allocate(&raw mut pointer, bytes) };
        self.0.check("ncclMemAlloc", code)?;
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| Error::Refused(format!("ncclMemAlloc of {bytes} bytes gave no memory and no error")))?;
        Ok(DeviceMemory { nccl: self.clone(), pointer, bytes, free })
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nccl({} from {})", self.version(), self.path().display())
    }
}

/// Memory from [`Nccl::allocate`], freed when dropped. Drop it after the operations on it and after its registration.
#[derive(Debug)]
pub struct DeviceMemory {
    nccl: Nccl,
    pointer: NonNull<c_void>,
    bytes: usize,
    free: ffi::MemFree,
}

// SAFETY: device memory belongs to no thread; NCCL frees it from any.
unsafe impl Send for DeviceMemory {}

impl DeviceMemory {
    /// Where it begins, on the device.
    #[must_use]
    pub fn pointer(&self) -> *mut c_void {
        self.pointer.as_ptr()
    }

    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frees it and says whether that went well, which dropping it cannot.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn free(self) -> Result<(), Error> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the memory came from ncclMemAlloc and is freed here only, since `this` is not dropped.
        let code = unsafe { (this.free)(this.pointer.as_ptr()) };
        let checked = this.nccl.0.check("ncclMemFree", code);
        // SAFETY: `this` is never used again; the library's share would leak otherwise.
        drop(unsafe { std::ptr::read(&raw const this.nccl) });
        checked
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: the memory came from ncclMemAlloc and is freed once.
        let _ = unsafe { (self.free)(self.pointer.as_ptr()) };
    }
}
