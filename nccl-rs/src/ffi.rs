//! What crosses the border to NCCL: types, constants and the signatures of the functions, as its public interface has
//! them. Nothing here may be changed without the interface having changed; `tests::layouts` holds the sizes.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::marker::{PhantomData, PhantomPinned};

/// NCCL's communicator, never looked into.
#[repr(C)]
pub struct Comm {
    _opaque: [u8; 0],
    _neither_send_nor_sync: PhantomData<(*mut u8, PhantomPinned)>,
}

/// `ncclUniqueId`, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId {
    pub internal: [u8; UNIQUE_ID_BYTES],
}

pub const UNIQUE_ID_BYTES: usize = 128;

/// `ncclConfig_t` as of 2.28. Later versions append, so this is a prefix of theirs; earlier ones are a prefix of it.
#[repr(C)]
#[derive(Debug)]
pub struct Config {
    /// How many bytes of this the library may read.
    pub size: usize,
    pub magic: c_uint,
    /// The version whose layout this is, in NCCL's coding.
    pub version: c_uint,
    pub blocking: c_int,
    pub cga_cluster_size: c_int,
    pub min_ctas: c_int,
    pub max_ctas: c_int,
    pub net_name: *const c_char,
    pub split_share: c_int,
    pub traffic_class: c_int,
    pub comm_name: *const c_char,
    pub collnet_enable: c_int,
    pub cta_policy: c_int,
    pub shrink_share: c_int,
    pub nvls_ctas: c_int,
    pub n_channels_per_net_peer: c_int,
    pub nvlink_centric_sched: c_int,
}

/// What says that a config was initialised and is not whatever lay in memory.
pub const CONFIG_MAGIC: c_uint = 0xcafe_beef;
/// "The library chooses", for a number.
pub const UNDEFINED_INT: c_int = c_int::MIN;
/// The newest version whose layout [`Config`] has.
pub const CONFIG_VERSION: c_int = 22809;
/// `NCCL_SPLIT_NOCOLOR`.
pub const NO_COLOR: c_int = -1;

pub const SUCCESS: c_int = 0;
pub const IN_PROGRESS: c_int = 7;

/// One `fn` pointer type a shape of signature. Enums are C ints in NCCL's interface; taking them as ints means that a
/// value this crate doesn't know is no undefined behaviour.
pub type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
pub type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
pub type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
pub type GetLastError = unsafe extern "C" fn(*mut Comm) -> *const c_char;
pub type InitRankConfig = unsafe extern "C" fn(*mut *mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int;
pub type Split = unsafe extern "C" fn(*mut Comm, c_int, c_int, *mut *mut Comm, *mut Config) -> c_int;
pub type OfComm = unsafe extern "C" fn(*mut Comm) -> c_int;
pub type IntOfComm = unsafe extern "C" fn(*mut Comm, *mut c_int) -> c_int;
pub type Plain = unsafe extern "C" fn() -> c_int;
/// send, receive, count, type, operation, communicator, stream
pub type Reducing =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut Comm, *mut c_void) -> c_int;
/// send, receive, count, type, operation, root, communicator, stream
pub type Reduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, *mut Comm, *mut c_void) -> c_int;
/// send, receive, count, type, root, communicator, stream
pub type Broadcast =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut Comm, *mut c_void) -> c_int;
/// send, receive, count, type, communicator, stream
pub type AllGather = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, *mut Comm, *mut c_void) -> c_int;
/// send, count, type, peer, communicator, stream
pub type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, *mut Comm, *mut c_void) -> c_int;
/// receive, count, type, peer, communicator, stream
pub type Recv = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, *mut Comm, *mut c_void) -> c_int;
pub type Register = unsafe extern "C" fn(*mut Comm, *mut c_void, usize, *mut *mut c_void) -> c_int;
pub type Deregister = unsafe extern "C" fn(*mut Comm, *mut c_void) -> c_int;
pub type MemAlloc = unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int;
pub type MemFree = unsafe extern "C" fn(*mut c_void) -> c_int;
/// Of a double over host memory: 1 where the stream is idle.
pub type StreamQuery = unsafe extern "C" fn(usize) -> c_int;

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn layouts_are_those_of_the_public_header() {
        assert_eq!(size_of::<UniqueId>(), 128);
        assert_eq!(size_of::<Config>(), 80);
        // What a C compiler makes of the header of 2.28.9.
        let offsets = [
            (offset_of!(Config, size), 0),
            (offset_of!(Config, magic), 8),
            (offset_of!(Config, version), 12),
            (offset_of!(Config, blocking), 16),
            (offset_of!(Config, cga_cluster_size), 20),
            (offset_of!(Config, min_ctas), 24),
            (offset_of!(Config, max_ctas), 28),
            (offset_of!(Config, net_name), 32),
            (offset_of!(Config, split_share), 40),
            (offset_of!(Config, traffic_class), 44),
            (offset_of!(Config, comm_name), 48),
            (offset_of!(Config, collnet_enable), 56),
            (offset_of!(Config, cta_policy), 60),
            (offset_of!(Config, shrink_share), 64),
            (offset_of!(Config, nvls_ctas), 68),
            (offset_of!(Config, n_channels_per_net_peer), 72),
            (offset_of!(Config, nvlink_centric_sched), 76),
        ];
        for (ours, theirs) in offsets {
            assert_eq!(ours, theirs);
        }
    }
}
