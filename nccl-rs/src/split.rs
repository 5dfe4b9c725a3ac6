//! Communicators made of the ranks of another.

#![allow(unsafe_code)]

use std::ffi::c_int;

use crate::communicator::{Asked, Communicator, Slot, ask};
use crate::config::Config;
use crate::error::{Error, others};
use crate::ffi;
use crate::group;

impl Communicator {
    /// Makes new communicators out of this one's ranks: one for each `color`, its ranks ordered by `key` and, where keys
    /// are equal, by rank. All ranks call this; one that gives no color is in none of them and receives `None`. This
    /// communicator stays as it is. It waits as [`init`](Self::init) does, at most [`Config::init_timeout`] of `config`.
    ///
    /// # Errors
    /// As [`init`](Self::init); both communicators are gone then, since a split that stands half-way cannot be taken back.
    /// [`Error::Refused`] for a color above `i32::MAX`, and inside a group.
    pub fn split(&self, color: Option<u32>, key: i32, config: &Config) -> Result<Option<Self>, Error> {
        self.refuse_aborted()?;
        group::refuse_inside("a communicator cannot be split")?;
        let color_code = match color {
            None => ffi::NO_COLOR,
            Some(color) => c_int::try_from(color)
                .map_err(|_| Error::Refused(format!("the color {color} of a split is above {}", c_int::MAX)))?,
        };
        let slot = Slot::new();
        let mut raw = config.to_ffi(self.nccl.version());
        // SAFETY: the handle is live, the slot lives for ever, the config and its texts live through the call.
        let code = unsafe { (self.nccl.0.split)(self.handle.get(), color_code, key, slot.0.as_ptr(), &raw mut raw) };
        let settled = match code {
            ffi::SUCCESS | ffi::IN_PROGRESS => {
                let what = || format!("a split into color {color_code}");
                self.settle(config.init_timeout, &what, &|| others(self.rank(), self.size()))
            }
            code => Err(self.fail(self.call_failure("ncclCommSplit", code))),
        };
        // Only now: NCCL writes the slot when the split is complete, or given up.
        let handle = slot.get();
        if let Err(error) = settled {
            if !handle.is_null() {
                group::abort_outside(&self.nccl, handle);
            }
            return Err(error);
        }
        match (color, handle.is_null()) {
            (None, true) => Ok(None),
            (Some(_), false) => self.adopt(handle, config).map(Some),
            (_, missing) => {
                let what = if missing { "no communicator" } else { "a communicator nobody asked for" };
                if !missing {
                    group::abort_outside(&self.nccl, handle);
                }
                Err(self.fail(Error::Refused(format!("a split into color {color_code} gave {what}"))))
            }
        }
    }

    /// Takes over a handle of a new communicator, which knows its own rank and size.
    fn adopt(&self, handle: *mut ffi::Comm, config: &Config) -> Result<Self, Error> {
        let question = |call| match ask(&self.nccl, handle, call) {
            Ok(value) => Ok(value as usize),
            Err(reason) => {
                let text = match reason {
                    Asked::Failed(code) => format!("{call} of a new communicator failed with {code}"),
                    Asked::Negative(value) => format!("{call} of a new communicator answered {value}"),
                };
                group::abort_outside(&self.nccl, handle);
                Err(Error::Refused(text))
            }
        };
        let (rank, size) = (question("ncclCommUserRank")?, question("ncclCommCount")?);
        let child = Self::with(&self.nccl, handle, rank, size, config.clone());
        let what = || "the communicator that was split off".to_owned();
        child.settle(config.init_timeout, &what, &|| others(rank, size))?;
        child.know_thyself()?;
        Ok(child)
    }
}
