//! REST: the calls of the tutorial's service, with the same answers byte for byte, and the calls
//! that clients without a stream need.

mod body;
pub(in crate::transport) mod documentation;
mod log_entry;
pub(in crate::transport) mod message;
pub(in crate::transport) mod probe;
mod schema;
pub(in crate::transport) mod sessions;
mod timestamp;
pub(in crate::transport) mod token;
