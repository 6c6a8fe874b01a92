//! Where sessions and their logs are kept.

mod memory;
mod settings;
mod sqlite;

pub use memory::MemoryStore;
pub use settings::{Settings, open};
pub use sqlite::{
    Copied, Durability, Filter, Import, OpenError, SqliteFile, SqliteStore, StoredLog,
    StoredSession, Waiting,
};
