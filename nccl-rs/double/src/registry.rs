//! Which communicators there are, and what went wrong last.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::communicator::Communicator;
use crate::stream::lock;

static LIVE: Mutex<Vec<Arc<Communicator>>> = Mutex::new(Vec::new());
static HANDLES: AtomicUsize = AtomicUsize::new(0x1000);
static LAST_ERROR: Mutex<Option<&'static CStr>> = Mutex::new(None);

/// A number that no handle had before.
pub fn next_handle() -> usize {
    HANDLES.fetch_add(0x10, Ordering::Relaxed)
}

pub fn add(communicator: &Arc<Communicator>) {
    lock(&LIVE).push(Arc::clone(communicator));
}

pub fn forget(handle: usize) {
    lock(&LIVE).retain(|communicator| communicator.handle != handle);
}

/// The communicator of a handle, which is a number: one that was freed is unknown, and not a crash.
pub fn find(handle: usize) -> Option<Arc<Communicator>> {
    lock(&LIVE).iter().find(|communicator| communicator.handle == handle).cloned()
}

/// A text that stays: a caller may hold it for ever, and a test has few failures.
pub fn kept(text: &str) -> Option<&'static CStr> {
    CString::new(text.replace('\0', " ")).ok().map(|text| &*Box::leak(text.into_boxed_c_str()))
}

/// Notes a failure that belongs to no communicator, and returns its code.
pub fn failed(code: i32, text: &str) -> i32 {
    *lock(&LAST_ERROR) = kept(text);
    code
}

/// The text for `ncclGetLastError`: the communicator's own, or the newest that belongs to none.
pub fn last_error(handle: usize) -> &'static CStr {
    let own = find(handle).and_then(|communicator| *lock(&communicator.text));
    own.or(*lock(&LAST_ERROR)).unwrap_or(c"")
}
