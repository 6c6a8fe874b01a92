//! Parts that the responders with an upstream share: limits, retries, failures, and the sanitizing
//! of foreign text.

pub(super) mod backoff;
mod failure;
pub(super) mod limiter;
pub(super) mod metrics;
pub(super) mod redact;
pub(super) mod sanitize;
pub(super) mod timeouts;
pub(super) mod tls_roots;

pub(in crate::responder) use failure::Effect;
pub use failure::Reason;
pub use limiter::Capacity;
