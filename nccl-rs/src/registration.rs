//! Buffers that NCCL may reach without copying.

#![allow(unsafe_code)]

use std::ffi::c_void;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::ffi;
use crate::group;

/// A buffer's registration with one communicator. It ends with [`Communicator::deregister`], or with the communicator.
/// It is a token and borrows nothing, so it can lie in one structure with its communicator; dropping it does nothing.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "without it the buffer stays registered for as long as the communicator lives"]
pub struct Registration(*mut c_void);

// SAFETY: a handle of NCCL's, only ever given back to the communicator that made it.
unsafe impl Send for Registration {}

impl Communicator {
    /// Registers device memory, so that operations on it need no copies where the transport can do without. A matter of
    /// speed alone.
    ///
    /// # Errors
    /// [`Error::Missing`] before NCCL 2.19; [`Error::Refused`] for null, for no bytes, and inside a group;
    /// [`Error::Call`].
    ///
    /// # Safety
    /// The memory is of this communicator's device, `bytes` long, and stays allocated until it is deregistered or the
    /// communicator is finalised or aborted.
    pub unsafe fn register(&self, buffer: *mut c_void, bytes: usize) -> Result<Registration, Error> {
        self.refuse_aborted()?;
        group::refuse_inside("a buffer cannot be registered")?;
        if buffer.is_null() || bytes == 0 {
            return Err(Error::Refused(format!("{bytes} bytes at {buffer:?} cannot be registered")));
        }
        let register = self.nccl.0.register()?;
        self.nccl.0.deregister()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the caller's promise for the memory; the communicator is live; one pointer is written.
        let code = unsafe { register(self.handle.get(), buffer, bytes, &raw mut handle) };
        if code != ffi::SUCCESS {
            return Err(self.fail(self.call_failure("ncclCommRegister", code)));
        }
        // NCCL gives none where it would not use one, and then there is none to give back.
        if !handle.is_null() {
            self.registrations.borrow_mut().push(handle);
        }
        Ok(Registration(handle))
    }

    /// Ends a registration. With a communicator that was aborted it has ended already, and this is no error.
    ///
    /// # Errors
    /// [`Error::Refused`] for a registration of another communicator, and inside a group; [`Error::Call`].
    pub fn deregister(&self, registration: Registration) -> Result<(), Error> {
        if self.refuse_aborted().is_err() || registration.0.is_null() {
            return Ok(());
        }
        group::refuse_inside("a buffer cannot be deregistered")?;
        let position = self.registrations.borrow().iter().position(|handle| *handle == registration.0);
        let Some(position) = position else {
            return Err(Error::Refused("the registration is of another communicator".to_owned()));
        };
        let handle = self.registrations.borrow_mut().swap_remove(position);
        self.give_back(handle)
    }

    /// Ends all of them, as finalising does.
    pub(crate) fn deregister_all(&self) -> Result<(), Error> {
        let handles = self.registrations.take();
        handles.into_iter().try_for_each(|handle| self.give_back(handle))
    }

    fn give_back(&self, handle: *mut c_void) -> Result<(), Error> {
        let deregister = self.nccl.0.deregister()?;
        // SAFETY: the handle is from ncclCommRegister of this live communicator, and is taken off its list.
        let code = unsafe { deregister(self.handle.get(), handle) };
        if code != ffi::SUCCESS {
            return Err(self.fail(self.call_failure("ncclCommDeregister", code)));
        }
        Ok(())
    }
}
