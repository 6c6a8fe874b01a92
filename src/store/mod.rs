//! Where sessions and their logs are kept.

mod memory;
mod settings;
mod sqlite;

pub use memory::MemoryStore;
pub use settings::{Settings, open};
pub use sqlite::{
    BackupSummary, Durability, Import, OpenError, SessionFilter, SqliteFile, SqliteStore,
    StoredLog, StoredSession, UnansweredTurn,
};
