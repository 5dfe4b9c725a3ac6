//! NCCL over tensors: the communicator of `nccl-rs`, with libtorch's memory and the calling thread's stream.
//!
//! Operations go on the stream that is current on the calling thread, and return at once. The tensors they touch are kept until they
//! are done. A peer that dies leaves kernels on the device that never end, so nothing here waits for the device but
//! [`Group::settle`], which looks at NCCL's own state and at the stop flag as well, and aborts from this thread, the only one
//! inside NCCL.

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use nccl_rs::{Communicator, Config, DataType, Elements, Nccl, ReduceOp, StopFlag, UniqueId};
use tch::{Device, Kind, Tensor};

use crate::TorchError;
use crate::gloo::Rendezvous;
use crate::stream::{Event, Stream};

/// Where the identifier of the group is left.
const KEY: &str = "nccl";
/// How often a wait for the identifier looks up to see whether it was called off.
const SLICE: Duration = Duration::from_millis(500);
/// How long a group that is left waits for what an abort ends, where the host's memory is at stake.
const ENDING: Duration = Duration::from_secs(2);

impl From<nccl_rs::Error> for TorchError {
    fn from(error: nccl_rs::Error) -> Self {
        Self(error.to_string())
    }
}

/// A member's place in a group to be, and how long things may take.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// Members of the group.
    pub world: u32,
    /// Where its tensors are: a GPU; the CPU with a library over host memory alone.
    pub device: Device,
    /// All must have connected within this.
    pub connect: Duration,
    /// Each wait for the device must be over within this.
    pub operation: Duration,
}

/// A group of processes that reduce together over NCCL. Dropping it aborts its communicator; no peer is waited for.
pub struct Group {
    /// Nothing once it is left.
    communicator: Option<Communicator>,
    nccl: Nccl,
    member: Member,
    /// What the device may still be reading or writing.
    held: Vec<Tensor>,
    /// Its address names this group's stream in a library over host memory.
    token: Box<u8>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("member", &self.member).finish_non_exhaustive()
    }
}

impl Group {
    /// Connects to all other members. Blocks until they are there, the time limit passes, or `stop` is raised.
    ///
    /// # Errors
    /// If a member does not come in time, or NCCL cannot work on the device.
    pub fn connect(nccl: &Nccl, store: &dyn Rendezvous, member: &Member, stop: &StopFlag) -> Result<Self, TorchError> {
        let Member { rank, world, device, connect, operation } = *member;
        if device.is_cuda() == nccl.is_of_host_memory() {
            return Err(TorchError(format!("{} cannot reduce tensors on {device:?}", nccl.path().display())));
        }
        // CUDA's current device belongs to a thread, and this may be a new one.
        let _entered = Stream::current(device)?.enter()?;
        let deadline = Instant::now() + connect;
        let id = meet(nccl, store, member, deadline, stop).map_err(TorchError)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let config = Config::new().stop(stop).init_timeout(left).enqueue_timeout(operation);
        let communicator = Communicator::init(nccl, &id, rank as usize, world as usize, &config)?;
        Ok(Self {
            communicator: Some(communicator),
            nccl: nccl.clone(),
            member: member.clone(),
            held: Vec::new(),
            token: Box::new(0),
        })
    }

    /// This member's place in it.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Sends `input_splits[r]` elements to each rank `r`, and receives `output_splits[r]` from it. Both tensors are flat.
    ///
    /// # Errors
    /// If the splits do not fit the tensors or the group, or NCCL fails.
    pub fn all_to_all(
        &mut self,
        output: &Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<(), TorchError> {
        let (rank, world) = (self.member.rank as usize, self.member.world as usize);
        let (received, sent) =
            (self.parts("the output", output, output_splits)?, self.parts("the input", input, input_splits)?);
        if received[rank].numel() != sent[rank].numel() || output.kind() != input.kind() {
            let (mine, place) = (&sent[rank], &received[rank]);
            return Err(TorchError(format!("all_to_all: what is mine does not fit: {mine:?} into {place:?}")));
        }
        if sent[rank].numel() > 0 {
            received[rank].shallow_clone().f_copy_(&sent[rank]).map_err(|error| TorchError(error.to_string()))?;
        }
        let stream = self.stream()?;
        self.hold(&[output, input])?;
        let communicator = self.communicator()?;
        communicator.group(|| {
            // Each begins with its neighbour, so that no member is everyone's first.
            for distance in 1..world {
                let (next, before) = ((rank + distance) % world, (rank + world - distance) % world);
                if sent[next].numel() > 0 {
                    let (from, elements) = self.buffer("all_to_all", &sent[next])?;
                    // SAFETY: `held` keeps the tensor alive until the stream has passed the operation.
                    unsafe { communicator.send(from, elements, next, stream)? };
                }
                if received[before].numel() > 0 {
                    let (to, elements) = self.buffer("all_to_all", &received[before])?;
                    // SAFETY: as above.
                    unsafe { communicator.recv(to, elements, before, stream)? };
                }
            }
            Ok::<(), TorchError>(())
        })?;
        self.in_order()
    }

    /// Lays every member's `input` end to end, by rank, in every member's `output`. Both tensors are flat.
    ///
    /// # Errors
    /// If the output is not the world's times the input's length, or NCCL fails.
    pub fn all_gather(&mut self, output: &Tensor, input: &Tensor) -> Result<(), TorchError> {
        let world = self.member.world as usize;
        if output.numel() != world * input.numel() || output.kind() != input.kind() {
            let (given, room) = (input.numel(), output.numel());
            return Err(TorchError(format!("all_gather: {given} elements of {world} members into {room}")));
        }
        let (from, elements) = self.buffer("all_gather", input)?;
        let (to, _) = self.buffer("all_gather", output)?;
        let stream = self.stream()?;
        self.hold(&[output, input])?;
        // SAFETY: `held` keeps both tensors alive until the stream has passed the operation; their lengths were checked.
        unsafe { self.communicator()?.all_gather(from, to, elements, stream)? };
        self.in_order()
    }

    /// Sums in place, in NCCL's order, which depends on the world.
    ///
    /// # Errors
    /// If NCCL fails.
    pub fn all_reduce(&mut self, tensor: &Tensor) -> Result<(), TorchError> {
        let (memory, elements) = self.buffer("all_reduce", tensor)?;
        let stream = self.stream()?;
        self.hold(&[tensor])?;
        // SAFETY: as above; in place.
        unsafe { self.communicator()?.all_reduce(memory, memory, elements, ReduceOp::Sum, stream)? };
        self.in_order()
    }

    /// Waits until the device has done all that this thread's stream holds. `what` names it in errors.
    ///
    /// # Errors
    /// If a peer is gone, the wait was called off or took too long: the communicator is aborted then.
    pub fn settle(&mut self, what: &str) -> Result<(), TorchError> {
        let bound = self.member.operation;
        match Stream::current(self.member.device)? {
            Stream::Host => {
                let stream = self.stream()?;
                self.communicator()?.wait(what, bound, || self.nccl.host_stream_is_idle(stream).unwrap_or(true))?;
            }
            stream => {
                let mut event = Event::new(self.member.device, false)?;
                event.record(stream)?;
                self.communicator()?.try_wait(what, bound, || event.is_done())?;
            }
        }
        self.held.clear();
        Ok(())
    }

    /// Leaves in good order, as every member does: what the others still need of this one is sent first. After `bound` it leaves all
    /// the same.
    pub fn leave(mut self, bound: Duration) {
        if let Some(communicator) = self.communicator.take() {
            // Whoever left without a word was aborted by this; nothing more can be done about it.
            let _ = communicator.finalize(bound);
        }
    }

    fn communicator(&self) -> Result<&Communicator, TorchError> {
        self.communicator.as_ref().ok_or_else(|| TorchError("the group was left".into()))
    }

    /// What follows on a GPU's stream waits by itself; on the host nothing does.
    fn in_order(&mut self) -> Result<(), TorchError> {
        if self.member.device.is_cuda() { Ok(()) } else { self.settle("an operation over host memory") }
    }

    fn stream(&self) -> Result<nccl_rs::Stream, TorchError> {
        Ok(nccl_rs::Stream::from_raw(match Stream::current(self.member.device)? {
            Stream::Host => std::ptr::from_ref::<u8>(&self.token).cast_mut().cast(),
            stream => stream.native()?,
        }))
    }

    fn hold(&mut self, tensors: &[&Tensor]) -> Result<(), TorchError> {
        let stream = Stream::current(self.member.device)?;
        for tensor in tensors {
            stream.uses(tensor)?;
            self.held.push(tensor.shallow_clone());
        }
        Ok(())
    }

    fn buffer(&self, what: &str, tensor: &Tensor) -> Result<(*mut c_void, Elements), TorchError> {
        if !tensor.is_contiguous() || tensor.device() != self.member.device {
            let (device, mine) = (tensor.device(), self.member.device);
            return Err(TorchError(format!(
                "{what}: a tensor on {device:?} that is not contiguous, or not on {mine:?}"
            )));
        }
        let of = match tensor.kind() {
            Kind::Float => DataType::F32,
            Kind::Double => DataType::F64,
            Kind::BFloat16 => DataType::Bf16,
            Kind::Half => DataType::F16,
            other => return Err(TorchError(format!("{what}: tensors of {other:?} do not travel"))),
        };
        Ok((tensor.data_ptr(), Elements::new(tensor.numel(), of)))
    }

    fn parts(&self, what: &str, tensor: &Tensor, splits: &[i64]) -> Result<Vec<Tensor>, TorchError> {
        let (world, len) = (self.member.world as usize, tensor.numel() as i64);
        if splits.len() != world || splits.iter().any(|&n| n < 0) || splits.iter().sum::<i64>() != len {
            let reason =
                format!("all_to_all: {what} of {len} elements does not split into {splits:?} of {world} members");
            return Err(TorchError(reason));
        }
        tensor.f_split_with_sizes(splits, 0).map_err(|error| TorchError(error.to_string()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Aborted: what is under way ends unfinished.
        self.communicator = None;
        // On a GPU libtorch gives memory out again in the order of the streams that used it.
        let Ok(stream) = self.stream() else { return };
        let started = Instant::now();
        while self.nccl.host_stream_is_idle(stream) == Some(false) {
            if started.elapsed() > ENDING {
                mem::forget(mem::take(&mut self.held));
                return;
            }
            sleep(Duration::from_millis(1));
        }
    }
}

/// Rank 0 makes the group's identifier; the others find it.
fn meet(
    nccl: &Nccl,
    store: &dyn Rendezvous,
    member: &Member,
    deadline: Instant,
    stop: &StopFlag,
) -> Result<UniqueId, String> {
    if member.rank == 0 {
        let id = nccl.unique_id().map_err(|error| error.to_string())?;
        store.set(KEY, &id.to_bytes())?;
        return Ok(id);
    }
    loop {
        if let Some(reason) = stop.reason() {
            return Err(format!("called off: {reason}"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match store.get(&[KEY], left.min(SLICE)) {
            Ok(values) => {
                let bytes = values.first().map(Vec::as_slice).unwrap_or_default();
                return UniqueId::try_from(bytes).map_err(|error| format!("rank 0's identifier: {error}"));
            }
            Err(why) if left.is_zero() => return Err(format!("no identifier from rank 0: {why}")),
            Err(_) => sleep(Duration::from_millis(5)),
        }
    }
}

/// An attempt to connect, on a thread of its own. Dropping it calls it off: the thread then ends by itself and delivers nothing.
#[derive(Debug)]
pub struct Connecting {
    /// Raised when it is called off, unless the group was delivered before.
    stop: Option<StopFlag>,
}

impl Connecting {
    /// Begins; the group, or why there is none, goes to `deliver` from another thread, unless it is called off before.
    /// `stop` ends the group's waits for good.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        nccl: Nccl,
        store: Arc<dyn Rendezvous>,
        member: Member,
        stop: StopFlag,
        deliver: impl FnOnce(Result<Group, TorchError>) + Send + 'static,
    ) -> io::Result<Self> {
        let this = Self { stop: Some(stop.clone()) };
        Builder::new().name("nccl-connect".into()).spawn(move || {
            let outcome = Group::connect(&nccl, store.as_ref(), &member, &stop);
            if !stop.is_stopped() {
                deliver(outcome);
            }
        })?;
        Ok(this)
    }

    /// The group was delivered: dropping this stops nothing any more.
    pub fn delivered(mut self) {
        self.stop = None;
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.stop("connecting was called off");
        }
    }
}
