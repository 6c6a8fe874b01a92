//! Sessions in the memory of the process: for tests, demonstrations, and conversations that need
//! not outlive the process.

mod peers;
mod row;
mod sharing;
mod spent;
mod turns;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
pub use sharing::Network;
use tokio::time::Instant;
use {row::SessionRow, sharing::Member, spent::SpentToday};

use crate::session::{
    Error, ErrorKind, FoundSession, Head, ListCursor, ListedSession, NewSession, NodeId, Note,
    Origin, Page, Result, Session, SessionId, Share, ShareOf, Snapshot, Store, Swept, Timestamp,
    TokenHash, TokenId, TokenRecord,
};

/// A store in memory. A write counts as durable once it is in memory.
///
/// Several gateways of one process can share it, each as a node of its own: see
/// [`MemoryStore::join`].
#[derive(Debug)]
pub struct MemoryStore {
    max_sessions: usize,
    max_size: usize,
    secret: [u8; 32],
    // A std mutex: every operation is short and awaits nothing.
    tables: Arc<Mutex<Tables>>,
    /// `None` if the store is not shared.
    member: Option<Member>,
}

#[derive(Debug, Default)]
struct Tables {
    sessions: BTreeMap<SessionId, SessionRow>,
    tokens: HashMap<TokenHash, SessionId>,
    /// The sessions of each subject.
    owned: HashMap<Arc<str>, BTreeSet<SessionId>>,
    /// The sessions without an owner, by their origin.
    origins: HashMap<Origin, BTreeSet<SessionId>>,
    /// The time at which each session is checked for expiry. A renewal does not move it: the check
    /// may be too early, and then sets the next one.
    reviews: BTreeSet<(Timestamp, SessionId)>,
    size: usize,
    spent: SpentToday,
    /// The time of each node's last heartbeat, and whether it drains.
    heartbeats: HashMap<NodeId, (Instant, bool)>,
}

impl MemoryStore {
    /// Returns an empty store for `max_sessions` sessions and `max_size` bytes of messages.
    #[must_use]
    pub fn new(max_sessions: usize, max_size: usize) -> Self {
        let secret = rand::random();
        Self { max_sessions, max_size, secret, tables: Arc::default(), member: None }
    }

    /// Returns the same store as another node sees it. The nodes that have joined fence their
    /// turns, and tell each other of changes over the network.
    #[must_use]
    pub fn join(&self, node: NodeId, network: Arc<dyn Network>) -> Self {
        let member = Some(Member { node, network });
        let Self { max_sessions, max_size, secret, .. } = *self;
        Self { max_sessions, max_size, secret, tables: Arc::clone(&self.tables), member }
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
            return Err(NewSession::no_room(tables.reviews.first().map(|(at, _)| *at)));
        }
        let id = new.session.id;
        tables.tokens.insert(new.token.hash, id);
        if let Some(subject) = &new.session.subject {
            tables.owned.entry(Arc::clone(subject)).or_default().insert(id);
        }
        if let Some(origin) = new.origin {
            tables.origins.entry(origin).or_default().insert(id);
        }
        let row = SessionRow::new(new);
        tables.reviews.insert((row.review_at, id));
        tables.sessions.insert(id, row);
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
        let deadline = token.deadlines.map(|(expires_at, _)| expires_at);
        let expired = tables.row(id, now)?.issue(token, now, max_tokens)?;
        for token in expired {
            tables.tokens.remove(&token);
        }
        tables.tokens.insert(hash, id);
        tables.review_tokens(id, deadline);
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

    async fn renew(
        &self,
        id: SessionId,
        token: TokenId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Session> {
        self.tables().row(id, now)?.renew(token, now, expires_at)
    }

    async fn secret(&self) -> Result<[u8; 32]> {
        Ok(self.secret)
    }

    async fn share(&self, of: &ShareOf, now: Timestamp) -> Result<Share> {
        let tables = self.tables();
        let ids = match of {
            ShareOf::Subject(subject) => tables.owned.get(subject),
            ShareOf::Origin(origin) => tables.origins.get(origin),
        };
        let rows = ids.into_iter().flatten().filter_map(|id| tables.sessions.get(id));
        let live = rows.filter(|row| row.session.expires_at > now);
        Ok(live.fold(Share::default(), |share, row| Share {
            sessions: share.sessions + 1,
            size: share.size + row.message_size as u64,
        }))
    }

    async fn list(
        &self,
        subject: &str,
        now: Timestamp,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<Vec<ListedSession>> {
        let tables = self.tables();
        let owned = tables.owned.get(subject).into_iter().flatten().filter_map(|id| {
            let row = tables.sessions.get(id).filter(|row| row.session.expires_at > now)?;
            Some((ListCursor { active_at: row.active_at(), session: *id }, row))
        });
        let mut places: Vec<_> =
            owned.filter(|(place, _)| after.is_none_or(|after| *place < after)).collect();
        places.sort_unstable_by_key(|(place, _)| Reverse(*place));
        Ok(places.iter().take(limit as usize).map(|(_, row)| row.listed()).collect())
    }

    async fn set_title(
        &self,
        id: SessionId,
        now: Timestamp,
        title: Option<Arc<str>>,
    ) -> Result<Session> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        row.session.title = title;
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
                    let expired = row.remove_expired_tokens(now);
                    row.review_at = row.next_deadline();
                    let review = (row.review_at, id);
                    for token in expired {
                        tables.tokens.remove(&token);
                    }
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
        let mut tables = self.tables();
        let tokens = tables.row(id, now)?.tokens.iter();
        Ok(tokens.filter(|token| !token.has_expired(now)).cloned().collect())
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

/// Removes a session from an index.
fn forget<K: Eq + Hash>(index: &mut HashMap<K, BTreeSet<SessionId>>, key: &K, id: SessionId) {
    if let Some(sessions) = index.get_mut(key) {
        sessions.remove(&id);
        if sessions.is_empty() {
            index.remove(key);
        }
    }
}

impl Tables {
    fn row(&mut self, id: SessionId, now: Timestamp) -> Result<&mut SessionRow> {
        row::live(&mut self.sessions, id, now)
    }

    /// Checks a session early enough for the deadline of a new token.
    fn review_tokens(&mut self, id: SessionId, deadline: Option<Timestamp>) {
        if let (Some(deadline), Some(row)) = (deadline, self.sessions.get_mut(&id))
            && deadline < row.review_at
        {
            self.reviews.remove(&(row.review_at, id));
            row.review_at = deadline;
            self.reviews.insert((deadline, id));
        }
    }

    /// Removes a session whose entry in `reviews` is removed already.
    fn remove(&mut self, id: SessionId) {
        let Some(row) = self.sessions.remove(&id) else { return };
        if let Some(subject) = &row.session.subject {
            forget(&mut self.owned, subject, id);
        }
        if let Some(origin) = &row.origin {
            forget(&mut self.origins, origin, id);
        }
        for token in &row.tokens {
            self.tokens.remove(&token.hash);
        }
        self.size -= row.size();
    }
}
