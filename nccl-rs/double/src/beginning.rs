//! How communicators come to be, on threads of their own: out of nothing, and out of another.

use std::sync::Arc;
use std::time::Duration;

use crate::bootstrap::{Address, Root, join};
use crate::communicator::{Communicator, Halt, INTERNAL_ERROR, REMOTE_ERROR, SUCCESS, SYSTEM_ERROR};
use crate::registry::last_error;
use crate::script::{Action, Place, Script};
use crate::wire::{Series, Signature, u16_at, u32_at, u64_at};

/// Lets the script have its way, joins, and makes the communicator usable.
pub fn bring_up(comm: &Arc<Communicator>, address: Address, action: Option<Action>, called_off: &dyn Fn() -> bool) {
    if !obey(comm, action, called_off) {
        return;
    }
    let joined = join(address, comm.rank, comm.size, called_off).and_then(|links| comm.connect(links));
    match joined {
        Ok(()) => comm.set_ready(),
        Err(text) => drop(comm.set_failed(REMOTE_ERROR, &text)),
    }
}

/// Does what the script says at a place that has a thread of its own, and says whether to go on.
pub fn obey(comm: &Communicator, action: Option<Action>, called_off: &dyn Fn() -> bool) -> bool {
    match action {
        Some(Action::Exit) => std::process::exit(99),
        Some(Action::Fail) => {
            comm.set_failed(INTERNAL_ERROR, "told to fail");
            false
        }
        Some(Action::Hang) => {
            while !called_off() {
                std::thread::sleep(Duration::from_millis(1));
            }
            false
        }
        Some(Action::Slow(time) | Action::Busy(time)) => comm.pause(time).is_ok(),
        Some(Action::Refuse) | None => true,
    }
}

/// Everybody tells everybody color, key and a place to serve from; the first of a color's ranks serves its communicator.
pub fn split(
    comm: &Arc<Communicator>,
    number: u64,
    color: i32,
    key: i32,
    blocking: bool,
    script: Script,
) -> Result<Option<Arc<Communicator>>, Halt> {
    if !obey(comm, comm.script.at(Place::Split, comm.rank), &|| comm.is_aborted()) {
        return Err(Halt::Aborted);
    }
    let root = Root::open().map_err(|error| Halt::Failed(SYSTEM_ERROR, format!("a root for a split: {error}")))?;
    let signature = Signature { kind: 100, of: 0, reduction: 0, root: 0 };
    let mut mine = color.to_le_bytes().to_vec();
    mine.extend_from_slice(&key.to_le_bytes());
    mine.extend_from_slice(&root.address.nonce.to_le_bytes());
    mine.extend_from_slice(&root.address.port.to_le_bytes());
    for peer in 0..comm.size {
        comm.post(peer, Series::Collective, number, signature, mine.clone())?;
    }
    let mut members = Vec::new();
    for peer in 0..comm.size {
        let theirs = comm.take(peer, Series::Collective, number, signature, Some(mine.len()))?;
        let (their_color, their_key) = (u32_at(&theirs, 0).cast_signed(), u32_at(&theirs, 4).cast_signed());
        if their_color == color {
            members.push((their_key, peer, Address { nonce: u64_at(&theirs, 8), port: u16_at(&theirs, 16) }));
        }
    }
    if color < 0 {
        return Ok(None);
    }
    members.sort_by_key(|(key, peer, _)| (*key, *peer));
    let rank = members.iter().position(|(_, peer, _)| *peer == comm.rank);
    let (Some(rank), Some((_, first, address))) = (rank, members.first()) else {
        return Err(Halt::Failed(INTERNAL_ERROR, "a split that lost this rank".to_owned()));
    };
    if *first == comm.rank {
        root.serve().map_err(|error| Halt::Failed(SYSTEM_ERROR, format!("a root for a split: {error}")))?;
    }
    let child = Communicator::create(rank, members.len(), blocking, script);
    bring_up(&child, *address, None, &|| comm.is_aborted() || child.is_aborted());
    match child.state() {
        SUCCESS => Ok(Some(child)),
        code => {
            let text = last_error(child.handle).to_string_lossy().into_owned();
            child.abort();
            if comm.is_aborted() { Err(Halt::Aborted) } else { Err(Halt::Failed(code, text)) }
        }
    }
}
