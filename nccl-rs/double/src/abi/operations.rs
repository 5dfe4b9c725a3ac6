//! The exported functions that put an operation on a stream.

use std::ffi::{c_int, c_void};

use super::{Handle, ready, with};
use crate::communicator::{INVALID_ARGUMENT, SUCCESS};
use crate::group;
use crate::operation::{Kind, Operation};
use crate::reduce::{Reduction, Type};

/// The buffers, count, type, reduction and root or peer of a call.
struct Call {
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    of: c_int,
    reduction: c_int,
    other: c_int,
}

fn issue(kind: Kind, comm: Handle, stream: *mut c_void, call: &Call) -> c_int {
    with(comm, |comm| {
        let code = ready(&comm);
        if code != SUCCESS {
            return group::note_failure(code);
        }
        let known = (Type::from_code(call.of), Reduction::from_code(call.reduction), usize::try_from(call.other));
        let (Some(of), Some(reduction), Ok(other)) = known else {
            return group::note_failure(comm.set_failed(INVALID_ARGUMENT, "a type, reduction or rank that is none"));
        };
        if other >= comm.size {
            return group::note_failure(comm.set_failed(INVALID_ARGUMENT, "a rank out of range"));
        }
        let number = match kind {
            Kind::Send => comm.next_send(other),
            Kind::Receive => comm.next_receive(other),
            _ => comm.next_collective(),
        };
        let (send, recv, action) = (call.send.cast(), call.recv.cast(), comm.next_operation());
        let operation = Operation { kind, send, recv, count: call.count, of, reduction, other, number, action };
        group::issue(comm, stream.addr(), operation)
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllReduce(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    of: c_int,
    reduction: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    issue(Kind::AllReduce, comm, stream, &Call { send, recv, count, of, reduction, other: 0 })
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduceScatter(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    of: c_int,
    reduction: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    issue(Kind::ReduceScatter, comm, stream, &Call { send, recv, count, of, reduction, other: 0 })
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduce(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    of: c_int,
    reduction: c_int,
    root: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    issue(Kind::Reduce, comm, stream, &Call { send, recv, count, of, reduction, other: root })
}

#[unsafe(no_mangle)]
extern "C" fn ncclBroadcast(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    of: c_int,
    root: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    issue(Kind::Broadcast, comm, stream, &Call { send, recv, count, of, reduction: 0, other: root })
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllGather(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    of: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    issue(Kind::AllGather, comm, stream, &Call { send, recv, count, of, reduction: 0, other: 0 })
}

#[unsafe(no_mangle)]
extern "C" fn ncclSend(
    send: *const c_void,
    count: usize,
    of: c_int,
    peer: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    let recv = std::ptr::null_mut();
    issue(Kind::Send, comm, stream, &Call { send, recv, count, of, reduction: 0, other: peer })
}

#[unsafe(no_mangle)]
extern "C" fn ncclRecv(
    recv: *mut c_void,
    count: usize,
    of: c_int,
    peer: c_int,
    comm: Handle,
    stream: *mut c_void,
) -> c_int {
    let send = std::ptr::null();
    issue(Kind::Receive, comm, stream, &Call { send, recv, count, of, reduction: 0, other: peer })
}
