//! x
#[expect(missing_docs)]
pub mod proto { tonic::include_proto!("duologue.v1"); include!(concat!(env!("OUT_DIR"), "/duologue.v1.serde.rs")); }
