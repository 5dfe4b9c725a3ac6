//! The trainer's side of the stream with the coordinator, as a pure machine. READY.
//!
//! It keeps what a coordinator that comes back needs (which step is held, what led to it, what was not answered), decides
//! when to connect again and what to send then, and turns what comes in into news for the training loop. It must never
//! read a clock, open a socket, wait or draw a random number: [`Protocol::handle`] is told what happened and when, and
//! answers with what to do. The trainer drives it over gRPC; the simulation over a made-up network.
//!
//! # How a trainer uses it
//!
//! - A driver owns it: it feeds [`Input::Tick`] every [`TICK`], [`Input::Opened`] once a stream asked for by
//!   [`Output::Connect`] is there, [`Input::Received`] for each message and [`Input::Broken`] when the stream ends; it
//!   carries out every [`Output`] in order. [`Output::Beat`] asks for a heartbeat, which only the driver can fill in.
//! - The training loop hands what it has to say in as [`Input::Say`] and gets [`News`].
//! - Before the loop overwrites its state (loading, healing) it says [`Say::Holds`]`(None)`; once it holds a whole one,
//!   [`Say::Holds`]`(Some(step))`. After each commit it says [`Say::Committed`].
//! - On [`News::Halt`], and after a step whose orders say `regroup`, the loop leaves the generation (aborts its group) and
//!   says [`Say::Held`] with its number; then it waits for the next [`News`]. After a failed sum it leaves, says [`Say::Severed`], and
//!   waits: for the halt, which it answers with [`Say::Held`], or, where that was lost with a stream, for the next generation.
//! - Messages of a generation that is over are dropped here, so the loop hears of one generation at a time.

mod history;
mod link;
mod outbox;
mod protocol;

pub use protocol::{Identity, Input, News, Output, Place, Protocol, Say, Settings, TICK};
