//! Safe bindings to NVIDIA's NCCL, loaded at run time.
//!
//! NCCL moves and reduces memory between GPUs. This crate loads `libnccl.so.2` when asked to, so that a program built on a
//! machine without it runs on one without it and says clearly what is missing. It is made for programs whose peers may
//! die: **nothing here waits without a bound, and every wait that ends badly says for what, for how long and on whom.**
//!
//! ```no_run
//! use std::time::Duration;
//! use nccl_rs::{Communicator, Config, Elements, Nccl, ReduceOp, Search, StopFlag, Stream};
//!
//! # fn bytes_from_rank_0() -> [u8; 128] { [0; 128] }
//! # fn event_is_done() -> bool { true }
//! # let (rank, size, gradient, stream) = (1, 4, std::ptr::null_mut(), Stream::DEFAULT);
//! let nccl = Nccl::load(&Search::new().directory("/opt/libtorch"))?;
//! // One rank calls nccl.unique_id() and sends its bytes to the others.
//! let id = nccl_rs::UniqueId::from_bytes(bytes_from_rank_0());
//!
//! // Another thread that learns of a peer's death calls stop.stop("rank 2 is gone").
//! let stop = StopFlag::new();
//! let communicator = Communicator::init(&nccl, &id, rank, size, &Config::new().stop(&stop))?;
//!
//! // SAFETY: 1,000 floats of this device's memory, which nothing else touches until the wait is over.
//! unsafe { communicator.all_reduce(gradient, gradient, Elements::f32(1000), ReduceOp::Sum, stream)? };
//! communicator.wait("the gradient of step 12", Duration::from_secs(30), event_is_done)?;
//! communicator.finalize(Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What the types see to
//!
//! - **Nobody else is inside NCCL while a communicator is aborted.** A [`Communicator`] moves between threads but is never
//!   shared ([`Send`], not [`Sync`]). Operations borrow it; [`abort`](Communicator::abort) and
//!   [`finalize`](Communicator::finalize) consume it. A thread that wants another's communicator ended raises a
//!   [`StopFlag`]; the owner sees it wherever it waits, within a millisecond, and aborts.
//! - **A failure ends the communicator.** It is aborted before the error is returned, so that nothing is left on the
//!   device that waits for a peer and would hold the stream for ever. Later calls return [`Error::Aborted`] with the first
//!   failure's text. There is no repair: like NCCL's own, a communicator is made anew for every membership.
//! - **A group ends on every path**, and the result of ending it is seen, also after an early return or a panic
//!   ([`Communicator::group`], [`Group`]).
//! - **Dropping never waits for a peer.** A communicator that was not finalised is aborted.
//! - **Counts have types.** [`Elements`] is a number of elements of a [`DataType`], never a number of bytes, and what
//!   would exceed memory, name a rank that is not there or read from null is refused before NCCL sees it.
//!
//! What they cannot see to is the memory: operations take addresses and are `unsafe`
//! ([what the caller promises](Communicator#safety-of-the-operations)).
//!
//! # Which NCCL
//!
//! 2.18 and later ([`Version::OLDEST`]); written against the interface of 2.28. Every communicator is non-blocking
//! (`ncclCommInitRankConfig` with `blocking = 0`) and is polled. Functions that came later than 2.18 are looked for when
//! they are needed ([`Error::Missing`]). Where the library is looked for is [`Search`]'s to say; the wheels
//! `nvidia-nccl-cu12` and `nvidia-nccl-cu13` of `PyPI` hold it.
//!
//! # The parts
//!
//! | module | what is in it |
//! | --- | --- |
//! | `search`, `dynamic`, `api`, `ffi` | finding and loading the library; its functions and their signatures |
//! | `library`, `host` | [`Nccl`]: version, identifiers, memory |
//! | `communicator`, `split` | how communicators begin and end |
//! | `operations`, `group` | what is put on a stream |
//! | `wait`, `poll`, `stop`, `issued` | bounded waiting, and what is said when it ends badly |
//! | `registration` | buffers that need no copies |

mod api;
mod communicator;
mod config;
mod dynamic;
mod element;
mod error;
mod ffi;
mod group;
mod host;
mod issued;
mod library;
mod operations;
mod poll;
mod registration;
mod search;
mod split;
mod stop;
mod unique_id;
mod version;
mod wait;

pub use communicator::Communicator;
pub use config::Config;
pub use element::{DataType, Elements, ReduceOp};
pub use error::{Error, Report, Status, Wait};
pub use group::Group;
pub use library::{DeviceMemory, Nccl};
pub use operations::Stream;
pub use registration::Registration;
pub use search::{LoadError, Place, Search, Tried, VARIABLE};
pub use stop::StopFlag;
pub use unique_id::{UniqueId, UniqueIdError};
pub use version::Version;
