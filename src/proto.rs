//! The wire contract, generated from `proto/duologue/v1/`: messages, their canonical proto-JSON
//! form, the services of the gateway and of a bot, and clients for both.

// The lints are not for generated code.
#![expect(clippy::all, clippy::allow_attributes, reason = "generated")]

pub mod frame;
pub mod messages;
pub mod parts;
pub mod timestamp;

tonic::include_proto!("duologue.v1");

// The servers.
include!(concat!(env!("OUT_DIR"), "/servers/duologue.v1.rs"));

// The proto-JSON form.
include!(concat!(env!("OUT_DIR"), "/duologue.v1.serde.rs"));

/// The encoded `FileDescriptorSet` of the gateway's services, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/duologue_descriptor.bin"));
