//! Libraries over host memory: a double of NCCL that runs where there is no GPU says itself what its streams have done, in the place of
//! CUDA's events.

#![allow(unsafe_code)]

use crate::library::Nccl;
use crate::operations::Stream;

impl Nccl {
    /// Whether its operations are over host memory.
    #[must_use]
    pub fn is_of_host_memory(&self) -> bool {
        self.0.stream_query.is_some()
    }

    /// Whether everything on the stream is done; `None` of a library over device memory, whose streams are CUDA's to ask.
    #[must_use]
    pub fn host_stream_is_idle(&self, stream: Stream) -> Option<bool> {
        // SAFETY: the function takes any number.
        self.0.stream_query.map(|query| unsafe { query(stream.as_raw().addr()) } == 1)
    }
}
