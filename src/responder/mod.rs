//! What answers.

pub mod grpc;
mod settings;
mod simulated;

pub use settings::{Settings, connect};
pub use simulated::Simulated;
