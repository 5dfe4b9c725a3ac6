//! libtorch's own Gloo (`c10d::ProcessGroupGloo`), with a rendezvous in Rust.
//!
//! Operations run on Gloo's threads; each is waited for in slices, so that the caller can look up between them. A killed
//! peer shows as an error at once; a silent one only by the time limit, or because the caller stops waiting. The caller
//! must issue the same operations in the same order on every rank, and must not touch an operation's tensors until it is done.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tch::Tensor;

use crate::{TorchError, ffi};

/// Where the members of a group find each other: a key-value store that all of them see.
///
/// Called from Gloo's thread that forms the group; a call may block up to its time limit.
pub trait Rendezvous: Send + Sync {
    /// Sets a key.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String>;
    /// The values of all keys, waiting for them to be there.
    ///
    /// # Errors
    /// If one is not there in time, or the store cannot be reached.
    fn get(&self, keys: &[&str], timeout: Duration) -> Result<Vec<Vec<u8>>, String>;
    /// Adds to a number, 0 at first; the sum.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn add(&self, key: &str, amount: i64) -> Result<i64, String>;
    /// Appends to a key, empty at first.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn append(&self, key: &str, value: &[u8]) -> Result<(), String>;
    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn delete(&self, key: &str) -> Result<bool, String>;
    /// Sets a key if it is as expected; the value there afterwards.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, String>;
}

type Shared = Arc<dyn Rendezvous>;

/// Runs a call of the store; its error goes out as bytes. No panic may cross into C++.
fn answer(this: *mut c_void, out: *mut c_void, call: impl FnOnce(&Shared) -> Result<(), String>) -> c_int {
    // SAFETY: `this` is the box made in `Group::connect`, alive until `drop_store`.
    let store = unsafe { &*this.cast::<Shared>() };
    let outcome =
        catch_unwind(AssertUnwindSafe(|| call(store))).unwrap_or_else(|_| Err("the exchange panicked".into()));
    match outcome {
        Ok(()) => 0,
        Err(reason) => {
            put(out, reason.as_bytes());
            -1
        }
    }
}

fn put(out: *mut c_void, bytes: &[u8]) {
    // SAFETY: `out` is the shim's vector of this call; the bytes are copied.
    unsafe { ffi::began_put_bytes(out, bytes.as_ptr(), bytes.len()) }
}

fn text<'a>(raw: *const c_char) -> Result<&'a str, String> {
    // SAFETY: keys are NUL-terminated strings that live for the call.
    unsafe { CStr::from_ptr(raw) }.to_str().map_err(|_| "a key of the exchange is not UTF-8".to_owned())
}

fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        return &[];
    }
    // SAFETY: the shim passes a vector's data and length, alive for the call.
    unsafe { std::slice::from_raw_parts(data, size) }
}

extern "C" fn store_set(
    this: *mut c_void,
    key: *const c_char,
    data: *const u8,
    size: usize,
    out: *mut c_void,
) -> c_int {
    answer(this, out, |store| store.set(text(key)?, bytes(data, size)))
}

extern "C" fn store_get(
    this: *mut c_void,
    keys: *const *const c_char,
    count: usize,
    ms: i64,
    out: *mut c_void,
) -> c_int {
    answer(this, out, |store| {
        // SAFETY: the shim passes `count` keys, alive for the call.
        let keys = (0..count).map(|i| text(unsafe { *keys.add(i) })).collect::<Result<Vec<_>, _>>()?;
        for value in store.get(&keys, Duration::from_millis(ms.max(0) as u64))? {
            put(out, &value);
        }
        Ok(())
    })
}

extern "C" fn store_add(this: *mut c_void, key: *const c_char, amount: i64, sum: *mut i64, out: *mut c_void) -> c_int {
    answer(this, out, |store| {
        let value = store.add(text(key)?, amount)?;
        // SAFETY: `sum` points at a local of the caller.
        unsafe { *sum = value };
        Ok(())
    })
}

extern "C" fn store_append(
    this: *mut c_void,
    key: *const c_char,
    data: *const u8,
    size: usize,
    out: *mut c_void,
) -> c_int {
    answer(this, out, |store| store.append(text(key)?, bytes(data, size)))
}

extern "C" fn store_remove(this: *mut c_void, key: *const c_char, removed: *mut i64, out: *mut c_void) -> c_int {
    answer(this, out, |store| {
        let was_there = store.delete(text(key)?)?;
        // SAFETY: `removed` points at a local of the caller.
        unsafe { *removed = i64::from(was_there) };
        Ok(())
    })
}

extern "C" fn store_compare_set(
    this: *mut c_void,
    key: *const c_char,
    expected: *const u8,
    expected_size: usize,
    desired: *const u8,
    desired_size: usize,
    out: *mut c_void,
) -> c_int {
    answer(this, out, |store| {
        let value = store.compare_set(text(key)?, bytes(expected, expected_size), bytes(desired, desired_size))?;
        put(out, &value);
        Ok(())
    })
}

extern "C" fn drop_store(this: *mut c_void) {
    // SAFETY: the box made in `Group::connect`; the shim calls this once, from the store's destructor.
    drop(unsafe { Box::from_raw(this.cast::<Shared>()) });
}

/// A group of processes that reduce together over Gloo.
#[derive(Debug)]
pub struct Group {
    raw: *mut ffi::Group,
}

// SAFETY: ProcessGroupGloo queues operations under a lock of its own; it may be used from any one thread at a time, which
// `&mut self` below ensures.
unsafe impl Send for Group {}

impl Group {
    /// Connects to all other members. Blocks until they are there or the time limit passes, which also bounds each
    /// operation later. `address` is this host's address that the others can reach.
    ///
    /// # Errors
    /// If a member does not come in time, or the address cannot be bound.
    pub fn connect(
        store: Arc<dyn Rendezvous>,
        rank: u32,
        world: u32,
        address: &str,
        timeout: Duration,
    ) -> Result<Self, TorchError> {
        let address = CString::new(address).map_err(|_| TorchError(format!("{address:?} is not an address")))?;
        let this = Box::into_raw(Box::new(store)).cast::<c_void>();
        let face = ffi::StoreFace {
            this,
            set: store_set,
            get: store_get,
            add: store_add,
            append: store_append,
            remove: store_remove,
            compare_set: store_compare_set,
            drop: drop_store,
        };
        // SAFETY: the face owns its box and gives it up in `drop_store`; the address lives for the call.
        let raw = unsafe {
            ffi::began_gloo_new(face, rank as c_int, world as c_int, address.as_ptr(), timeout.as_millis() as i64)
        };
        if raw.is_null() { Err(TorchError::last()) } else { Ok(Self { raw }) }
    }

    /// Sums a tensor over all members, in place, in an order that depends on their number.
    ///
    /// # Errors
    /// If Gloo refuses the tensor.
    pub fn all_reduce(&mut self, tensor: &Tensor) -> Result<Operation, TorchError> {
        // SAFETY: the group is alive; the shim keeps its own handles on the tensors.
        Operation::new(unsafe { ffi::began_gloo_all_reduce(self.raw, tensor.as_ptr()) })
    }

    /// Lays every member's `input` end to end, by rank, in every member's `output`.
    ///
    /// # Errors
    /// If Gloo refuses the tensors.
    pub fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<Operation, TorchError> {
        // SAFETY: as above.
        Operation::new(unsafe { ffi::began_gloo_all_gather(self.raw, output.as_ptr(), input.as_ptr()) })
    }

    /// Sends `input_splits[r]` elements to each rank `r`, and receives `output_splits[r]` from it.
    ///
    /// # Errors
    /// If Gloo refuses the tensors, or the splits do not fit them.
    pub fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<Operation, TorchError> {
        if output_splits.len() != input_splits.len() {
            return Err(TorchError("all_to_all needs as many splits in as out".into()));
        }
        // SAFETY: as above; both lists of splits are as long as is said.
        Operation::new(unsafe {
            ffi::began_gloo_all_to_all(
                self.raw,
                output.as_ptr(),
                input.as_ptr(),
                output_splits.as_ptr(),
                input_splits.as_ptr(),
                input_splits.len(),
            )
        })
    }

    /// Copies `root`'s tensor to all.
    ///
    /// # Errors
    /// If Gloo refuses the tensor.
    pub fn broadcast(&mut self, tensor: &Tensor, root: u32) -> Result<Operation, TorchError> {
        // SAFETY: as above.
        Operation::new(unsafe { ffi::began_gloo_broadcast(self.raw, tensor.as_ptr(), root as c_int) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `began_gloo_new`, freed once.
        unsafe { ffi::began_gloo_free(self.raw) }
    }
}

/// An operation under way.
#[derive(Debug)]
#[must_use = "an operation's tensors may not be touched before it is waited for"]
pub struct Operation {
    raw: *mut ffi::Operation,
}

// SAFETY: c10d::Work is guarded by a lock of its own.
unsafe impl Send for Operation {}

impl Operation {
    fn new(raw: *mut ffi::Operation) -> Result<Self, TorchError> {
        if raw.is_null() { Err(TorchError::last()) } else { Ok(Self { raw }) }
    }

    /// Waits for at most `slice`; whether it is done.
    ///
    /// # Errors
    /// If a peer is gone or the group's time limit passed.
    pub fn wait(&mut self, slice: Duration) -> Result<bool, TorchError> {
        // SAFETY: the operation is alive.
        match unsafe { ffi::began_operation_wait(self.raw, slice.as_millis() as i64) } {
            1 => Ok(true),
            0 => Ok(false),
            _ => Err(TorchError::last()),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once; Gloo keeps its own handle while it runs.
        unsafe { ffi::began_operation_free(self.raw) }
    }
}
