//! Responders: produce replies to user messages.

pub mod grpc;
pub mod openai;
mod settings;
mod simulated;
mod upstream;

pub use settings::{Settings, connect};
pub use simulated::Simulated;
pub use upstream::{Capacity, Reason};
