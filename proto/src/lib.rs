//! The wire: what `began/v1/coordinator.proto` says, in Rust.

pub mod codec;

/// `began.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("began.v1");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// The protocol's version, in every hello.
pub const VERSION: u32 = 2;

/// The largest message either side accepts, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;
