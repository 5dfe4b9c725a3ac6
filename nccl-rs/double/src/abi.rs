//! The exported functions: NCCL's names and signatures, and the double's own two.
//!
//! Every pointer here is a caller's. NCCL's interface promises what the functions of one name may do with it; null is
//! checked, as NCCL does.

#![allow(unsafe_code, non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use crate::beginning::{bring_up, obey, split};
use crate::bootstrap::{Address, Root};
use crate::communicator::{
    Communicator, Halt, IN_PROGRESS, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, SUCCESS, SYSTEM_ERROR,
};
use crate::group;
use crate::memory;
use crate::registry::{failed, find, last_error};
use crate::script::{Action, Place, Script};
use crate::stream;

mod operations;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u8; 128]);

/// The head of `ncclConfig_t`; `size` says how much of the rest is there.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    _until_comm_name: [c_int; 7],
    comm_name: *const c_char,
}

type Handle = *mut c_void;

fn handle(communicator: &Communicator) -> Handle {
    std::ptr::without_provenance_mut(communicator.handle)
}

/// Calls a function with the communicator of a handle.
fn with(comm: Handle, call: impl FnOnce(Arc<Communicator>) -> c_int) -> c_int {
    match find(comm.addr()) {
        Some(communicator) => call(communicator),
        None => group::note_failure(failed(INVALID_ARGUMENT, &format!("[double] {comm:?} is no communicator"))),
    }
}

/// # Safety
/// As the writer of NCCL's function of this kind promises: null or writable.
unsafe fn put<T>(place: *mut T, value: T) -> c_int {
    if place.is_null() {
        return failed(INVALID_ARGUMENT, "[double] a null argument");
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    let told = Script::of_process().as_ref().ok().and_then(Script::version);
    // SAFETY: NCCL's promise: one int.
    unsafe { put(version, told.unwrap_or(22809)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    let opened = Root::open().and_then(|root| {
        let address = root.address;
        root.serve().map(|()| address)
    });
    match opened {
        // SAFETY: NCCL's promise: 128 bytes.
        Ok(address) => unsafe { put(id, UniqueId(address.to_bytes())) },
        Err(error) => failed(SYSTEM_ERROR, &format!("[double] the bootstrap root: {error}")),
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(result: c_int) -> *const c_char {
    let text = match result {
        0 => c"no error",
        1 => c"a call of the device failed",
        2 => c"a call of the system failed",
        3 => c"an internal error of the double",
        4 => c"an invalid argument",
        5 => c"an invalid usage",
        6 => c"a remote process failed or is gone",
        7 => c"in progress",
        _ => c"an unknown result",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(comm: Handle) -> *const c_char {
    last_error(comm.addr()).as_ptr()
}

/// Blocking or not, and the name.
///
/// # Safety
/// Null, or a configuration as long as it says with texts that live.
unsafe fn read_config(config: *const Config) -> Result<(bool, Option<String>), String> {
    if config.is_null() {
        return Ok((true, None));
    }
    // SAFETY: every version of the structure begins with these.
    let (size, magic, blocking) = unsafe { ((*config).size, (*config).magic, (*config).blocking) };
    if magic != 0xcafe_beef || size < 48 {
        return Err("the configuration was not initialised".to_owned());
    }
    if !matches!(blocking, 0 | 1 | c_int::MIN) {
        return Err(format!("blocking is {blocking}"));
    }
    // SAFETY: long enough to hold the name.
    let name = if size >= size_of::<Config>() { unsafe { (*config).comm_name } } else { std::ptr::null() };
    // SAFETY: a NUL-terminated text.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
    Ok((blocking != 0, name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommInitRankConfig(
    out: *mut Handle,
    size: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut Config,
) -> c_int {
    let refused = |code, text: &str| group::note_failure(failed(code, &format!("[double] {text}")));
    // SAFETY: NCCL's promise: a pointer to write to.
    if unsafe { put(out, std::ptr::null_mut()) } != SUCCESS {
        return INVALID_ARGUMENT;
    }
    // SAFETY: NCCL's promise for a configuration.
    let (blocking, name) = match unsafe { read_config(config) } {
        Ok(read) => read,
        Err(text) => return refused(INVALID_ARGUMENT, &text),
    };
    let script = match Script::of_communicator(name.as_deref()) {
        Ok(script) => script,
        Err(text) => return refused(INVALID_ARGUMENT, &text),
    };
    let (Some(address), Ok(rank), Ok(size)) =
        (Address::from_bytes(&id.0), usize::try_from(rank), usize::try_from(size))
    else {
        return refused(INVALID_ARGUMENT, "a unique id or a rank that is none");
    };
    if rank >= size {
        return refused(INVALID_ARGUMENT, "a rank out of range");
    }
    let action = script.at(Place::Init, rank);
    if action == Some(Action::Refuse) {
        return refused(INTERNAL_ERROR, "told to refuse at init");
    }
    let communicator = Communicator::create(rank, size, blocking, script);
    // SAFETY: as above.
    unsafe { put(out, handle(&communicator)) };
    communicator.background(move |comm| bring_up(comm, address, action, &|| comm.is_aborted()))
}

/// Refuses a communicator that is not ready, as NCCL does.
fn ready(comm: &Communicator) -> c_int {
    match comm.state() {
        SUCCESS => SUCCESS,
        IN_PROGRESS => comm.set_failed(INVALID_ARGUMENT, "used while something was in progress"),
        failure => failure,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommSplit(
    comm: Handle,
    color: c_int,
    key: c_int,
    out: *mut Handle,
    config: *mut Config,
) -> c_int {
    with(comm, |comm| {
        // SAFETY: NCCL's promise: a pointer to write to.
        if unsafe { put(out, std::ptr::null_mut()) } != SUCCESS || ready(&comm) != SUCCESS {
            return comm.set_failed(INVALID_ARGUMENT, "split of a communicator that is not ready, or into nothing");
        }
        // SAFETY: NCCL's promise for a configuration.
        let parsed = unsafe { read_config(config) }
            .and_then(|(blocking, name)| Ok((blocking, Script::of_communicator(name.as_deref())?)));
        let (blocking, script) = match parsed {
            Ok(_) if config.is_null() => (comm.blocking, comm.script.clone()),
            Ok(parsed) => parsed,
            Err(text) => return comm.set_failed(INVALID_ARGUMENT, &text),
        };
        if comm.script.at(Place::Split, comm.rank) == Some(Action::Refuse) {
            return comm.set_failed(INTERNAL_ERROR, "told to refuse to split");
        }
        // SAFETY: NCCL's promise: the pointer is writable until the split is complete or aborted.
        let out = unsafe { AtomicPtr::from_ptr(out) };
        let number = comm.next_collective();
        comm.set_in_progress();
        comm.background(move |comm| match split(comm, number, color, key, blocking, script) {
            Ok(child) => {
                out.store(child.map_or(std::ptr::null_mut(), |child| handle(&child)), Ordering::Release);
                comm.set_ready();
            }
            Err(Halt::Failed(code, text)) => drop(comm.set_failed(code, &text)),
            Err(Halt::Aborted) => {}
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommFinalize(comm: Handle) -> c_int {
    with(comm, |comm| {
        if ready(&comm) != SUCCESS {
            return comm.state();
        }
        let action = comm.script.at(Place::Finalize, comm.rank);
        if action == Some(Action::Refuse) {
            return comm.set_failed(INTERNAL_ERROR, "told to refuse to finalise");
        }
        comm.set_in_progress();
        comm.background(move |comm| {
            if !obey(comm, action, &|| comm.is_aborted()) {
                return;
            }
            match comm.finalize() {
                Ok(()) => comm.set_ready(),
                Err(Halt::Failed(code, text)) => drop(comm.set_failed(code, &text)),
                Err(Halt::Aborted) => {}
            }
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommDestroy(comm: Handle) -> c_int {
    with(comm, |comm| {
        let (finalized, left) = (comm.is_finalized(), comm.registrations());
        let code = comm.abort();
        match (finalized, left) {
            (false, _) => failed(INVALID_USAGE, "[double] destroyed without being finalised"),
            (true, 1..) => failed(INVALID_USAGE, &format!("[double] destroyed with {left} buffers registered")),
            _ => code,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(comm: Handle) -> c_int {
    with(comm, |comm| comm.abort())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommGetAsyncError(comm: Handle, state: *mut c_int) -> c_int {
    // SAFETY: NCCL's promise: one int.
    with(comm, |comm| unsafe { put(state, comm.state()) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommCount(comm: Handle, count: *mut c_int) -> c_int {
    // SAFETY: NCCL's promise: one int.
    with(comm, |comm| unsafe { put(count, comm.size as c_int) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommCuDevice(comm: Handle, device: *mut c_int) -> c_int {
    // SAFETY: NCCL's promise: one int.
    with(comm, |_| unsafe { put(device, 0) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommUserRank(comm: Handle, rank: *mut c_int) -> c_int {
    // SAFETY: NCCL's promise: one int.
    with(comm, |comm| unsafe { put(rank, comm.rank as c_int) })
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupStart() -> c_int {
    group::start()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupEnd() -> c_int {
    group::end()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommRegister(comm: Handle, buffer: *mut c_void, bytes: usize, out: *mut Handle) -> c_int {
    with(comm, |comm| {
        if buffer.is_null() || bytes == 0 {
            return comm.set_failed(INVALID_ARGUMENT, "nothing to register");
        }
        // SAFETY: NCCL's promise: a pointer to write to.
        unsafe { put(out, std::ptr::without_provenance_mut(comm.register())) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommDeregister(comm: Handle, registration: Handle) -> c_int {
    with(comm, |comm| match comm.deregister(registration.addr()) {
        true => SUCCESS,
        false => comm.set_failed(INVALID_ARGUMENT, "a registration that is none"),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclMemAlloc(out: *mut *mut c_void, bytes: usize) -> c_int {
    match memory::allocate(bytes) {
        // SAFETY: NCCL's promise: a pointer to write to.
        Some(pointer) => unsafe { put(out, pointer.cast()) },
        None => failed(1, &format!("[double] no {bytes} bytes are left")),
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclMemFree(pointer: *mut c_void) -> c_int {
    match memory::free(pointer.cast()) {
        true => SUCCESS,
        false => failed(INVALID_ARGUMENT, "[double] memory of somebody else"),
    }
}

/// 1 where everything on the stream is done, otherwise 0.
#[unsafe(no_mangle)]
extern "C" fn doubleStreamQuery(stream: usize) -> c_int {
    c_int::from(stream::is_idle(stream))
}

/// Waits at most so many milliseconds for everything on the stream; 1 where it came about, otherwise 0.
#[unsafe(no_mangle)]
extern "C" fn doubleStreamSynchronize(stream: usize, milliseconds: c_int) -> c_int {
    let bound = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0));
    c_int::from(stream::synchronize(stream, bound))
}
