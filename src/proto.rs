//! The wire contract, generated from `proto/duologue/v1/`: messages, their canonical
//! proto-JSON form, the service that the gateway serves and the one that a bot does, and
//! clients for both.

// Generated code is not held to the lints of ours.
#![expect(clippy::all, clippy::allow_attributes, reason = "generated")]

mod message;
pub mod timestamp;

tonic::include_proto!("duologue.v1");

// Its proto-JSON.
include!(concat!(env!("OUT_DIR"), "/duologue.v1.serde.rs"));

/// The encoded `FileDescriptorSet` of what the gateway serves, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/duologue_descriptor.bin"));
