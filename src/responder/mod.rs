//! What answers.

mod failure;
pub mod grpc;
pub mod openai;
mod settings;
mod simulated;

pub use failure::Reason;
pub use settings::{Settings, connect};
pub use simulated::Simulated;
