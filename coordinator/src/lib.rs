//! The coordinator of a run: who takes part, what each step's equilibrium is, which shards each trainer may read, and
//! what happens when something goes wrong.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`machine`] | decides. Pure: an event and the time in, decisions and their reasons out |
//! | [`wire`] | between protobuf messages and the machine's words |
//! | [`actor`] | the one task that owns the machine and carries its decisions out |
//! | [`history`] | what the journal tells a coordinator that is started again |
//! | [`inputs`], [`replay`] | what the machine was told, and telling it again |
//! | [`exchange`] | the key-value rendezvous of a generation |
//! | [`watchers`] | progress and events for whoever looks on |
//! | [`beside`] | who hears of what happens: the record, those who look on, the page |
//! | [`diagnosis`] | what trainers tell of single images, beside the machine |
//! | [`evaluation`] | what trainers score the model at, beside the machine too |
//! | [`meters`] | what trainers say of themselves that nothing hangs on, and how fast they are answered |
//! | [`page`] | the web page, its interface and `/metrics` |
//! | [`recorder`] | journal, TensorBoard and manifest, on a thread of their own |
//! | [`spans`] | traces of steps and generations, where they are asked for |
//! | [`courtesy`] | which thread gives way, and which processors it keeps to |
//! | [`gate`], [`rights`] | who is let in, and who may call what |
//! | [`service`] | the gRPC face |
//! | [`downlink`] | the way down to a trainer, encoded once for all |
//! | [`server`] | puts all of it together over the directory of a run |
//!
//! No torch, and nothing on a step's path that touches a disk.

pub mod actor;
pub mod beside;
pub mod courtesy;
pub mod diagnosis;
pub mod downlink;
pub mod evaluation;
pub mod exchange;
pub mod gate;
pub mod history;
pub mod inputs;
pub mod machine;
pub mod meters;
pub mod page;
pub mod recorder;
pub mod replay;
pub mod rights;
pub mod server;
pub mod service;
pub mod spans;
pub mod watchers;
pub mod wire;

pub use server::{Coordinator, Options, Outcome, StartError};
