//! The stores: they keep sessions and their logs.

mod memory;
mod settings;
mod sqlite;

pub use memory::{MemoryStore, Network};
pub use settings::{Settings, open};
pub use sqlite::{
    BackupSummary, Durability, Import, OpenError, SessionFilter, SqliteFile, SqliteStore,
    StoredLog, StoredSession, UnansweredTurn,
};
