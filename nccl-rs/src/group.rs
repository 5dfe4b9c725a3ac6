//! Operations that NCCL starts together.
//!
//! A group belongs to a thread: from its start to its end everything that thread calls is held back. So it must end on
//! every path, and the result of ending it must be seen, because that is where held back failures come out.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::c_int;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::ffi;
use crate::library::Nccl;

thread_local! {
    /// Whether a group is open on this thread.
    static OPEN: Cell<bool> = const { Cell::new(false) };
    /// Communicators that ended while one was: aborting them has to wait for its end, when NCCL does what it is told again.
    static AFTERWARDS: RefCell<Vec<(Nccl, *mut ffi::Comm)>> = const { RefCell::new(Vec::new()) };
}

/// What a communicator knows of the open group it is part of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    /// Operations held back so far.
    pub operations: u32,
}

/// A group that is open on this thread. The operations of its members are held back until [`end`](Self::end) and then
/// start together, each able to progress without the others: what several sends and receives that depend on each other
/// need. [`Communicator::group`] is the form to prefer.
///
/// Dropped without [`end`](Self::end), by an early return or a panic, it ends all the same. If operations were in it by
/// then, its members are aborted: their peers may wait for others that now never come. The next call on a member says so.
#[derive(Debug)]
pub struct Group<'c> {
    members: Vec<&'c Communicator>,
    open: bool,
}

impl<'c> Group<'c> {
    /// Opens a group for the operations of these communicators.
    ///
    /// # Errors
    /// [`Error::Refused`] without members, with members of two libraries, or where a group is open on this thread already;
    /// [`Error::Aborted`] where a member was; [`Error::Call`].
    pub fn start(members: &[&'c Communicator]) -> Result<Self, Error> {
        let Some(first) = members.first() else {
            return Err(Error::Refused("a group needs a communicator".to_owned()));
        };
        refuse_inside("another group cannot be opened")?;
        for member in members {
            member.refuse_aborted()?;
            if !std::sync::Arc::ptr_eq(&member.nccl.0, &first.nccl.0) {
                return Err(Error::Refused("the communicators of a group are of two libraries".to_owned()));
            }
        }
        // SAFETY: takes no arguments.
        let code = unsafe { (first.nccl.0.group_start)() };
        first.nccl.0.check("ncclGroupStart", code)?;
        OPEN.set(true);
        for member in members {
            member.grouped.set(Some(Share::default()));
        }
        Ok(Self { members: members.to_vec(), open: true })
    }

    /// Starts what was held back, and waits until it is on its streams.
    ///
    /// # Errors
    /// The first failure of what was held back; every member has been aborted then.
    pub fn end(mut self) -> Result<(), Error> {
        self.close(None)
    }

    /// Ends the group. `left` says why it is incomplete.
    fn close(&mut self, left: Option<&str>) -> Result<(), Error> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let first = self.members[0];
        // SAFETY: takes no arguments; the group was opened by this value on this thread, which it cannot leave.
        let code = unsafe { (first.nccl.0.group_end)() };
        OPEN.set(false);
        let operations: u32 =
            self.members.iter().filter_map(|member| member.grouped.take()).map(|share| share.operations).sum();
        let result = match (left, code) {
            (Some(left), _) if operations > 0 => {
                let text = format!("a group was left with {operations} operations in it: {left}");
                Err(Error::Refused(text))
            }
            (_, ffi::SUCCESS | ffi::IN_PROGRESS) => self.members.iter().try_for_each(|member| {
                member.refuse_aborted()?;
                let what = || member.issued.describe("a group's operations to start");
                member.settle(member.config.enqueue_timeout, &what, &|| member.issued.on(member.rank(), member.size()))
            }),
            (_, code) => Err(first.call_failure("ncclGroupEnd", code)),
        };
        let result = result.inspect_err(|error| {
            // One that failed was mid-way in a common operation: none of them can be gone on with.
            for member in &self.members {
                member.fail(error.clone());
            }
        });
        for (nccl, handle) in AFTERWARDS.take() {
            abort_outside(&nccl, handle);
        }
        result
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let why = if std::thread::panicking() { "a panic" } else { "an early return" };
        // The failure is kept by the members, whose next call returns it.
        let _ = self.close(Some(why));
    }
}

impl Communicator {
    /// Runs `body` with a group open: the operations it issues on this communicator are held back, and start together
    /// when it returns. Nothing else of this thread should call NCCL in it.
    ///
    /// # Errors
    /// What `body` returned, or what ending the group did. If `body` fails after it issued operations, the communicator is
    /// aborted, because its peers may wait for those that did not come; the group ends in any case, also by a panic.
    pub fn group<R, E: From<Error>>(&self, body: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let mut group = Group::start(&[self])?;
        match body() {
            Ok(value) => {
                group.end()?;
                Ok(value)
            }
            Err(error) => {
                let _ = group.close(Some("its body failed"));
                Err(error)
            }
        }
    }
}

/// Refuses what NCCL would silently put off.
pub(crate) fn refuse_inside(what: &str) -> Result<(), Error> {
    if OPEN.get() {
        return Err(Error::Refused(format!("{what} while a group is open on this thread; end it first")));
    }
    Ok(())
}

/// Whether a group is open on this thread.
pub(crate) fn is_open() -> bool {
    OPEN.get()
}

/// Aborts a communicator whose handle nobody holds any more, or, inside a group, leaves that to the group's end.
pub(crate) fn abort_outside(nccl: &Nccl, handle: *mut ffi::Comm) -> c_int {
    if OPEN.get() {
        AFTERWARDS.with_borrow_mut(|afterwards| afterwards.push((nccl.clone(), handle)));
        return ffi::SUCCESS;
    }
    // SAFETY: the handle was live and was taken from its communicator, so that nobody calls NCCL with it, now or later.
    unsafe { (nccl.0.abort)(handle) }
}
