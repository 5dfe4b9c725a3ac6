//! What goes wrong while communicating, for people to read.

use std::ffi::c_int;
use std::fmt;
use std::time::Duration;

use crate::version::Version;

/// A result of NCCL other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// A call of CUDA failed.
    UnhandledCudaError,
    /// A call of the operating system failed.
    SystemError,
    /// NCCL found itself in a state it does not expect.
    InternalError,
    /// An argument is wrong.
    InvalidArgument,
    /// The call is wrong here, often because ranks differ in what they call.
    InvalidUsage,
    /// Another rank failed or is gone.
    RemoteError,
    /// Not there yet; no failure.
    InProgress,
    /// A code that these bindings do not know.
    Unknown(i32),
}

impl Status {
    /// `None` is success.
    pub(crate) fn from_code(code: c_int) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::UnhandledCudaError,
            2 => Self::SystemError,
            3 => Self::InternalError,
            4 => Self::InvalidArgument,
            5 => Self::InvalidUsage,
            6 => Self::RemoteError,
            7 => Self::InProgress,
            other => Self::Unknown(other),
        })
    }

    /// `ncclResult_t`.
    pub(crate) fn code(self) -> c_int {
        match self {
            Self::UnhandledCudaError => 1,
            Self::SystemError => 2,
            Self::InternalError => 3,
            Self::InvalidArgument => 4,
            Self::InvalidUsage => 5,
            Self::RemoteError => 6,
            Self::InProgress => 7,
            Self::Unknown(code) => code,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnhandledCudaError => "ncclUnhandledCudaError",
            Self::SystemError => "ncclSystemError",
            Self::InternalError => "ncclInternalError",
            Self::InvalidArgument => "ncclInvalidArgument",
            Self::InvalidUsage => "ncclInvalidUsage",
            Self::RemoteError => "ncclRemoteError",
            Self::InProgress => "ncclInProgress",
            Self::Unknown(code) => return write!(f, "result {code}, unknown to these bindings"),
        })
    }
}

/// What NCCL says about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its kind.
    pub status: Status,
    /// The library's sentence for this kind.
    pub meaning: String,
    /// `ncclGetLastError`: the newest warning of the process, empty where there was none. NCCL keeps one such text for
    /// all communicators and never clears it, so with several of them it can be another one's.
    pub last_error: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.meaning.is_empty() {
            write!(f, " ({})", self.meaning)?;
        }
        match self.last_error.trim() {
            "" => f.write_str("; NCCL left no text, NCCL_DEBUG=WARN may print one"),
            text => write!(f, "; NCCL's last error: {text}"),
        }
    }
}

/// A wait that did not end well: who waited, for what, on whom, how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The rank that waited.
    pub rank: usize,
    /// The number of ranks of its communicator.
    pub size: usize,
    /// What it waited for.
    pub what: String,
    /// The ranks without which that cannot come about.
    pub on: String,
    /// How long it had waited.
    pub lasted: Duration,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, size, what, on, lasted } = self;
        write!(f, "rank {rank} of {size} waited {:.1} s for {what}, on {on}", lasted.as_secs_f64())
    }
}

/// Why a call failed. Unless it says otherwise, the communicator has been aborted by the time this is seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// NCCL refused a call.
    #[error("{call} failed{}: {report}", .rank.map(|(rank, size)| format!(" on rank {rank} of {size}")).unwrap_or_default())]
    Call {
        /// The function of NCCL.
        call: &'static str,
        /// The rank and the number of ranks, where a communicator was concerned.
        rank: Option<(usize, usize)>,
        /// What NCCL says.
        report: Box<Report>,
    },
    /// The communicator went wrong while this rank waited: most often another rank died.
    #[error("{wait}; then its communicator failed: {report}")]
    Asynchronous {
        /// The wait.
        wait: Box<Wait>,
        /// What NCCL says.
        report: Box<Report>,
    },
    /// Another thread called the wait off.
    #[error("{wait}; then it was called off: {reason}")]
    Stopped {
        /// The wait.
        wait: Box<Wait>,
        /// What the other thread gave as the reason.
        reason: String,
    },
    /// The wait's bound was reached.
    #[error("{wait}; the bound is {:.1} s", .bound.as_secs_f64())]
    TimedOut {
        /// The wait.
        wait: Box<Wait>,
        /// The bound.
        bound: Duration,
    },
    /// The caller's look at its event failed.
    #[error("{wait}; then the look at the device failed: {reason}")]
    Device {
        /// The wait.
        wait: Box<Wait>,
        /// The caller's error.
        reason: String,
    },
    /// The communicator was aborted before, for the reason given.
    #[error("the communicator was aborted earlier: {reason}")]
    Aborted {
        /// The failure that ended it.
        reason: String,
    },
    /// The loaded library is too old for this function; nothing else is affected.
    #[error("{function} is in NCCL since {since}, and the loaded library is {found}")]
    Missing {
        /// The function of NCCL.
        function: &'static str,
        /// The version that brought it.
        since: Version,
        /// The version loaded.
        found: Version,
    },
    /// These bindings refused the arguments; NCCL was not called, the communicator is as before.
    #[error("{0}")]
    Refused(String),
}

/// Names the ranks other than `rank`, for [`Wait::on`].
pub(crate) fn others(rank: usize, size: usize) -> String {
    match size.saturating_sub(1) {
        0 => "nobody but itself".to_owned(),
        // A list of a thousand ranks helps nobody.
        count @ 9.. => format!("the other {count} ranks"),
        _ => named((0..size).filter(|other| *other != rank)),
    }
}

/// Names some ranks: `rank 3`, `ranks 0, 2, 3`.
pub(crate) fn named(ranks: impl Iterator<Item = usize>) -> String {
    let list: Vec<String> = ranks.map(|rank| rank.to_string()).collect();
    format!("{} {}", if list.len() == 1 { "rank" } else { "ranks" }, list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_who_waited_how_long_for_what_and_on_whom() {
        let wait = Wait {
            rank: 1,
            size: 4,
            what: "all_reduce of 10 f32".to_owned(),
            on: others(1, 4),
            lasted: Duration::from_millis(2040),
        };
        let error = Error::TimedOut { wait: Box::new(wait), bound: Duration::from_secs(2) };
        let expected = "rank 1 of 4 waited 2.0 s for all_reduce of 10 f32, on ranks 0, 2, 3; the bound is 2.0 s";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn many_ranks_are_counted_and_one_is_named() {
        assert_eq!(others(0, 1), "nobody but itself");
        assert_eq!(others(0, 2), "rank 1");
        assert_eq!(others(3, 1024), "the other 1023 ranks");
    }

    #[test]
    fn errors_stay_small_enough_to_be_returned() {
        assert!(size_of::<Error>() <= 64);
    }
}
