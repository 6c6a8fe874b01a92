//! Sessions in the memory of the process: for tests, demonstrations, and conversations that need
//! not outlive the process.

mod row;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use row::SessionRow;

use crate::session::{
    AppendLimits, Appended, Checkpoint, Error, ErrorKind, FoundSession, Head, NewReply, NewSession,
    NewTurn, Page, Placed, Result, Session, SessionId, Snapshot, Store, Swept, Timestamp,
    TokenHash, TokenId, TokenRecord, Unfinished, place,
};

/// A store in memory. A write counts as durable once it is in memory.
#[derive(Debug)]
pub struct MemoryStore {
    max_sessions: usize,
    max_size: usize,
    // A std mutex: every operation is short and awaits nothing.
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    sessions: BTreeMap<SessionId, SessionRow>,
    tokens: HashMap<TokenHash, SessionId>,
    /// The time at which each session is checked for expiry. A renewal does not move it: the check
    /// may be too early, and then sets the next one.
    reviews: BTreeSet<(Timestamp, SessionId)>,
    size: usize,
}

impl MemoryStore {
    /// Returns an empty store for `max_sessions` sessions and `max_size` bytes of messages.
    #[must_use]
    pub fn new(max_sessions: usize, max_size: usize) -> Self {
        Self { max_sessions, max_size, tables: Mutex::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, new: NewSession) -> Result<()> {
        let mut tables = self.tables();
        if tables.sessions.len() >= self.max_sessions {
            return Err(Error::new(
                ErrorKind::Overloaded,
                "The gateway has no room for more sessions",
            ));
        }
        let id = new.session.id;
        tables.tokens.insert(new.token.hash, id);
        tables.reviews.insert((new.session.expires_at, id));
        tables.sessions.insert(id, SessionRow::new(new));
        Ok(())
    }

    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession> {
        let mut tables = self.tables();
        let id = tables.tokens.get(token).copied().ok_or(ErrorKind::SessionExpired)?;
        tables.row(id, now)?.found(token, now)
    }

    async fn issue(
        &self,
        id: SessionId,
        now: Timestamp,
        token: TokenRecord,
        max_tokens: u32,
    ) -> Result<()> {
        let mut tables = self.tables();
        let hash = token.hash;
        tables.row(id, now)?.issue(token, max_tokens)?;
        tables.tokens.insert(hash, id);
        Ok(())
    }

    async fn revoke_token(&self, id: SessionId, now: Timestamp, token: TokenId) -> Result<u32> {
        let mut tables = self.tables();
        let (hash, left) = tables.row(id, now)?.revoke(token)?;
        tables.tokens.remove(&hash);
        Ok(left)
    }

    async fn renew(&self, id: SessionId, now: Timestamp, expires_at: Timestamp) -> Result<Session> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        row.renew(expires_at);
        Ok(row.session.clone())
    }

    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()> {
        let mut tables = self.tables();
        let review = (tables.row(id, now)?.review_at, id);
        tables.reviews.remove(&review);
        tables.remove(id);
        Ok(())
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept> {
        let mut tables = self.tables();
        let mut sessions = Vec::new();
        for _ in 0..limit {
            let due = tables.reviews.first().copied().filter(|(at, _)| *at <= now);
            let Some(review @ (_, id)) = due else {
                return Ok(Swept { sessions, more: false });
            };
            tables.reviews.remove(&review);
            match tables.sessions.get_mut(&id) {
                Some(row) if row.session.expires_at > now => {
                    row.review_at = row.session.expires_at;
                    let review = (row.review_at, id);
                    tables.reviews.insert(review);
                }
                _ => {
                    tables.remove(id);
                    sessions.push(id);
                }
            }
        }
        Ok(Swept { sessions, more: true })
    }

    async fn written_elsewhere(&self) -> Result<bool> {
        Ok(false)
    }

    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>> {
        let mut tables = self.tables();
        let head = |id: &SessionId| tables.row(*id, now).ok().map(|row| row.head());
        Ok(sessions.iter().filter_map(head).collect())
    }

    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended> {
        let mut tables = self.tables();
        let size = tables.size;
        let row = tables.row(id, limits.now)?;
        let placed = match place(row, turn)? {
            Placed::New(placed) => placed,
            Placed::Before { message, reply_seq } => {
                let expires_at = row.session.expires_at;
                return Ok(Appended { message, duplicate: true, reply_seq, expires_at });
            }
        };
        row.check(&limits)?;
        if size + row::counted(placed.size()) > self.max_size {
            return Err(ErrorKind::StoreFull.into());
        }
        let message = row.ask(*placed);
        row.renew(limits.expires_at);
        let expires_at = row.session.expires_at;
        tables.size += row::counted(message.size());
        Ok(Appended { message, duplicate: false, reply_seq: None, expires_at })
    }

    async fn answer(&self, id: SessionId, reply: NewReply, now: Timestamp) -> Result<Appended> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        let (expires_at, user) = (row.session.expires_at, reply.fields.in_reply_to);
        if let Some(message) = row.answer(reply) {
            tables.size += row::counted(message.size());
            return Ok(Appended { message, duplicate: false, reply_seq: None, expires_at });
        }
        let missing = || Error::internal("a reply to no message of this log");
        let message = row.reply_of(user).cloned().ok_or_else(missing)?;
        Ok(Appended { message, duplicate: true, reply_seq: None, expires_at })
    }

    async fn checkpoint(&self, id: SessionId, now: Timestamp, at: Checkpoint) -> Result<()> {
        self.tables().row(id, now)?.checkpoint(at);
        Ok(())
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        Ok(self.tables().row(id, now)?.snapshot(page))
    }

    async fn unfinished(
        &self,
        now: Timestamp,
        after: Option<(SessionId, u32)>,
        limit: usize,
    ) -> Result<Vec<Unfinished>> {
        let tables = self.tables();
        let first = after.map_or(SessionId::from_bytes([0; 16]), |(id, _)| id);
        let rows = tables.sessions.range(first..).map(|(_, row)| row);
        let turns =
            rows.filter(|row| row.session.expires_at > now).flat_map(SessionRow::unfinished);
        let rest = turns
            .filter(|turn| after.is_none_or(|after| after < (turn.session.id, turn.message.seq)));
        Ok(rest.take(limit).collect())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Never returns: memory does not fail while the process lives.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }
}

impl Tables {
    fn row(&mut self, id: SessionId, now: Timestamp) -> Result<&mut SessionRow> {
        let row = self.sessions.get_mut(&id);
        row.filter(|row| row.session.expires_at > now)
            .ok_or_else(|| ErrorKind::SessionExpired.into())
    }

    /// Removes a session whose entry in `reviews` is removed already.
    fn remove(&mut self, id: SessionId) {
        let Some(row) = self.sessions.remove(&id) else { return };
        for token in &row.tokens {
            self.tokens.remove(&token.hash);
        }
        self.size -= row.size();
    }
}
