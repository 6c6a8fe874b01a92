//! What answers.

mod backoff;
mod failure;
pub mod grpc;
mod limiter;
mod metrics;
pub mod openai;
mod redact;
mod sanitize;
mod settings;
mod simulated;
mod tls_roots;

pub use failure::Reason;
pub use limiter::Capacity;
pub use settings::{Settings, connect};
pub use simulated::Simulated;
