//! Sessions in one SQLite file: the default.
//!
//! One thread writes; it takes whatever waits, commits it as one transaction with one
//! fsync, and answers everybody then. A few connections read, each a consistent
//! snapshot, and wait for nobody (WAL). Not an embedded key-value store: half as fast
//! here, and nobody could open the file with a tool that every system has.

mod failure;
mod reader;
mod rows;
mod schema;
mod wal;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use async_trait::async_trait;

use crate::session::{
    Appended, Checkpoint, Entry, NewSession, Page, Result, Session, SessionId, Snapshot, Store,
    Swept, Terms, Timestamp, TokenHash, Unfinished,
};
pub use schema::OpenError;
use {failure::Trust, reader::Readers, writer::Writer};

/// When an acknowledged write is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged: it survives the loss of power.
    Full,
    /// Soon after: it survives the death of the process, but the last moments may be
    /// lost with the power.
    Relaxed,
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "relaxed" => Ok(Self::Relaxed),
            _ => Err("expected `full` or `relaxed`".into()),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Relaxed => "relaxed",
        })
    }
}

/// A store in one file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    trust: Trust,
}

impl SqliteStore {
    /// Opens the file, making it and its folder when absent.
    ///
    /// # Errors
    /// One sentence for the operator: the folder cannot be written, another process has
    /// the file, the file is damaged, newer, or something else.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let connection = schema::open(path, durability)?;
        let trust = Trust::new();
        let readers = Readers::open(path, trust.clone())?;
        let writer = Writer::start(connection, trust.clone());
        let writer = writer.map_err(|error| OpenError::new(path, error))?;
        Ok(Self { path: path.to_owned(), writer, readers, trust })
    }

    /// Where the sessions are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create(&self, new: NewSession) -> Result<()> {
        self.writer.write(move |tx| writer::create(tx, &new)).await
    }

    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<Session> {
        let token = *token;
        self.readers.read(move |db| reader::find(db, &token, now)).await
    }

    async fn renew(&self, id: SessionId, now: Timestamp, expires_at: Timestamp) -> Result<Session> {
        self.writer.write(move |tx| writer::renew(tx, id, now, expires_at)).await
    }

    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()> {
        self.writer.write(move |tx| writer::revoke(tx, id, now)).await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept> {
        self.writer.write(move |tx| writer::sweep(tx, now, limit)).await
    }

    async fn append(&self, id: SessionId, entry: Entry, terms: Terms) -> Result<Appended> {
        self.writer.write(move |tx| writer::append(tx, id, &entry, &terms)).await
    }

    async fn checkpoint(&self, id: SessionId, now: Timestamp, at: Checkpoint) -> Result<()> {
        self.writer.write(move |tx| writer::checkpoint(tx, id, now, &at)).await
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        self.readers.read(move |db| reader::read(db, id, now, page)).await
    }

    async fn unfinished(
        &self,
        now: Timestamp,
        after: Option<(SessionId, u32)>,
        limit: usize,
    ) -> Result<Vec<Unfinished>> {
        self.readers.read(move |db| reader::unfinished(db, now, after, limit)).await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    async fn failed(&self) -> crate::session::Error {
        self.trust.lost().await
    }
}
