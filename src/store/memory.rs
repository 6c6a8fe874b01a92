//! Sessions in the memory of the process: for tests, demonstrations, and conversations that need
//! not outlive the process.

mod peers;
mod row;
mod sharing;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
pub use sharing::Network;
use {row::SessionRow, sharing::Member};

use crate::session::{
    Error, ErrorKind, FoundSession, Head, NewSession, NodeId, Note, Page, Result, Session,
    SessionId, Snapshot, Store, Swept, Timestamp, TokenHash, TokenId, TokenRecord,
};

/// A store in memory. A write counts as durable once it is in memory.
///
/// Several gateways of one process can share it, each as a node of its own: see
/// [`MemoryStore::join`].
#[derive(Debug)]
pub struct MemoryStore {
    max_sessions: usize,
    max_size: usize,
    // A std mutex: every operation is short and awaits nothing.
    tables: Arc<Mutex<Tables>>,
    /// `None` if the store is not shared.
    member: Option<Member>,
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
        Self { max_sessions, max_size, tables: Arc::default(), member: None }
    }

    /// Returns the same store as another node sees it. The nodes that have joined fence their
    /// turns, and tell each other of changes over the network.
    #[must_use]
    pub fn join(&self, node: NodeId, network: Arc<dyn Network>) -> Self {
        let member = Some(Member { node, network });
        let Self { max_sessions, max_size, .. } = *self;
        Self { max_sessions, max_size, tables: Arc::clone(&self.tables), member }
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
        let row = tables.row(id, now)?;
        let (hash, left) = row.revoke(token)?;
        self.tell_watchers(row, &Note::TokenRevoked(token));
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
        let row = tables.row(id, now)?;
        self.tell_watchers(row, &Note::Ended);
        let review = (row.review_at, id);
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

    async fn tokens(&self, id: SessionId, now: Timestamp) -> Result<Vec<TokenRecord>> {
        Ok(self.tables().row(id, now)?.tokens.clone())
    }

    async fn written_elsewhere(&self) -> Result<bool> {
        Ok(false)
    }

    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>> {
        let mut tables = self.tables();
        let head = |id: &SessionId| tables.row(*id, now).ok().map(|row| row.head());
        Ok(sessions.iter().filter_map(head).collect())
    }

    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot> {
        Ok(self.tables().row(id, now)?.snapshot(page))
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
