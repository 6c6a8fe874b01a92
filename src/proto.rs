//! The wire contract, generated from `proto/duologue/v1/chat.proto`: messages, their
//! canonical proto-JSON form, the service, and a client for it.

// Generated code is not held to the lints of ours.
#![expect(clippy::all, clippy::allow_attributes, reason = "generated")]

pub mod timestamp;

tonic::include_proto!("duologue.v1");

// Its proto-JSON.
include!(concat!(env!("OUT_DIR"), "/duologue.v1.serde.rs"));

/// The encoded `FileDescriptorSet` of the contract, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/duologue_descriptor.bin"));
