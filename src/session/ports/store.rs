//! The port for components that store sessions and their logs.

use std::sync::Arc;

use async_trait::async_trait;

use crate::session::model::{
    Epoch, Error, Message, Position, Result, Session, SessionId, Timestamp, TokenHash, TokenId,
    TokenRecord, Usage,
};

/// A session to store, with its first token.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The session.
    pub session: Session,
    /// Its token.
    pub token: TokenRecord,
}

/// A session and the token that opened it.
#[derive(Clone, Debug)]
pub struct FoundSession {
    /// The session. Its deadlines are those of the token.
    pub session: Session,
    /// The token.
    pub token: TokenRecord,
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only messages after this number, oldest first. `None`: the newest ones.
    pub after: Option<u32>,
    /// No message after this number.
    pub until: u32,
    /// Most messages.
    pub limit: u32,
    /// Most bytes, but at least one message if `limit` allows it.
    pub max_size: usize,
}

impl Page {
    /// No message, only the session and the head of its log.
    pub const HEAD: Self = Self { after: None, until: u32::MAX, limit: 0, max_size: 0 };
}

/// One consistent look at a session.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The session.
    pub session: Session,
    /// A part of its log, in order.
    pub messages: Vec<Arc<Message>>,
    /// Number of the last message of the whole log.
    pub head_seq: u32,
    /// Tokens of all replies of the log: the sum of [`Message::cost`].
    pub usage: Usage,
    /// The limits of the page left messages out.
    pub has_more: bool,
}

impl Snapshot {
    /// Returns the end of the log: a subscription from here receives what the log does not hold
    /// yet.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.session.epoch.clone(), self.head_seq)
    }
}

/// The result of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The deleted sessions.
    pub sessions: Vec<SessionId>,
    /// There may be more to sweep.
    pub more: bool,
}

/// The head of a session's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The session.
    pub session: SessionId,
    /// The incarnation of its log.
    pub epoch: Epoch,
    /// Sequence number of its last message; 0 if there is none.
    pub seq: u32,
}

/// Stores sessions and their logs. [`Turns`](super::Turns) appends to the logs.
///
/// Every operation is atomic and durable when it returns, in the sense of the store. A session
/// whose deadline has passed does not exist for any operation, swept or not.
/// `tests/store_contract.rs` tests each implementation.
///
/// # Errors
/// Every operation can fail with `Internal`, and with `SessionExpired` if its session does not
/// exist. Other kinds are listed at the operations.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a new session. `Overloaded` or `StoreFull` if there is no room.
    async fn create(&self, new: NewSession) -> Result<()>;

    /// Returns the session that a token opens.
    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession>;

    /// Adds a token to a session. `max_tokens` limits the tokens of a session: `Overloaded`
    /// beyond it.
    async fn issue(
        &self,
        id: SessionId,
        now: Timestamp,
        token: TokenRecord,
        max_tokens: u32,
    ) -> Result<()>;

    /// Deletes a token of a session. Returns the number of tokens that are left.
    async fn revoke_token(&self, id: SessionId, now: Timestamp, token: TokenId) -> Result<u32>;

    /// Moves the idle deadline of a session to `expires_at`, never back and never beyond its end.
    /// Returns the session with its new deadline.
    async fn renew(&self, id: SessionId, now: Timestamp, expires_at: Timestamp) -> Result<Session>;

    /// Deletes a session with its tokens and its log.
    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()>;

    /// Deletes up to `limit` sessions whose deadline has passed. May stop earlier, so that other
    /// operations are not delayed.
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept>;

    /// Returns the tokens of a session.
    async fn tokens(&self, id: SessionId, now: Timestamp) -> Result<Vec<TokenRecord>>;

    /// Returns true if another process has written to the store since the last call. Must be
    /// cheap: it is called twice a second.
    async fn written_elsewhere(&self) -> Result<bool>;

    /// Returns the heads of those of the given sessions that exist, in one consistent read.
    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>>;

    /// Returns the session, a page of its log, and its head, from one consistent snapshot.
    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot>;

    /// Closes the store before the process ends. Nothing is written afterwards.
    async fn close(&self) -> Result<()>;

    /// Waits for the final failure of the store. The process must then end: its state may differ
    /// from that of the store.
    async fn failed(&self) -> Error;
}
