//! libtorch's own Gloo (`c10d::ProcessGroupGloo`), with a rendezvous in Rust.
//!
//! Operations run on Gloo's threads; each is waited for in slices, so that the caller can look up between them. A killed
//! peer shows as an error at once; a silent one only by the time limit, or because the caller leaves. The caller must issue
//! the same operations in the same order on every rank, and must not touch an operation's tensors until it is done.
//!
//! Leaving is dropping the [`Group`]: its sockets are shut down, so that everything pending ends here and at every peer at
//! once, and Gloo's threads with it.

mod attempt;
mod connecting;
mod meeting;
mod sockets;

use std::ffi::c_int;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::Tensor;

pub use attempt::Attempt;
pub use connecting::Connecting;
use meeting::Meeting;
pub use meeting::Rendezvous;
use sockets::{Device, Sockets};

use crate::{TorchError, ffi};

/// A member's place in a group to be, and how long things may take.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// Members of the group.
    pub world: u32,
    /// This host's address that the others can reach.
    pub address: String,
    /// All must have connected within this.
    pub connect: Duration,
    /// Each operation must be done within this.
    pub operation: Duration,
}

/// A group of processes that reduce together over Gloo.
#[derive(Debug)]
pub struct Group {
    raw: *mut ffi::Group,
    sockets: Arc<Sockets>,
}

// SAFETY: ProcessGroupGloo queues operations under a lock of its own; it may be used from any one thread at a time, which
// `&mut self` below ensures.
unsafe impl Send for Group {}

impl Group {
    /// Connects to all other members. Blocks until they are there, the time limit passes, or `attempt` is called off.
    ///
    /// # Errors
    /// If a member does not come in time, or the address cannot be bound.
    pub fn connect(store: Arc<dyn Rendezvous>, member: &Member, attempt: &Attempt) -> Result<Self, TorchError> {
        let deadline = Instant::now() + member.connect;
        let (device, listener) = Device::listen(&member.address)?;
        let meeting = Meeting::new(store, attempt.clone(), deadline);
        let peers = meet(&meeting, member, listener).map_err(TorchError)?;
        let sockets = Arc::new(Sockets::new(listener, peers));
        attempt.connects(&sockets)?;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let (rank, world) = (member.rank as c_int, member.world as c_int);
        let milliseconds = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        // SAFETY: the face owns its store and gives it up in C++'s destructor; the device lives for the call, and C++ keeps a
        // handle of its own.
        let raw = unsafe {
            let (connect, operation) = (milliseconds(left), milliseconds(member.operation));
            ffi::began_gloo_new(meeting.face(), rank, world, device.raw(), connect, operation)
        };
        if raw.is_null() { Err(TorchError::last()) } else { Ok(Self { raw, sockets }) }
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

/// Tells the others where this member listens; where they do. Whoever does not come is missed here, not inside Gloo.
fn meet(meeting: &Meeting, member: &Member, listener: SocketAddr) -> Result<Vec<SocketAddr>, String> {
    let key = |rank: u32| format!("listener/{rank}");
    meeting.inner()?.set(&key(member.rank), listener.to_string().as_bytes())?;
    let keys: Vec<String> = (0..member.world).filter(|&rank| rank != member.rank).map(key).collect();
    let found = meeting.get(&keys.iter().map(String::as_str).collect::<Vec<_>>(), member.connect)?;
    let parse = |(key, value): (&String, Vec<u8>)| {
        let text = String::from_utf8_lossy(&value).into_owned();
        text.parse().map_err(|_| format!("{key} says {text:?}, which is no address"))
    };
    keys.iter().zip(found).map(parse).collect()
}

impl Drop for Group {
    fn drop(&mut self) {
        // Gloo's destructor waits for operations under way; without their sockets they end at once.
        self.sockets.shut_down();
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
    /// If a peer is gone or the time limit of operations passed.
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
