//! What answers.

mod admission;
mod authorities;
mod discretion;
mod failure;
pub mod grpc;
mod metrics;
pub mod openai;
mod retry;
mod settings;
mod simulated;
mod words;

pub use admission::Capacity;
pub use failure::Reason;
pub use settings::{Settings, connect};
pub use simulated::Simulated;
