//! Groups: what a thread issues between their start and their end starts together.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::communicator::{Communicator, IN_PROGRESS, INTERNAL_ERROR, INVALID_USAGE, SUCCESS, SYSTEM_ERROR};
use crate::operation::{Operation, run};
use crate::registry::failed;
use crate::script::Action;
use crate::stream::submit;

struct Held {
    comm: Arc<Communicator>,
    stream: usize,
    operation: Operation,
}

#[derive(Default)]
struct Group {
    depth: usize,
    held: Vec<Held>,
    /// The first failure of a call inside; then nothing is started.
    failure: i32,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

pub fn start() -> i32 {
    GROUP.with_borrow_mut(|group| group.depth += 1);
    SUCCESS
}

pub fn end() -> i32 {
    let group = GROUP.with_borrow_mut(|group| {
        group.depth = group.depth.checked_sub(1)?;
        (group.depth == 0).then(|| Some(std::mem::take(group))).or(Some(None))
    });
    match group {
        None => failed(INVALID_USAGE, "[double] ncclGroupEnd outside of a group"),
        Some(None) => SUCCESS,
        Some(Some(group)) if group.failure != SUCCESS => {
            for held in &group.held {
                held.comm.set_failed(group.failure, "another operation of the group failed");
            }
            group.failure
        }
        Some(Some(group)) => launch(group.held),
    }
}

/// A call failed: so does the group that is open around it.
pub fn note_failure(code: i32) -> i32 {
    GROUP.with_borrow_mut(|group| {
        if group.depth > 0 && group.failure == SUCCESS {
            group.failure = code;
        }
    });
    code
}

/// Takes an operation: held back in a group, started at once outside.
pub fn issue(comm: Arc<Communicator>, stream: usize, operation: Operation) -> i32 {
    if operation.action == Some(Action::Refuse) {
        return note_failure(comm.set_failed(INTERNAL_ERROR, "told to refuse an operation"));
    }
    let held = Held { comm, stream, operation };
    let alone = GROUP.with_borrow_mut(|group| {
        if group.depth == 0 {
            return Some(held);
        }
        group.held.push(held);
        None
    });
    alone.map_or(SUCCESS, |held| launch(vec![held]))
}

/// Starts operations, those of one communicator and stream as one job.
fn launch(held: Vec<Held>) -> i32 {
    let mut jobs: Vec<(Arc<Communicator>, usize, Vec<Operation>)> = Vec::new();
    for Held { comm, stream, operation } in held {
        match jobs.iter_mut().find(|(other, on, _)| other.handle == comm.handle && *on == stream) {
            Some((_, _, operations)) => operations.push(operation),
            None => jobs.push((comm, stream, vec![operation])),
        }
    }
    let mut result = SUCCESS;
    for (comm, stream, operations) in jobs {
        comm.issued(operations.len());
        let busy = operations.iter().find_map(|operation| match operation.action {
            Some(Action::Busy(time)) => Some(time),
            _ => None,
        });
        let code = match busy {
            Some(time) => launch_later(&comm, stream, operations, time),
            None => put(&comm, stream, operations),
        };
        if result == SUCCESS || result == IN_PROGRESS && code != SUCCESS {
            result = code;
        }
    }
    result
}

fn put(comm: &Arc<Communicator>, stream: usize, operations: Vec<Operation>) -> i32 {
    let on_stream = Arc::clone(comm);
    match submit(stream, Box::new(move || run(&on_stream, &operations))) {
        Ok(()) => SUCCESS,
        Err(text) => comm.set_failed(SYSTEM_ERROR, &text),
    }
}

/// As when NCCL first has to connect to a peer: the call returns, and the operation is on its stream some time after.
fn launch_later(comm: &Arc<Communicator>, stream: usize, operations: Vec<Operation>, time: Duration) -> i32 {
    comm.set_in_progress();
    comm.background(move |comm| {
        if comm.pause(time).is_ok() {
            put(comm, stream, operations);
            comm.set_ready();
        }
    })
}
