//! How messages become bytes: as tonic's own codec has it, with small buffers.
//!
//! A stream keeps its buffers for as long as it lives, and nearly all messages have less than 200 bytes. With tonic's 8 KiB each
//! message of a stream lies in other cache lines than the one before; a coordinator that answers a thousand trainers at once feels
//! that.

use tonic::Status;
use tonic::codec::{BufferSettings, Codec, Decoder, Encoder};
use tonic_prost::ProstCodec;

/// What a stream's buffers have at first; a larger message makes them grow.
const BUFFER: usize = 512;
/// Bytes that are handed on at once, as in tonic.
const HANDED_ON: usize = 32 << 10;

/// The codec of every call.
#[derive(Debug)]
pub struct SmallBuffers<T, U>(ProstCodec<T, U>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
    ProstCodec<T, U>: Codec<Encode = T, Decode = U>,
    <ProstCodec<T, U> as Codec>::Encoder: Encoder<Item = T, Error = Status>,
    <ProstCodec<T, U> as Codec>::Decoder: Decoder<Item = U, Error = Status>,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, HANDED_ON))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, HANDED_ON))
    }
}
