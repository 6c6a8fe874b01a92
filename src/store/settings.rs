//! Which store, and how large.

use std::{fmt, str::FromStr, sync::Arc};

use super::MemoryStore;
use crate::session::Store;

/// A store by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// In the process's memory: gone with it.
    Memory {
        /// Sessions at most.
        max_sessions: usize,
        /// Bytes of messages at most.
        max_size: usize,
    },
}

impl Settings {
    /// Bounds what a memory store may hold.
    #[must_use]
    pub fn bounded(self, max_sessions: usize, max_size: usize) -> Self {
        match self {
            Self::Memory { .. } => Self::Memory { max_sessions, max_size },
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::Memory { max_sessions: 1_000_000, max_size: 1 << 30 }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { .. } => f.write_str("memory"),
        }
    }
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::default()),
            _ => Err(String::from("unknown store: this version has `memory`")),
        }
    }
}

/// Opens the store.
#[must_use]
pub fn open(settings: &Settings) -> Arc<dyn Store> {
    match *settings {
        Settings::Memory { max_sessions, max_size } => {
            Arc::new(MemoryStore::new(max_sessions, max_size))
        }
    }
}
