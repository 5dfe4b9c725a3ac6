//! The shim's C face. Nothing here is safe; the modules beside it make it so.

use std::ffi::{c_char, c_int, c_void};

pub type RawTensor = torch_sys::C_tensor;

#[repr(C)]
pub struct Group {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct Device {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct Transfer {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct Event {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct StoreFace {
    pub this: *mut c_void,
    pub set: extern "C" fn(*mut c_void, *const c_char, *const u8, usize, *mut c_void) -> c_int,
    pub get: extern "C" fn(*mut c_void, *const *const c_char, usize, i64, *mut c_void) -> c_int,
    pub add: extern "C" fn(*mut c_void, *const c_char, i64, *mut i64, *mut c_void) -> c_int,
    pub append: extern "C" fn(*mut c_void, *const c_char, *const u8, usize, *mut c_void) -> c_int,
    pub remove: extern "C" fn(*mut c_void, *const c_char, *mut i64, *mut c_void) -> c_int,
    pub compare_set:
        extern "C" fn(*mut c_void, *const c_char, *const u8, usize, *const u8, usize, *mut c_void) -> c_int,
    pub drop: extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    pub fn began_last_error() -> *const c_char;
    pub fn began_put_bytes(values: *mut c_void, data: *const u8, size: usize);

    pub fn began_gloo_device(address: *const c_char) -> *mut Device;
    pub fn began_gloo_device_free(device: *mut Device);
    pub fn began_gloo_new(
        face: StoreFace,
        rank: c_int,
        world: c_int,
        device: *const Device,
        timeout_ms: i64,
    ) -> *mut Group;
    pub fn began_gloo_free(group: *mut Group);
    pub fn began_gloo_send(group: *mut Group, tensor: *const RawTensor, to: c_int, tag: c_int) -> *mut Transfer;
    pub fn began_gloo_receive(group: *mut Group, tensor: *const RawTensor, from: c_int, tag: c_int) -> *mut Transfer;
    pub fn began_transfer_wait(transfer: *mut Transfer, milliseconds: i64) -> c_int;
    pub fn began_transfer_abort(transfer: *mut Transfer);
    pub fn began_transfer_free(transfer: *mut Transfer);

    pub fn began_stream_new(index: c_int, high: c_int, id: *mut i64) -> c_int;
    pub fn began_stream_current(index: c_int, id: *mut i64) -> c_int;
    pub fn began_stream_exchange(index: c_int, id: i64, before: *mut i64) -> c_int;
    pub fn began_stream_native(index: c_int, id: i64, native: *mut *mut c_void) -> c_int;
    pub fn began_stream_synchronize(index: c_int, id: i64) -> c_int;
    pub fn began_device_set(index: c_int) -> c_int;
    pub fn began_record_stream(tensor: *const RawTensor, index: c_int, id: i64) -> c_int;
    pub fn began_event_new(timing: c_int) -> *mut Event;
    pub fn began_event_free(event: *mut Event);
    pub fn began_event_record(event: *mut Event, index: c_int, id: i64) -> c_int;
    pub fn began_event_block(event: *const Event, index: c_int, id: i64) -> c_int;
    pub fn began_event_query(event: *const Event) -> c_int;
    pub fn began_event_elapsed(from: *const Event, to: *const Event, milliseconds: *mut f64) -> c_int;

    pub fn began_grad(
        output: *const RawTensor,
        seed: *const RawTensor,
        inputs: *const *const RawTensor,
        count: usize,
        out: *mut *mut RawTensor,
    ) -> c_int;
    pub fn began_foreach_copy(to: *const *const RawTensor, from: *const *const RawTensor, count: usize) -> c_int;
    pub fn began_add_scaled(to: *const RawTensor, from: *const RawTensor, scale: f64) -> c_int;
    pub fn began_fused_adam(
        weights: *const RawTensor,
        gradient: *const RawTensor,
        m: *const RawTensor,
        v: *const RawTensor,
        step: *const RawTensor,
        rate: f64,
        beta1: f64,
        beta2: f64,
        epsilon: f64,
    ) -> c_int;
    pub fn began_bias_elu(y: *const RawTensor, bias: *const RawTensor) -> *mut RawTensor;
    pub fn began_has_kernels(device: c_int) -> c_int;
    pub fn began_compile_kernels(major: c_int, minor: c_int) -> *mut RawTensor;
    pub fn began_order_on_host(order: c_int) -> c_int;
    pub fn began_launches_on_host() -> u64;
    pub fn began_channels_last(tensor: *const RawTensor) -> *mut RawTensor;
    pub fn began_deterministic() -> c_int;
    pub fn began_tf32(allowed: c_int) -> c_int;
    pub fn began_pinned(tensor: *const RawTensor) -> *mut RawTensor;
    pub fn began_to_host(tensor: *const RawTensor) -> *mut RawTensor;
    pub fn began_gpu_memory(index: c_int, allocated: *mut i64, reserved: *mut i64) -> c_int;
    /// All the memory of a GPU, in bytes.
    pub fn began_gpu_total(index: c_int, total: *mut i64) -> c_int;
    pub fn began_single_threaded() -> c_int;
    pub fn began_keep_memory() -> c_int;
    pub fn began_torch_version() -> *const c_char;
    pub fn began_cpu_capability() -> *const c_char;
    pub fn began_load_cuda() -> c_int;
    pub fn began_profiler_start(cuda: c_int) -> c_int;
    pub fn began_profiler_stop(path: *const c_char) -> c_int;
}
