//! Where sessions and their logs are kept.

mod memory;
mod settings;

pub use memory::MemoryStore;
pub use settings::{Settings, open};
