//! libtorch's own Gloo (`c10d::ProcessGroupGloo`), with a rendezvous in Rust and collectives made of its messages.
//!
//! Gloo carries messages and Rust makes collectives of them, because a collective of Gloo's cannot be left: where a peer goes
//! in the middle of a message, Gloo forgets to tell whoever waits for that message, and the thread inside stays until the
//! time limit. A message can be aborted. The caller must issue the same operations in the same order on every rank, and must
//! not touch an operation's tensors until it is done.
//!
//! Leaving is dropping the [`Group`]: everything pending ends here and at every peer at once, and Gloo's threads with it.

mod attempt;
mod connecting;
mod meeting;
mod operation;
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
pub use operation::Operation;
use operation::{Transfer, Waiter};
use sockets::{Device, Links, Sockets};

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
    member: Member,
    links: Arc<Links>,
    waiter: Waiter,
    /// Counts operations, so that messages find each other.
    tag: c_int,
}

// SAFETY: ProcessGroupGloo may be used from any one thread at a time, which `&mut self` below ensures.
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
        // Gloo gives a first connection five times its limit.
        let limit = deadline.saturating_duration_since(Instant::now()) / 5;
        let milliseconds = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).max(1);
        // SAFETY: the face owns its store and gives it up in C++'s destructor; the device lives for the call, and C++ keeps a
        // handle of its own.
        let raw = unsafe {
            let (rank, world) = (member.rank as c_int, member.world as c_int);
            ffi::began_gloo_new(meeting.face(), rank, world, device.raw(), milliseconds)
        };
        if raw.is_null() {
            return Err(TorchError::last());
        }
        let links = Arc::new(sockets.links());
        let waiter = Waiter::start(links.clone(), member.operation);
        Ok(Self { raw, member: member.clone(), links, waiter, tag: 0 })
    }

    /// This member's place in it.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Sends `input_splits[r]` elements to each rank `r`, and receives `output_splits[r]` from it. Both tensors are flat.
    ///
    /// # Errors
    /// If the splits do not fit the tensors or the group, or a peer is gone.
    pub fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<Operation, TorchError> {
        let parts = |what: &str, tensor: &Tensor, splits: &[i64]| {
            let (world, len) = (self.member.world as usize, tensor.numel() as i64);
            if splits.len() != world || splits.iter().any(|&n| n < 0) || splits.iter().sum::<i64>() != len {
                let reason =
                    format!("all_to_all: {what} of {len} elements does not split into {splits:?} of {world} members");
                return Err(TorchError(reason));
            }
            let mut start = 0;
            let part = |&len: &i64| {
                start += len;
                tensor.f_narrow(0, start - len, len)
            };
            splits.iter().map(part).collect::<Result<Vec<_>, tch::TchError>>().map_err(|e| TorchError(e.to_string()))
        };
        let (from, to) = (parts("the output", output, output_splits)?, parts("the input", input, input_splits)?);
        self.exchange(&from, &to)
    }

    /// Lays every member's `input` end to end, by rank, in every member's `output`. Both tensors are flat.
    ///
    /// # Errors
    /// If the output is not the world's times the input's length, or a peer is gone.
    pub fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<Operation, TorchError> {
        let world = self.member.world as usize;
        let splits = vec![input.numel() as i64; world];
        let from = output.f_split_with_sizes(&splits, 0).map_err(|e| TorchError(format!("all_gather: {e}")))?;
        self.exchange(&from, &(0..world).map(|_| input.shallow_clone()).collect::<Vec<_>>())
    }

    /// Sends `to[r]` to each rank `r`, and fills `from[r]` with what it sends here.
    fn exchange(&mut self, from: &[Tensor], to: &[Tensor]) -> Result<Operation, TorchError> {
        self.tag = self.tag.wrapping_add(1) & c_int::MAX;
        let (rank, world, tag) = (self.member.rank as usize, self.member.world as usize, self.tag);
        from[rank].shallow_clone().f_copy_(&to[rank]).map_err(|e| TorchError(e.to_string()))?;
        let mut transfers = Vec::new();
        // Each begins with its neighbour, so that no member is everyone's first.
        for peer in (1..world).map(|distance| (rank + distance) % world) {
            if from[peer].numel() > 0 {
                // SAFETY: the group is alive; the shim keeps its own handle on the tensor.
                let raw = unsafe { ffi::began_gloo_receive(self.raw, from[peer].as_ptr(), peer as c_int, tag) };
                transfers.push(Transfer::new(raw)?);
            }
            if to[peer].numel() > 0 {
                // SAFETY: as above.
                let raw = unsafe { ffi::began_gloo_send(self.raw, to[peer].as_ptr(), peer as c_int, tag) };
                transfers.push(Transfer::new(raw)?);
            }
        }
        self.waiter.wait_for(transfers)
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
        self.links.shut_down();
        self.waiter.end();
        // SAFETY: made by `began_gloo_new`, freed once; no thread is inside.
        unsafe { ffi::began_gloo_free(self.raw) }
    }
}
