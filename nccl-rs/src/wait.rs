//! Waiting for the device.

use std::convert::Infallible;
use std::fmt::Display;
use std::time::Duration;

use crate::communicator::Communicator;
use crate::error::{Error, Status};
use crate::group;
use crate::poll::Pace;

impl Communicator {
    /// Waits until the device has done what was issued: until `until` is true, asked again and again from this thread, and
    /// usually the query of an event recorded after the operations. `what` is the caller's name for it in errors.
    ///
    /// An operation whose peer died never ends on the device, and an event after it never comes. So the communicator's
    /// asynchronous state and its [`StopFlag`](crate::StopFlag) are looked at as often as `until`. If they say that it is
    /// over, or the bound is reached, the communicator is aborted before this returns: then what is on the stream ends by
    /// itself, and the contents of the receive buffers are undefined.
    ///
    /// When `until` is true nothing else is looked at: what has ended on the device of a communicator that was not aborted
    /// has ended well, whatever a peer did afterwards.
    ///
    /// # Errors
    /// [`Error::Asynchronous`], [`Error::Stopped`], [`Error::TimedOut`], each saying how long what was waited for and on
    /// whom; [`Error::Refused`] inside a group, where nothing is on the device yet.
    pub fn wait(&self, what: &str, bound: Duration, mut until: impl FnMut() -> bool) -> Result<(), Error> {
        self.try_wait(what, bound, || Ok::<bool, Infallible>(until()))
    }

    /// As [`wait`](Self::wait), where looking at the device can fail; that aborts the communicator too.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`Error::Device`].
    pub fn try_wait<E: Display>(
        &self,
        what: &str,
        bound: Duration,
        mut until: impl FnMut() -> Result<bool, E>,
    ) -> Result<(), Error> {
        self.refuse_aborted()?;
        group::refuse_inside("nothing can be waited for")?;
        let what = || self.issued.describe(what);
        let on = || self.issued.on(self.rank(), self.size());
        let mut pace = Pace::new(bound);
        loop {
            match until() {
                Ok(true) => {
                    self.issued.clear();
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    let wait = self.wait_so_far(&pace, &what, &on);
                    return Err(self.fail(Error::Device { wait, reason: error.to_string() }));
                }
            }
            // `until` is the caller's, and may have used this communicator and lost it.
            self.refuse_aborted()?;
            match self.state()? {
                None | Some(Status::InProgress) => {}
                Some(status) => return Err(self.fail(self.asynchronous(status, &pace, &what, &on))),
            }
            self.interrupted(&pace, &what, &on)?;
            pace.rest();
        }
    }
}
