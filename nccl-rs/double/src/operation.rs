//! The operations, each in two halves: first everything is sent, then everything is received and written. So those of a
//! group never wait for each other.

#![allow(unsafe_code)]

use std::sync::Arc;

use crate::communicator::{Communicator, Halt, INTERNAL_ERROR};
use crate::reduce::{Reduction, Type, reduce};
use crate::script::Action;
use crate::wire::{Series, Signature};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    AllReduce = 1,
    AllGather,
    ReduceScatter,
    Broadcast,
    Reduce,
    /// To and from a peer; both sides sign alike.
    Send,
    Receive,
}

pub struct Operation {
    pub kind: Kind,
    pub send: *const u8,
    pub recv: *mut u8,
    /// Elements of one part.
    pub count: usize,
    pub of: Type,
    pub reduction: Reduction,
    /// The root, or the peer.
    pub other: usize,
    pub number: u64,
    pub action: Option<Action>,
}

// SAFETY: the addresses are the caller's, who keeps the memory until the operation is done or aborted, whichever thread
// does it.
unsafe impl Send for Operation {}

impl Operation {
    fn bytes(&self) -> usize {
        self.count * self.of.bytes()
    }

    fn signature(&self) -> Signature {
        let point_to_point = matches!(self.kind, Kind::Send | Kind::Receive);
        Signature {
            kind: if point_to_point { Kind::Send } else { self.kind } as u8,
            of: self.of as u8,
            reduction: self.reduction as u8,
            root: if point_to_point { 0 } else { self.other as u32 },
        }
    }

    /// A part of what is to be sent.
    fn read(&self, part: usize, parts: usize) -> Vec<u8> {
        let length = self.bytes() * parts;
        if length == 0 {
            return Vec::new();
        }
        // SAFETY: the caller of NCCL's function promised that so much memory is there, and the communicator is not
        // aborted: an abort waits for running operations.
        unsafe { std::slice::from_raw_parts(self.send.add(part * self.bytes()), length) }.to_vec()
    }

    fn write(&self, result: &[u8]) {
        if !result.is_empty() {
            // SAFETY: as above; the result is a buffer of its own.
            unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), self.recv, result.len()) }
        }
    }

    fn post(&self, comm: &Communicator) -> Result<(), Halt> {
        let send = |peer, series, body| comm.post(peer, series, self.number, self.signature(), body);
        let everybody = 0..comm.size;
        match self.kind {
            Kind::AllReduce | Kind::AllGather => {
                everybody.into_iter().try_for_each(|peer| send(peer, Series::Collective, self.read(0, 1)))
            }
            Kind::ReduceScatter => {
                everybody.into_iter().try_for_each(|peer| send(peer, Series::Collective, self.read(peer, 1)))
            }
            Kind::Broadcast if comm.rank == self.other => {
                everybody.into_iter().try_for_each(|peer| send(peer, Series::Collective, self.read(0, 1)))
            }
            Kind::Reduce => send(self.other, Series::Collective, self.read(0, 1)),
            Kind::Send => send(self.other, Series::PointToPoint, self.read(0, 1)),
            Kind::Broadcast | Kind::Receive => Ok(()),
        }
    }

    fn complete(&self, comm: &Communicator) -> Result<(), Halt> {
        let take = |peer, series| comm.take(peer, series, self.number, self.signature(), Some(self.bytes()));
        let of_everybody = || (0..comm.size).map(|peer| take(peer, Series::Collective)).collect::<Result<Vec<_>, _>>();
        let result = match self.kind {
            Kind::AllReduce | Kind::ReduceScatter => reduce(self.reduction, self.of, &of_everybody()?),
            Kind::AllGather => of_everybody()?.concat(),
            Kind::Broadcast => take(self.other, Series::Collective)?,
            Kind::Reduce if comm.rank == self.other => reduce(self.reduction, self.of, &of_everybody()?),
            Kind::Receive => take(self.other, Series::PointToPoint)?,
            Kind::Reduce | Kind::Send => return Ok(()),
        };
        self.write(&result);
        Ok(())
    }

    fn misbehave(&self, comm: &Communicator) -> Result<(), Halt> {
        match self.action {
            Some(Action::Fail) => Err(Halt::Failed(INTERNAL_ERROR, "told to fail in an operation".to_owned())),
            Some(Action::Hang) => {
                comm.wait_for_abort();
                Err(Halt::Aborted)
            }
            Some(Action::Slow(time)) => comm.pause(time),
            Some(Action::Exit) => std::process::exit(99),
            // Done where the operation was issued.
            Some(Action::Refuse | Action::Busy(_)) | None => Ok(()),
        }
    }
}

/// Runs what was issued together, on a stream's thread.
pub fn run(comm: &Arc<Communicator>, operations: &[Operation]) {
    if !comm.enter() {
        return;
    }
    let all = || -> Result<(), Halt> {
        operations.iter().try_for_each(|operation| operation.misbehave(comm))?;
        operations.iter().try_for_each(|operation| operation.post(comm))?;
        operations.iter().try_for_each(|operation| operation.complete(comm))
    };
    if let Err(Halt::Failed(code, text)) = all() {
        comm.set_failed(code, &text);
        comm.wait_for_abort();
    }
    comm.leave(operations.len());
}
