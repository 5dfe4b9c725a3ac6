//! How Gloo's members find each other: a key-value store in Rust, behind C++'s face.
//!
//! Everything that Gloo asks of it is bounded by the time that connecting may take, and ends at once when connecting is
//! called off. No panic may cross into C++.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::attempt::Attempt;
use crate::ffi;

/// How often a wait for keys looks up to see whether it was called off.
const SLICE: Duration = Duration::from_millis(250);

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

/// The store of one attempt to connect.
pub(super) struct Meeting {
    store: Arc<dyn Rendezvous>,
    attempt: Attempt,
    deadline: Instant,
}

impl Meeting {
    pub(super) fn new(store: Arc<dyn Rendezvous>, attempt: Attempt, deadline: Instant) -> Self {
        Self { store, attempt, deadline }
    }

    pub(super) fn inner(&self) -> Result<&dyn Rendezvous, String> {
        if self.attempt.is_called_off() { Err("connecting was called off".into()) } else { Ok(&*self.store) }
    }

    /// The values of all keys, waiting in slices: for `patience`, but never past the deadline nor once called off.
    pub(super) fn get(&self, keys: &[&str], patience: Duration) -> Result<Vec<Vec<u8>>, String> {
        let end = (Instant::now() + patience).min(self.deadline);
        loop {
            let store = self.inner()?;
            let started = Instant::now();
            let slice = end.saturating_duration_since(started).min(SLICE);
            match store.get(keys, slice) {
                Ok(values) => return Ok(values),
                Err(reason) if Instant::now() >= end => return Err(reason),
                // A store that cannot be reached answers at once; it may be back in a moment.
                Err(_) => thread::sleep(slice.saturating_sub(started.elapsed())),
            }
        }
    }

    /// What C++ calls; it owns the store from now on, and gives it up in its destructor.
    pub(super) fn face(self) -> ffi::StoreFace {
        ffi::StoreFace {
            this: Box::into_raw(Box::new(self)).cast::<c_void>(),
            set: store_set,
            get: store_get,
            add: store_add,
            append: store_append,
            remove: store_remove,
            compare_set: store_compare_set,
            drop: drop_store,
        }
    }
}

/// Runs a call of the store; its error goes out as bytes. No panic may cross into C++.
fn answer(this: *mut c_void, out: *mut c_void, call: impl FnOnce(&Meeting) -> Result<(), String>) -> c_int {
    // SAFETY: `this` is the box made in `face`, alive until `drop_store`.
    let store = unsafe { &*this.cast::<Meeting>() };
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
    answer(this, out, |store| store.inner()?.set(text(key)?, bytes(data, size)))
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
        let value = store.inner()?.add(text(key)?, amount)?;
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
    answer(this, out, |store| store.inner()?.append(text(key)?, bytes(data, size)))
}

extern "C" fn store_remove(this: *mut c_void, key: *const c_char, removed: *mut i64, out: *mut c_void) -> c_int {
    answer(this, out, |store| {
        let was_there = store.inner()?.delete(text(key)?)?;
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
        let value =
            store.inner()?.compare_set(text(key)?, bytes(expected, expected_size), bytes(desired, desired_size))?;
        put(out, &value);
        Ok(())
    })
}

extern "C" fn drop_store(this: *mut c_void) {
    // SAFETY: the box made in `face`; the shim calls this once, from the store's destructor.
    drop(unsafe { Box::from_raw(this.cast::<Meeting>()) });
}
