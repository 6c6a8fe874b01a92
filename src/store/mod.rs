//! The stores: they keep sessions and their logs.

mod memory;
mod open_error;
mod redis;
mod redis_settings;
mod redis_url;
mod settings;
mod sqlite;
mod stored;

pub use memory::{MemoryStore, Network};
pub use open_error::OpenError;
pub use redis::{RedisSessions, RedisStore};
pub use redis_settings::{Acknowledgement, RedisSettings};
pub use redis_url::RedisUrl;
pub use settings::{Settings, Use, open, open_beside};
pub use sqlite::{BackupSummary, Durability, SqliteFile, SqliteStore};
pub use stored::{Import, SessionFilter, StoredLog, StoredSession, StoredSessions, UnansweredTurn};
