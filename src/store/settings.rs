//! Settings of the stores.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use super::{
    Durability, MemoryStore, OpenError, RedisSessions, RedisSettings, RedisStore, RedisUrl,
    SqliteFile, SqliteStore, StoredSessions,
};
use crate::session::Storage;

/// The schemes of addresses of servers.
const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// A store by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// In the memory of the process.
    Memory {
        /// Largest number of sessions.
        max_sessions: usize,
        /// Largest number of bytes of messages.
        max_size: usize,
    },
    /// In one SQLite file, which is created if it does not exist.
    Sqlite {
        /// Path of the file.
        path: PathBuf,
        /// When an acknowledged write is on disk.
        durability: Durability,
        /// Largest number of sessions.
        max_sessions: usize,
        /// Bytes of the file beyond which nothing new is accepted. 0: no limit.
        max_file_size: u64,
    },
    /// In Redis or Valkey, for several gateways.
    Redis {
        /// The servers.
        servers: RedisSettings,
        /// Largest number of sessions.
        max_sessions: usize,
    },
}

impl Settings {
    /// Default limit of sessions.
    pub const MAX_SESSIONS: usize = 1_000_000;

    /// Default limit of the memory store, in bytes of messages.
    pub const MAX_SIZE: usize = 1 << 30;

    /// Default limit of the SQLite file, in bytes.
    pub const MAX_FILE_SIZE: u64 = 64 << 30;

    fn sqlite(path: impl Into<PathBuf>) -> Self {
        let (durability, max_sessions) = (Durability::Full, Self::MAX_SESSIONS);
        let max_file_size = Self::MAX_FILE_SIZE;
        Self::Sqlite { path: path.into(), durability, max_sessions, max_file_size }
    }

    /// Sets the limits: sessions, bytes of messages in memory, and bytes of the file.
    #[must_use]
    pub fn bounded(self, max_sessions: usize, max_size: usize, max_file_size: u64) -> Self {
        match self {
            Self::Memory { .. } => Self::Memory { max_sessions, max_size },
            Self::Sqlite { path, durability, .. } => {
                Self::Sqlite { path, durability, max_sessions, max_file_size }
            }
            Self::Redis { servers, .. } => Self::Redis { servers, max_sessions },
        }
    }

    /// Sets everything but the address of a store on a server.
    #[must_use]
    pub fn on_servers(self, settings: RedisSettings) -> Self {
        match self {
            Self::Memory { .. } | Self::Sqlite { .. } => self,
            Self::Redis { servers: RedisSettings { url, .. }, max_sessions } => {
                Self::Redis { servers: RedisSettings { url, ..settings }, max_sessions }
            }
        }
    }

    /// Sets the durability of a store on disk.
    #[must_use]
    pub fn durable(self, durability: Durability) -> Self {
        match self {
            Self::Memory { .. } | Self::Redis { .. } => self,
            Self::Sqlite { path, max_sessions, max_file_size, .. } => {
                Self::Sqlite { path, durability, max_sessions, max_file_size }
            }
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::sqlite("data/duologue.db")
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { .. } => f.write_str("memory"),
            Self::Sqlite { path, .. } => write!(f, "sqlite:{}", path.display()),
            Self::Redis { servers, .. } => servers.url.fmt(f),
        }
    }
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => {
                Ok(Self::Memory { max_sessions: Self::MAX_SESSIONS, max_size: Self::MAX_SIZE })
            }
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::sqlite(path)),
            Some((scheme, rest)) if SCHEMES.contains(&scheme) && rest.len() > "//".len() => {
                Ok(Self::Redis {
                    servers: RedisSettings::new(RedisUrl::new(text.to_owned())),
                    max_sessions: Self::MAX_SESSIONS,
                })
            }
            _ => Err("unknown store: this version has `memory`, `sqlite:PATH`, \
                `redis://HOST:PORT`, `redis+sentinel://HOST:PORT,…/NAME` and \
                `redis+cluster://HOST:PORT,…`, each also with `rediss`"
                .into()),
        }
    }
}

/// How a command of the operator uses a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It reads.
    Read,
    /// It changes what exists.
    Change,
    /// It creates the store if it does not exist.
    Make,
}

/// Opens the sessions of a store beside its gateways.
///
/// # Errors
/// One sentence for the operator. A store in memory has no other user than its gateway.
pub fn open_beside(settings: &Settings, usage: Use) -> Result<Box<dyn StoredSessions>, OpenError> {
    Ok(match settings {
        Settings::Memory { .. } => {
            let problem = "it has no file, and ends with its gateway";
            return Err(OpenError::of_server("the store `memory`", problem));
        }
        Settings::Redis { servers, .. } => Box::new(RedisSessions::open(servers)?),
        Settings::Sqlite { path, .. } => Box::new(match usage {
            Use::Read => SqliteFile::open(path)?,
            Use::Change => SqliteFile::open_for_changes(path)?,
            Use::Make => SqliteFile::open_or_make(path)?,
        }),
    })
}

/// Opens the store.
///
/// # Errors
/// One sentence for the operator.
pub async fn open(settings: &Settings) -> Result<Storage, OpenError> {
    Ok(match settings {
        Settings::Memory { max_sessions, max_size } => {
            Storage::unshared(Arc::new(MemoryStore::new(*max_sessions, *max_size)))
        }
        Settings::Sqlite { path, durability, max_sessions, max_file_size } => {
            let max_sessions = u64::try_from(*max_sessions).unwrap_or(u64::MAX);
            let store = SqliteStore::open(path, *durability)?;
            let store = store.with_room(max_sessions).with_file_size(*max_file_size);
            Storage::unshared(Arc::new(store))
        }
        Settings::Redis { servers, max_sessions } => {
            let max_sessions = u64::try_from(*max_sessions).unwrap_or(u64::MAX);
            Storage::shared(RedisStore::open(servers, max_sessions).await?)
        }
    })
}
