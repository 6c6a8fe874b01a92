//! The gRPC codec of the servers.
//!
//! tonic's own codec encodes each response for its stream. A frame of a conversation may go to many
//! subscribers and has been encoded once for all of them. The codec also allocates smaller
//! buffers: tonic reserves 16 KiB for each stream, idle or not.

use std::{fmt, marker::PhantomData};

use bytes::{BufMut as _, Bytes};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Bytes that a stream allocates at a time.
const BUFFER_SIZE: usize = 1024;

/// Bytes that a stream gathers before it yields, as in tonic.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// A `ChatResponse` that is encoded already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame(pub Bytes);

/// A response that the codec can write.
pub trait WireEncode {
    /// Writes the message.
    ///
    /// # Errors
    /// The buffer is too small, which tonic's is not.
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status>;
}

impl<M: prost::Message> WireEncode for M {
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl WireEncode for EncodedFrame {
    fn write(self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(self.0);
        Ok(())
    }
}

/// Encodes responses of type `T` and decodes requests of type `U`.
pub struct FrameCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> fmt::Debug for FrameCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrameCodec")
    }
}

impl<T, U> Default for FrameCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for FrameCodec<T, U>
where
    T: WireEncode + Send + 'static,
    U: prost::Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: WireEncode, U> Encoder for FrameCodec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.write(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD)
    }
}

impl<T, U: prost::Message + Default> Decoder for FrameCodec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD)
    }
}
