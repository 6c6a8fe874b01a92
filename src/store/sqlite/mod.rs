//! Sessions in one SQLite file: the default store.
//!
//! One thread writes. It takes all waiting writes, commits them as one transaction with one fsync,
//! and then answers them. A few connections read. Each reads a consistent snapshot and waits for no
//! writer, since the file is in WAL mode.
//!
//! An embedded key-value store was half as fast in this use, and operators could not open its file
//! with a common tool.

mod append;
mod backup;
mod durability;
mod failure;
mod file;
mod lock;
mod reader;
mod room;
mod rows;
mod schema;
mod sessions;
mod spent;
mod sweep;
mod transfer;
mod wal;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction};

use super::OpenError;
use crate::session::{
    Answered, AppendLimits, Appended, Checkpoint, Checkpointed, FoundSession, Head, Lease,
    ListCursor, ListedSession, NewReply, NewSession, NewTurn, NodeId, Page, Result, Session,
    SessionId, Share, ShareOf, Snapshot, Store, Swept, Timestamp, TokenHash, TokenId, TokenRecord,
    Turns, Unfinished,
};
pub use backup::BackupSummary;
pub use durability::Durability;
pub use file::SqliteFile;
use {failure::FailureSignal, reader::Readers, writer::Writer};

/// A store in one file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    max_sessions: u64,
    /// 0: no limit.
    max_file_size: u64,
    /// See [`schema::data_version`].
    data_version: AtomicI64,
    trust: FailureSignal,
}

impl SqliteStore {
    /// Opens the file. Creates it and its folder if they do not exist.
    ///
    /// # Errors
    /// One sentence for the operator: the folder cannot be written, another process uses the file,
    /// or the file is damaged, has a newer version, or is not a store.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let opened = schema::open(path, durability)?;
        let data_version = schema::data_version(&opened.connection)
            .map_err(|error| OpenError::new(path, schema::explain(&error)))?;
        let trust = FailureSignal::new();
        let readers = Readers::open(path, trust.clone(), Arc::clone(&opened.lock))?;
        let writer = Writer::start(opened, trust.clone());
        let writer = writer.map_err(|error| OpenError::new(path, error))?;
        let (max_sessions, data_version) = (u64::MAX, AtomicI64::new(data_version));
        let (path, max_file_size) = (path.to_owned(), 0);
        Ok(Self { path, writer, readers, max_sessions, max_file_size, data_version, trust })
    }

    /// Limits the sessions that the store keeps. Beyond the limit a new one is refused.
    #[must_use]
    pub fn with_room(mut self, max_sessions: u64) -> Self {
        self.max_sessions = max_sessions;
        self
    }

    /// Limits the bytes of the file. Beyond the limit, new sessions and messages are refused; replies
    /// are not. 0: no limit.
    #[must_use]
    pub fn with_file_size(mut self, max_file_size: u64) -> Self {
        self.max_file_size = max_file_size;
        self
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create(&self, new: NewSession) -> Result<()> {
        let (max_sessions, max_file_size) = (self.max_sessions, self.max_file_size);
        let create = move |tx: &Transaction<'_>| {
            room::check(tx, max_file_size, 0)?;
            sessions::create(tx, &new, max_sessions)
        };
        self.writer.write(create).await
    }

    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession> {
        let token = *token;
        self.readers.read(move |db| reader::find(db, &token, now)).await
    }

    async fn issue(
        &self,
        id: SessionId,
        now: Timestamp,
        token: TokenRecord,
        max_tokens: u32,
    ) -> Result<()> {
        self.writer.write(move |tx| sessions::issue(tx, id, now, &token, max_tokens)).await
    }

    async fn revoke_token(&self, id: SessionId, now: Timestamp, token: TokenId) -> Result<u32> {
        self.writer.write(move |tx| sessions::revoke_token(tx, id, now, token)).await
    }

    async fn renew(
        &self,
        id: SessionId,
        token: TokenId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Session> {
        self.writer.write(move |tx| sessions::renew(tx, id, token, now, expires_at)).await
    }

    async fn secret(&self) -> Result<[u8; 32]> {
        let sql = "SELECT value FROM secrets WHERE name = 'origin'";
        self.readers.read(move |db| Ok(db.query_row(sql, [], |row| row.get(0))?)).await
    }

    async fn share(&self, of: &ShareOf, now: Timestamp) -> Result<Share> {
        let of = of.clone();
        self.readers.read(move |db| Ok(reader::share(db, &of, now)?)).await
    }

    async fn list(
        &self,
        subject: &str,
        now: Timestamp,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<Vec<ListedSession>> {
        let subject = subject.to_owned();
        self.readers.read(move |db| Ok(reader::list(db, &subject, now, after, limit)?)).await
    }

    async fn set_title(
        &self,
        id: SessionId,
        now: Timestamp,
        title: Option<Arc<str>>,
    ) -> Result<Session> {
        self.writer.write(move |tx| sessions::set_title(tx, id, now, title)).await
    }

    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()> {
        self.writer.write(move |tx| sessions::revoke(tx, id, now)).await
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept> {
        // An empty transaction would cost the writer a commit twice a second.
        if !self.readers.read(move |db| Ok(reader::has_work_for_sweep(db, now)?)).await? {
            return Ok(Swept::default());
        }
        self.writer.write(move |tx| sweep::sweep(tx, now, limit)).await
    }

    async fn tokens(&self, id: SessionId, now: Timestamp) -> Result<Vec<TokenRecord>> {
        let read = move |db: &Connection| {
            reader::session(db, id, now)?;
            let mut tokens = reader::tokens(db, id)?;
            tokens.retain(|token| !token.has_expired(now));
            Ok(tokens)
        };
        self.readers.read(read).await
    }

    async fn written_elsewhere(&self) -> Result<bool> {
        let version = self.writer.inspect(schema::data_version).await?;
        Ok(self.data_version.swap(version, Ordering::Relaxed) != version)
    }

    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>> {
        let sessions = sessions.to_vec();
        self.readers.read(move |db| Ok(reader::heads(db, &sessions, now)?)).await
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        self.readers.read(move |db| reader::read(db, id, now, page)).await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    async fn failed(&self) -> crate::session::Error {
        self.trust.lost().await
    }
}

#[async_trait]
impl Turns for SqliteStore {
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended> {
        let max = self.max_file_size;
        self.writer.write(move |tx| append::append(tx, id, &turn, &limits, max)).await
    }

    async fn answer(
        &self,
        id: SessionId,
        _: Lease,
        reply: NewReply,
        now: Timestamp,
    ) -> Result<Answered> {
        let answer = move |tx: &Transaction<'_>| append::answer(tx, id, &reply, now);
        self.writer.write(answer).await.map(Answered::Kept)
    }

    async fn checkpoint(
        &self,
        id: SessionId,
        _: Lease,
        at: Checkpoint,
        now: Timestamp,
    ) -> Result<Checkpointed> {
        self.writer.write(move |tx| sessions::checkpoint(tx, id, now, &at)).await?;
        Ok(Checkpointed::Done)
    }

    /// The core holds every lease and stops turns itself.
    async fn stop(&self, _: SessionId, _: Option<u32>, _: Timestamp) -> Result<bool> {
        Ok(false)
    }

    async fn unanswered(&self, id: SessionId, now: Timestamp) -> Result<Vec<Unfinished>> {
        let read = move |db: &Connection| {
            reader::session(db, id, now)?;
            reader::unfinished(db, now, (id, 0)..=(id, u32::MAX), usize::MAX)
        };
        self.readers.read(read).await
    }

    async fn hand_over(&self, _: SessionId, _: Lease, _: NodeId, _: Timestamp) -> Result<bool> {
        Ok(false)
    }

    async fn take_over(
        &self,
        _: Option<NodeId>,
        after: Option<(SessionId, u32)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unfinished>> {
        let first = after.map_or((SessionId::from_bytes([0; 16]), 0), |(id, seq)| (id, seq + 1));
        let last = (SessionId::from_bytes([0xff; 16]), u32::MAX);
        self.readers.read(move |db| reader::unfinished(db, now, first..=last, limit)).await
    }
}
