//! What answers.

pub mod grpc;
pub mod openai;
mod settings;
mod simulated;

pub use settings::{Settings, connect};
pub use simulated::Simulated;
