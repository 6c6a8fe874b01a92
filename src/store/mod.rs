//! The stores: they keep sessions and their logs.

mod memory;
mod open_error;
mod redis;
mod redis_settings;
mod redis_url;
mod settings;
mod sqlite;

pub use memory::{MemoryStore, Network};
pub use open_error::OpenError;
pub use redis::RedisStore;
pub use redis_settings::{Acknowledgement, RedisSettings};
pub use redis_url::RedisUrl;
pub use settings::{Settings, open};
pub use sqlite::{
    BackupSummary, Durability, Import, SessionFilter, SqliteFile, SqliteStore, StoredLog,
    StoredSession, UnansweredTurn,
};
