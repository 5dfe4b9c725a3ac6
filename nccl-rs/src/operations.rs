//! The operations. Each puts work on a stream and returns; [`Communicator::wait`] waits for the work.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use crate::api::Api;
use crate::communicator::Communicator;
use crate::element::{Elements, ReduceOp};
use crate::error::{Error, others};
use crate::ffi;
use crate::group;
use crate::issued::Operation;
use crate::poll::Pace;

/// A stream of CUDA (`cudaStream_t`, `CUstream`) of the communicator's device. Null is the default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(*mut c_void);

// SAFETY: a name for a queue of the device, which CUDA takes from any thread; it is never followed here.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The default stream.
    pub const DEFAULT: Self = Self(std::ptr::null_mut());

    /// From the raw handle, whose owner keeps it alive.
    #[must_use]
    pub const fn from_raw(stream: *mut c_void) -> Self {
        Self(stream)
    }

    /// The raw handle.
    #[must_use]
    pub const fn as_raw(self) -> *mut c_void {
        self.0
    }
}

/// # Safety of the operations
///
/// Each takes addresses of device memory and a stream. The caller promises that
/// - the memory is of the communicator's device, is as long as the operation says, and stays allocated, and is not
///   accessed otherwise, until the operation is done on the device. After an abort that is when the stream is: what was
///   on it ends by itself, unfinished and soon, but the abort does not wait for a stream of the caller's;
/// - the send and receive memory do not overlap, or are in place in the way the operation says;
/// - the stream is of that device and lives as long.
///
/// That the ranks call the same operations with the same sizes in the same order is not a matter of memory safety on one
/// rank: where they differ, waits end at their bounds. But a receive buffer is filled by what the sender sends.
impl Communicator {
    /// Reduces `elements` of every rank into `recv` of every rank. In place where `send == recv`.
    ///
    /// # Errors
    /// As every operation: [`Error::Refused`] for arguments that cannot be; [`Error::Aborted`]; [`Error::Stopped`] where
    /// the flag is raised; [`Error::Call`], [`Error::Asynchronous`] and [`Error::TimedOut`] (after
    /// [`Config::enqueue_timeout`](crate::Config::enqueue_timeout)) where NCCL fails to put it on the stream.
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn all_reduce(
        &self,
        send: *const c_void,
        recv: *mut c_void,
        elements: Elements,
        op: ReduceOp,
        stream: Stream,
    ) -> Result<(), Error> {
        let operation = Operation { name: "all_reduce", elements, peer: None };
        self.refuse_buffers(&operation, 1, &[send, recv])?;
        let Elements { count, of } = elements;
        self.issue("ncclAllReduce", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.all_reduce)(send, recv, count, of.code(), op.code(), comm, stream.0) }
        })
    }

    /// Gathers `elements` of every rank, in the order of ranks, into `recv` of every rank, which holds `size` times as
    /// many. In place where `send` is this rank's part of `recv`.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn all_gather(
        &self,
        send: *const c_void,
        recv: *mut c_void,
        elements: Elements,
        stream: Stream,
    ) -> Result<(), Error> {
        let operation = Operation { name: "all_gather", elements, peer: None };
        self.refuse_buffers(&operation, self.size(), &[send, recv])?;
        let Elements { count, of } = elements;
        self.issue("ncclAllGather", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.all_gather)(send, recv, count, of.code(), comm, stream.0) }
        })
    }

    /// Reduces `size` times `elements` of every rank and leaves each rank its part of the result: `elements` long, the
    /// part of rank r beginning at r times `elements`. In place where `recv` is this rank's part of `send`.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn reduce_scatter(
        &self,
        send: *const c_void,
        recv: *mut c_void,
        elements: Elements,
        op: ReduceOp,
        stream: Stream,
    ) -> Result<(), Error> {
        let operation = Operation { name: "reduce_scatter", elements, peer: None };
        self.refuse_buffers(&operation, self.size(), &[send, recv])?;
        let Elements { count, of } = elements;
        self.issue("ncclReduceScatter", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.reduce_scatter)(send, recv, count, of.code(), op.code(), comm, stream.0) }
        })
    }

    /// Copies `elements` of `root`'s `send` to every rank's `recv`. `send` is not read on other ranks. In place where
    /// `send == recv`.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn broadcast(
        &self,
        send: *const c_void,
        recv: *mut c_void,
        elements: Elements,
        root: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        let operation = Operation { name: "broadcast", elements, peer: None };
        let root_code = self.peer_code(&operation, root)?;
        let read = if root == self.rank() { send } else { recv.cast_const() };
        self.refuse_buffers(&operation, 1, &[read, recv])?;
        let Elements { count, of } = elements;
        self.issue("ncclBroadcast", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.broadcast)(send, recv, count, of.code(), root_code, comm, stream.0) }
        })
    }

    /// Reduces `elements` of every rank into `recv` of `root`. `recv` is not written on other ranks. In place where
    /// `send == recv`.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn reduce(
        &self,
        send: *const c_void,
        recv: *mut c_void,
        elements: Elements,
        op: ReduceOp,
        root: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        let operation = Operation { name: "reduce", elements, peer: None };
        let root_code = self.peer_code(&operation, root)?;
        let written = if root == self.rank() { recv.cast_const() } else { send };
        self.refuse_buffers(&operation, 1, &[send, written])?;
        let Elements { count, of } = elements;
        self.issue("ncclReduce", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.reduce)(send, recv, count, of.code(), op.code(), root_code, comm, stream.0) }
        })
    }

    /// Sends `elements` to `peer`, which receives as many. Sends and receives that depend on each other belong in one
    /// [`group`](Self::group); outside of one each blocks its stream until its other side has come.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn send(
        &self,
        send: *const c_void,
        elements: Elements,
        peer: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        let operation = Operation { name: "send", elements, peer: Some(peer) };
        let peer_code = self.peer_code(&operation, peer)?;
        self.refuse_buffers(&operation, 1, &[send])?;
        let Elements { count, of } = elements;
        self.issue("ncclSend", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.send)(send, count, of.code(), peer_code, comm, stream.0) }
        })
    }

    /// Receives `elements` from `peer`, which sends as many; see [`send`](Self::send).
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    ///
    /// # Safety
    /// [As every operation](#safety-of-the-operations).
    pub unsafe fn recv(&self, recv: *mut c_void, elements: Elements, peer: usize, stream: Stream) -> Result<(), Error> {
        let operation = Operation { name: "recv", elements, peer: Some(peer) };
        let peer_code = self.peer_code(&operation, peer)?;
        self.refuse_buffers(&operation, 1, &[recv.cast_const()])?;
        let Elements { count, of } = elements;
        self.issue("ncclRecv", operation, |api, comm| {
            // SAFETY: the caller's promise, and a live communicator.
            unsafe { (api.recv)(recv, count, of.code(), peer_code, comm, stream.0) }
        })
    }

    /// What NCCL would crash on, or read past the end of memory for.
    fn refuse_buffers(&self, operation: &Operation, parts: usize, buffers: &[*const c_void]) -> Result<(), Error> {
        let whole =
            operation.elements.count.checked_mul(parts).map(|count| Elements::new(count, operation.elements.of));
        if whole.and_then(Elements::bytes).is_none() {
            return Err(self.refused(operation, "is larger than any memory"));
        }
        if operation.elements.count > 0 && buffers.iter().any(|buffer| buffer.is_null()) {
            return Err(self.refused(operation, "has a null buffer"));
        }
        Ok(())
    }

    fn peer_code(&self, operation: &Operation, peer: usize) -> Result<c_int, Error> {
        match c_int::try_from(peer) {
            Ok(code) if peer < self.size() => Ok(code),
            _ => Err(self.refused(operation, &format!("names rank {peer} of {}", self.size()))),
        }
    }

    fn refused(&self, operation: &Operation, why: &str) -> Error {
        Error::Refused(format!("{operation} on rank {} of {} {why}", self.rank(), self.size()))
    }

    /// Calls NCCL for an operation and waits until it is on its stream, which is at once but for the first with a peer.
    fn issue(
        &self,
        call: &'static str,
        operation: Operation,
        enqueue: impl FnOnce(&Api, *mut ffi::Comm) -> c_int,
    ) -> Result<(), Error> {
        self.refuse_aborted()?;
        // A guard that was forgotten on another thread holds nothing back on this one.
        let share = self.grouped.get().filter(|_| group::is_open());
        if group::is_open() && share.is_none() {
            return Err(self.refused(&operation, "would join a group that this communicator is no member of"));
        }
        let bound = self.config.enqueue_timeout;
        let what = || format!("{operation} to be put on its stream");
        let on = || match operation.peer {
            Some(peer) => crate::error::named(std::iter::once(peer)),
            None => others(self.rank(), self.size()),
        };
        // A raised flag ends a loop of operations that never waits, too.
        self.interrupted(&Pace::new(std::time::Duration::MAX), &what, &on)?;
        let code = enqueue(&self.nccl.0, self.handle.get());
        self.issued.note(operation);
        if let Some(share) = share {
            self.grouped.set(Some(group::Share { operations: share.operations + 1 }));
        }
        match code {
            ffi::SUCCESS => Ok(()),
            // What is held back is waited for when the group ends.
            ffi::IN_PROGRESS if share.is_some() => Ok(()),
            ffi::IN_PROGRESS => self.settle(bound, &what, &on),
            code => Err(self.fail(self.call_failure(call, code))),
        }
    }
}
