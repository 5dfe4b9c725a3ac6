//! A test double of NCCL: its binary interface, over host memory and loopback sockets, with no GPU anywhere.
//!
//! It stands in for `libnccl.so.2` wherever a program loads NCCL at run time, across threads and across processes, and
//! it behaves as NCCL does where that matters to a program that must survive its peers:
//!
//! - operations return when they are on a *stream*, and run on a thread that the stream's address names. Device memory is
//!   host memory; [`Device`] is the test's end of the streams, in the place of CUDA's events;
//! - communicators made with `blocking = 0` come up, split and finalise in the background, and say so through
//!   `ncclCommGetAsyncError`;
//! - a process that dies is a `ncclRemoteError` to its peers, and what waits for it on a stream waits until the
//!   communicator is aborted, as a kernel would;
//! - in one point it is stricter: ranks that call different operations get `ncclInvalidUsage` instead of silence.
//!
//! # Told to misbehave
//!
//! A script makes it fail: in the environment variable `NCCL_DOUBLE` for a whole process, or, for one communicator, as its
//! name in the configuration after the word `double:`. Entries are separated by `;`:
//!
//! | entry | meaning |
//! | --- | --- |
//! | `fail at PLACE` | fails asynchronously with `ncclInternalError` |
//! | `refuse at PLACE` | the call itself returns `ncclInternalError` |
//! | `hang at PLACE` | never comes to an end, until aborted |
//! | `slow=MS at PLACE` | takes so many milliseconds longer |
//! | `busy=MS at PLACE` | the call returns `ncclInProgress` and is that for so long |
//! | `exit at PLACE` | the process ends without a word |
//! | `version=CODE` | what `ncclGetVersion` gives (environment only) |
//!
//! `PLACE` is `init`, `split`, `finalize` or `op N`, the N-th operation of a communicator from 1, and may be followed by
//! `on R` for one rank: `hang at op 3 on 1; slow=200 at init`.

mod abi;
mod beginning;
mod bootstrap;
mod communicator;
mod group;
mod memory;
mod operation;
mod reduce;
mod registry;
mod script;
mod stream;
mod wire;

mod device;
pub use device::{Device, library};
