//! The prepared data set: its format, how one is made, and how training reads it.
//!
//! A prepared set is a folder: `shard-00000.safetensors` and on, each with one uint8 tensor `images` of shape
//! `[N,3,size,size]`, and `manifest.json`, which names them with a BLAKE3 hash each and carries a digest that
//! identifies the data wherever it lies. The same source with the same options gives the same bytes.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`manifest`] | what a prepared set says of itself, and the check of it |
//! | [`shard`] | the layout of a shard file |
//! | [`dataset`] | a set opened for reading: mapped, checked, shared |
//! | [`loader`] | a thread that keeps batches ready |
//! | [`prepare`] | from a folder, an archive, IDX files or nothing at all to a prepared set |
//! | [`faces`] | made-up faces, each a function of (seed, index, size) |
//!
//! No tensors, no sockets: which samples a step uses is decided by `began`, and what becomes of the pixels by the
//! trainer.

mod aside;
pub mod dataset;
pub mod error;
pub mod faces;
pub mod loader;
pub mod manifest;
mod mapping;
pub mod prepare;
pub mod shard;

pub use dataset::DataSet;
pub use error::DataError;
pub use loader::{Batch, BatchPlan, Loader};
pub use manifest::{Manifest, ShardEntry};
