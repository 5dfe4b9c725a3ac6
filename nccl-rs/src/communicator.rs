//! A communicator's life: made, used by one thread at a time, and ended by finalising or aborting.
//!
//! The rule that everything here serves: **while a communicator is aborted, nobody is inside NCCL with it.** It may move
//! between threads but not be shared by two; whatever calls NCCL borrows it or owns it; and the handle is taken out before
//! it is aborted, so that there is nothing left to call with.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Status, Wait, others};
use crate::ffi;
use crate::group;
use crate::issued::Issued;
use crate::library::Nccl;
use crate::poll::Pace;
use crate::stop::StopFlag;
use crate::unique_id::UniqueId;

/// One rank's part in a clique of ranks that communicate.
///
/// It is `Send` and not `Sync`. Another thread that wants it ended raises its [`StopFlag`]. A failure aborts it at once;
/// from then on every call returns [`Error::Aborted`] with the first failure's text, and a fresh one has to be made.
/// Dropping it without [`finalize`](Self::finalize) aborts it.
///
/// ```compile_fail
/// fn shared_between_threads<T: Sync>() {}
/// shared_between_threads::<nccl_rs::Communicator>();
/// ```
///
/// CUDA's current device belongs to a thread: a thread that makes or takes over a communicator has to set it first.
pub struct Communicator {
    pub(crate) nccl: Nccl,
    /// Null once it is aborted or destroyed.
    pub(crate) handle: Cell<*mut ffi::Comm>,
    /// Why it was aborted.
    pub(crate) ended: RefCell<Option<String>>,
    rank: usize,
    size: usize,
    device: Cell<u32>,
    pub(crate) config: Config,
    pub(crate) issued: Issued,
    /// The open group that it belongs to.
    pub(crate) grouped: Cell<Option<group::Share>>,
    pub(crate) registrations: RefCell<Vec<*mut c_void>>,
}

// SAFETY: NCCL ties a communicator to a device and not to a thread; calls must not overlap, which `!Sync` (through Cell)
// sees to. The raw pointers are NCCL's and CUDA's and mean the same on every thread.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Joins `size` ranks into a communicator, as `rank`, on the calling thread's current device. All ranks call this with
    /// the same identifier, and return when all have come.
    ///
    /// # Errors
    /// [`Error::Refused`] for a rank out of range, inside a group, or where the environment makes NCCL block
    /// (`NCCL_COMM_BLOCKING=1`); [`Error::Call`] and [`Error::Asynchronous`] where NCCL fails, so without a device;
    /// [`Error::Stopped`] when the flag is raised and [`Error::TimedOut`] after [`Config::init_timeout`], which both leave
    /// nothing behind.
    pub fn init(nccl: &Nccl, id: &UniqueId, rank: usize, size: usize, config: &Config) -> Result<Self, Error> {
        let (c_rank, c_size) = match (c_int::try_from(rank), c_int::try_from(size)) {
            (Ok(c_rank), Ok(c_size)) if rank < size => (c_rank, c_size),
            _ => return Err(Error::Refused(format!("there is no rank {rank} among {size}"))),
        };
        group::refuse_inside("a communicator cannot be made")?;
        refuse_blocking_environment()?;
        let communicator = Self::with(nccl, ptr::null_mut(), rank, size, config.clone());
        let what = || format!("a communicator of {size}");
        communicator.interrupted(&Pace::new(config.init_timeout), &what, &|| others(rank, size))?;

        let slot = Slot::new();
        let mut raw = communicator.config.to_ffi(nccl.version());
        // SAFETY: the slot lives for ever; the config and the texts it points at live through the call, and the library
        // copies what it keeps.
        let code = unsafe { (nccl.0.init_rank_config)(slot.0.as_ptr(), c_size, id.to_ffi(), c_rank, &raw mut raw) };
        communicator.handle.set(slot.get());
        if slot.get().is_null() {
            let failure = communicator.call_failure("ncclCommInitRankConfig", code);
            // NCCL leaves a group open on this thread when it cannot ask for the current device, and would hold back
            // whatever this thread calls next. Where it left none, this changes nothing.
            // SAFETY: takes no arguments.
            let _ = unsafe { (nccl.0.group_end)() };
            return Err(failure);
        }
        communicator.accept("ncclCommInitRankConfig", code, config.init_timeout, &what)?;
        communicator.know_thyself()?;
        Ok(communicator)
    }

    pub(crate) fn with(nccl: &Nccl, handle: *mut ffi::Comm, rank: usize, size: usize, config: Config) -> Self {
        Self {
            nccl: nccl.clone(),
            handle: Cell::new(handle),
            ended: RefCell::new(None),
            rank,
            size,
            device: Cell::new(0),
            config,
            issued: Issued::default(),
            grouped: Cell::new(None),
            registrations: RefCell::new(Vec::new()),
        }
    }

    /// Asks NCCL for rank, size and device: what it answers must be what it was told.
    pub(crate) fn know_thyself(&self) -> Result<(), Error> {
        let (rank, size) = (self.ask("ncclCommUserRank")?, self.ask("ncclCommCount")?);
        self.device.set(self.ask("ncclCommCuDevice")?);
        if (rank as usize, size as usize) != (self.rank, self.size) {
            let text = format!("NCCL made rank {rank} of {size} out of rank {} of {}", self.rank, self.size);
            return Err(self.fail(Error::Refused(text)));
        }
        Ok(())
    }

    fn ask(&self, call: &'static str) -> Result<u32, Error> {
        ask(&self.nccl, self.handle.get(), call).map_err(|code| match code {
            Asked::Failed(code) => self.fail(self.call_failure(call, code)),
            Asked::Negative(value) => self.fail(Error::Refused(format!("{call} answered {value}"))),
        })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The CUDA device it communicates from.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.device.get()
    }

    /// The library it belongs to.
    #[must_use]
    pub fn nccl(&self) -> &Nccl {
        &self.nccl
    }

    /// The flag that ends its waits; what another thread is given to have it aborted.
    #[must_use]
    pub fn stop_flag(&self) -> &StopFlag {
        &self.config.stop
    }

    /// Why it was aborted, if it was.
    #[must_use]
    pub fn aborted(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Whether something went wrong since the last call, for instance a peer died. It only looks: a communicator in error
    /// is aborted by the next call that would use it.
    ///
    /// # Errors
    /// [`Error::Aborted`], or [`Error::Call`] where NCCL does not answer.
    pub fn asynchronous_error(&self) -> Result<Option<Status>, Error> {
        self.refuse_aborted()?;
        Ok(self.state()?.filter(|status| *status != Status::InProgress))
    }

    /// Ends it in good order, as every rank does: waits at most `bound` until all that was issued is done everywhere, then
    /// frees it. Registrations end with it.
    ///
    /// # Errors
    /// As any wait; it has been aborted then.
    pub fn finalize(self, bound: Duration) -> Result<(), Error> {
        self.refuse_aborted()?;
        group::refuse_inside("a communicator cannot be finalised")?;
        self.deregister_all()?;
        // SAFETY: the handle is this communicator's and live.
        let code = unsafe { (self.nccl.0.finalize)(self.handle.get()) };
        self.accept("ncclCommFinalize", code, bound, &|| "all ranks to finalise".to_owned())?;
        let handle = self.handle.replace(ptr::null_mut());
        // SAFETY: finalised and settled, so destroying only frees; the handle is gone from `self`.
        match unsafe { (self.nccl.0.destroy)(handle) } {
            ffi::SUCCESS | ffi::IN_PROGRESS => Ok(()),
            code => {
                let report =
                    self.nccl.0.report(Status::from_code(code).unwrap_or(Status::Unknown(code)), code, ptr::null_mut());
                Err(Error::Call {
                    call: "ncclCommDestroy",
                    rank: Some((self.rank, self.size)),
                    report: Box::new(report),
                })
            }
        }
    }

    /// Ends it at once. What it has on the device ends unfinished; synchronise the stream, which takes no time any more,
    /// before its buffers are reused. The other ranks see a [`Status::RemoteError`], or wait until their own bound.
    ///
    /// # Errors
    /// [`Error::Call`] where NCCL fails to; the communicator is gone all the same.
    pub fn abort(self) -> Result<(), Error> {
        match self.end("its owner aborted it".to_owned()) {
            ffi::SUCCESS | ffi::IN_PROGRESS => Ok(()),
            code => Err(self.call_failure("ncclCommAbort", code)),
        }
    }

    // ---- what the other files build on ----

    /// Refuses whatever follows an abort.
    pub(crate) fn refuse_aborted(&self) -> Result<(), Error> {
        if self.handle.get().is_null() {
            let reason = self.ended.borrow().clone().unwrap_or_else(|| "for no reason it knows".to_owned());
            return Err(Error::Aborted { reason });
        }
        Ok(())
    }

    /// Aborts it if that was not done, and gives the result of doing so. It has no handle afterwards.
    fn end(&self, reason: String) -> c_int {
        let handle = self.handle.replace(ptr::null_mut());
        if handle.is_null() {
            return ffi::SUCCESS;
        }
        self.ended.borrow_mut().get_or_insert(reason);
        // They end with the communicator.
        self.registrations.borrow_mut().clear();
        group::abort_outside(&self.nccl, handle)
    }

    /// Aborts it because of a failure, which it returns.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.end(error.to_string());
        error
    }

    /// The failure of a call, with NCCL's words. Does not abort.
    pub(crate) fn call_failure(&self, call: &'static str, code: c_int) -> Error {
        let status = Status::from_code(code).unwrap_or(Status::InternalError);
        let report = Box::new(self.nccl.0.report(status, code, self.handle.get()));
        Error::Call { call, rank: Some((self.rank, self.size)), report }
    }

    /// The asynchronous state; `None` is well.
    pub(crate) fn state(&self) -> Result<Option<Status>, Error> {
        let mut state: c_int = 0;
        // SAFETY: the handle is live (callers checked), and one int is written.
        let code = unsafe { (self.nccl.0.get_async_error)(self.handle.get(), &raw mut state) };
        if code != ffi::SUCCESS {
            return Err(self.fail(self.call_failure("ncclCommGetAsyncError", code)));
        }
        Ok(Status::from_code(state))
    }

    /// Takes the result of a call that may still be in progress, and waits for it if it is.
    pub(crate) fn accept(
        &self,
        call: &'static str,
        code: c_int,
        bound: Duration,
        what: &dyn Fn() -> String,
    ) -> Result<(), Error> {
        match code {
            // A library may return before its other thread has begun.
            ffi::SUCCESS | ffi::IN_PROGRESS => self.settle(bound, what, &|| others(self.rank, self.size)),
            code => Err(self.fail(self.call_failure(call, code))),
        }
    }

    /// Waits until nothing is in progress, aborting on failure, flag and bound.
    pub(crate) fn settle(
        &self,
        bound: Duration,
        what: &dyn Fn() -> String,
        on: &dyn Fn() -> String,
    ) -> Result<(), Error> {
        let mut pace = Pace::new(bound);
        loop {
            match self.state()? {
                None => return Ok(()),
                Some(Status::InProgress) => {}
                Some(status) => return Err(self.fail(self.asynchronous(status, &pace, what, on))),
            }
            self.interrupted(&pace, what, on)?;
            pace.rest();
        }
    }

    /// Aborts where the flag is raised or the bound is reached.
    pub(crate) fn interrupted(
        &self,
        pace: &Pace,
        what: &dyn Fn() -> String,
        on: &dyn Fn() -> String,
    ) -> Result<(), Error> {
        if let Some(reason) = self.config.stop.reason() {
            let reason = reason.to_owned();
            return Err(self.fail(Error::Stopped { wait: self.wait_so_far(pace, what, on), reason }));
        }
        if pace.is_over() {
            return Err(self.fail(Error::TimedOut { wait: self.wait_so_far(pace, what, on), bound: pace.bound() }));
        }
        Ok(())
    }

    pub(crate) fn asynchronous(
        &self,
        status: Status,
        pace: &Pace,
        what: &dyn Fn() -> String,
        on: &dyn Fn() -> String,
    ) -> Error {
        let report = Box::new(self.nccl.0.report(status, status.code(), self.handle.get()));
        Error::Asynchronous { wait: self.wait_so_far(pace, what, on), report }
    }

    pub(crate) fn wait_so_far(&self, pace: &Pace, what: &dyn Fn() -> String, on: &dyn Fn() -> String) -> Box<Wait> {
        Box::new(Wait { rank: self.rank, size: self.size, what: what(), on: on(), lasted: pace.lasted() })
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.end("it was dropped without being finalised".to_owned());
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Communicator");
        shown.field("rank", &self.rank).field("size", &self.size).field("device", &self.device.get());
        shown.field("aborted", &self.ended.borrow()).finish_non_exhaustive()
    }
}

/// Where NCCL writes the handle of a new communicator. A thread of its own may do so long after the call has returned, so
/// the place is never freed: eight bytes a communicator.
pub(crate) struct Slot(pub(crate) &'static AtomicPtr<ffi::Comm>);

impl Slot {
    pub(crate) fn new() -> Self {
        Self(Box::leak(Box::new(AtomicPtr::new(ptr::null_mut()))))
    }

    pub(crate) fn get(&self) -> *mut ffi::Comm {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a question had no answer.
pub(crate) enum Asked {
    Failed(c_int),
    Negative(c_int),
}

/// Asks a live communicator for a number.
pub(crate) fn ask(nccl: &Nccl, handle: *mut ffi::Comm, call: &'static str) -> Result<u32, Asked> {
    let function = match call {
        "ncclCommUserRank" => nccl.0.user_rank,
        "ncclCommCount" => nccl.0.count,
        _ => nccl.0.cu_device,
    };
    let mut value: c_int = 0;
    // SAFETY: the handle is live, and one int is written.
    match unsafe { function(handle, &raw mut value) } {
        ffi::SUCCESS => u32::try_from(value).map_err(|_| Asked::Negative(value)),
        code => Err(Asked::Failed(code)),
    }
}

/// NCCL lets its environment overrule the configuration.
fn refuse_blocking_environment() -> Result<(), Error> {
    match std::env::var("NCCL_COMM_BLOCKING") {
        Ok(value) if value.trim() == "1" => Err(Error::Refused(
            "NCCL_COMM_BLOCKING=1 would make every call of NCCL wait without a bound; unset it".to_owned(),
        )),
        _ => Ok(()),
    }
}
