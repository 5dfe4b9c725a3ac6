//! "Device" memory: pages of the host.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::stream::lock;

static ALLOCATED: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

/// Zeroed memory, or `None` where there is none.
pub fn allocate(bytes: usize) -> Option<*mut u8> {
    let layout = Layout::from_size_align(bytes.max(1), 4096).ok()?;
    // SAFETY: the layout is not empty.
    let pointer = unsafe { alloc_zeroed(layout) };
    if pointer.is_null() {
        return None;
    }
    lock(&ALLOCATED).insert(pointer.addr(), layout);
    Some(pointer)
}

/// Frees what [`allocate`] gave, and says whether it was that.
pub fn free(pointer: *mut u8) -> bool {
    let Some(layout) = lock(&ALLOCATED).remove(&pointer.addr()) else { return false };
    // SAFETY: the address is of `allocate` with this layout, and was taken off the list just now.
    unsafe { dealloc(pointer, layout) };
    true
}
