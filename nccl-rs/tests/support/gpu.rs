//! As much of CUDA's driver as a test needs, loaded at run time: count the devices, and on the first a context, memory
//! and streams.

#![allow(unsafe_code, dead_code)]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

/// How many GPUs there are; none where there is no driver.
pub fn count() -> i32 {
    Driver::load().map_or(0, |driver| driver.count())
}

pub struct Driver(*mut c_void);

impl Driver {
    pub fn load() -> Option<Self> {
        // SAFETY: a NUL-terminated name; the driver's initialisers are the driver's.
        let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!handle.is_null()).then_some(Self(handle))
    }

    fn find(&self, name: &CStr) -> *mut c_void {
        // SAFETY: an open handle and a NUL-terminated name.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "libcuda.so.1 has no {name:?}");
        address
    }
}

/// Declares methods that call the driver's functions and give their results.
macro_rules! driver {
    ($($method:ident = $symbol:literal ($($name:ident: $kind:ty),*);)*) => {
        impl Driver {
            $(
                unsafe fn $method(&self, $($name: $kind),*) -> c_int {
                    // SAFETY: the function's signature in the driver's public interface.
                    let function: unsafe extern "C" fn($($kind),*) -> c_int =
                        unsafe { std::mem::transmute::<*mut c_void, _>(self.find($symbol)) };
                    // SAFETY: the caller's promise.
                    unsafe { function($($name),*) }
                }
            )*
        }
    };
}

driver! {
    init = c"cuInit" (flags: c_uint);
    device_count = c"cuDeviceGetCount" (count: *mut c_int);
    retain = c"cuDevicePrimaryCtxRetain" (context: *mut *mut c_void, device: c_int);
    set_current = c"cuCtxSetCurrent" (context: *mut c_void);
    allocate = c"cuMemAlloc_v2" (pointer: *mut u64, bytes: usize);
    free = c"cuMemFree_v2" (pointer: u64);
    to_device = c"cuMemcpyHtoD_v2" (to: u64, from: *const c_void, bytes: usize);
    to_host = c"cuMemcpyDtoH_v2" (to: *mut c_void, from: u64, bytes: usize);
    stream_create = c"cuStreamCreate" (stream: *mut *mut c_void, flags: c_uint);
    stream_query = c"cuStreamQuery" (stream: *mut c_void);
}

/// What a query of a stream says while something is on it: `CUDA_ERROR_NOT_READY`.
const NOT_READY: c_int = 600;

fn checked(code: c_int, what: &str) {
    assert_eq!(code, 0, "{what} failed with CUDA's error {code}");
}

impl Driver {
    fn count(&self) -> i32 {
        let mut count = 0;
        // SAFETY: one int is written.
        unsafe { if self.init(0) == 0 && self.device_count(&raw mut count) == 0 { count } else { 0 } }
    }

    /// Makes the first device the thread's current one, as CUDA's runtime would.
    pub fn make_current(&self) {
        let mut context = ptr::null_mut();
        // SAFETY: one pointer is written, and passed on.
        unsafe {
            checked(self.retain(&raw mut context, 0), "cuDevicePrimaryCtxRetain");
            checked(self.set_current(context), "cuCtxSetCurrent");
        }
    }

    pub fn stream(&self) -> *mut c_void {
        let mut stream = ptr::null_mut();
        // SAFETY: one pointer is written. It lives as long as the process. 1: does not wait for the default stream.
        checked(unsafe { self.stream_create(&raw mut stream, 1) }, "cuStreamCreate");
        stream
    }

    pub fn is_idle(&self, stream: *mut c_void) -> Result<bool, String> {
        // SAFETY: a stream of `stream`.
        match unsafe { self.stream_query(stream) } {
            0 => Ok(true),
            NOT_READY => Ok(false),
            code => Err(format!("cuStreamQuery failed with CUDA's error {code}")),
        }
    }

    pub fn upload(&self, values: &[f32]) -> Memory<'_> {
        let mut address = 0;
        // SAFETY: one address is written, and so many bytes are copied there.
        unsafe {
            checked(self.allocate(&raw mut address, size_of_val(values)), "cuMemAlloc");
            checked(self.to_device(address, values.as_ptr().cast(), size_of_val(values)), "cuMemcpyHtoD");
        }
        Memory { driver: self, address, count: values.len() }
    }
}

pub struct Memory<'d> {
    driver: &'d Driver,
    address: u64,
    count: usize,
}

impl Memory<'_> {
    pub fn pointer(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.address as usize)
    }

    pub fn download(&self) -> Vec<f32> {
        let mut values = vec![0.0f32; self.count];
        // SAFETY: as many bytes as were allocated there and here.
        let code = unsafe { self.driver.to_host(values.as_mut_ptr().cast(), self.address, size_of_val(&values[..])) };
        checked(code, "cuMemcpyDtoH");
        values
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `upload` and freed once.
        let _ = unsafe { self.driver.free(self.address) };
    }
}
