//! The port for components that store sessions and their logs.

use std::sync::Arc;

use async_trait::async_trait;

use crate::session::model::{
    Epoch, Error, Message, MessageId, Position, Result, Role, Session, SessionId, Status,
    Timestamp, TokenHash, Usage,
};

/// A session to store, with the hash of its token.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The session.
    pub session: Session,
    /// The hash of its token.
    pub token: TokenHash,
}

/// An entry to append. The store assigns its number.
#[derive(Clone, Debug)]
pub enum NewEntry {
    /// A user message. Idempotent by `client_message_id`, if it has one.
    User {
        /// The id.
        id: MessageId,
        /// The text.
        text: Arc<str>,
        /// The id that the sender gave it.
        client_message_id: Option<Arc<str>>,
    },
    /// A reply. Idempotent by `in_reply_to`.
    Reply {
        /// The id.
        id: MessageId,
        /// The text.
        text: Arc<str>,
        /// The user message it answers.
        in_reply_to: MessageId,
        /// How it ended.
        status: Status,
        /// Why the responder ended.
        finish_reason: Option<Arc<str>>,
        /// The tokens of the reply.
        usage: Option<Usage>,
    },
}

impl NewEntry {
    /// The message that this entry becomes under its number.
    #[must_use]
    pub fn into_message(self, seq: u32, created_at: Timestamp) -> Message {
        let (id, text, role) = match self {
            Self::User { id, text, client_message_id } => {
                (id, text, Role::User { client_message_id })
            }
            Self::Reply { id, text, in_reply_to, status, finish_reason, usage } => {
                (id, text, Role::Assistant { in_reply_to, status, finish_reason, usage })
            }
        };
        Message { seq, id, text, created_at, role }
    }
}

/// Under which terms an entry may be appended.
#[derive(Clone, Copy, Debug)]
pub struct AppendLimits {
    /// The present: a session whose deadline has come is gone.
    pub now: Timestamp,
    /// New idle deadline of the session, unless the current one is later. Limited by the end of the
    /// session.
    pub expires_at: Timestamp,
    /// Most user messages without a reply. Further ones are refused.
    pub max_queued_turns: u32,
    /// A user message is refused when it and the replies that are still to come would
    /// not fit into this many messages.
    pub max_session_messages: u32,
}

/// The result of an append.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The message as it stands in the log.
    pub message: Arc<Message>,
    /// It stood there already.
    pub duplicate: bool,
    /// Number of the reply to it, if it is a user message that has been answered.
    pub reply_seq: Option<u32>,
    /// The session's idle deadline now.
    pub expires_at: Timestamp,
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only messages after this number, oldest first; `None`: the newest ones.
    pub after: Option<u32>,
    /// None after this number.
    pub until: u32,
    /// Most messages.
    pub limit: u32,
    /// Most bytes of text, but at least one message if `limit` allows it.
    pub max_size: usize,
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
    /// Returns the position of a reader of this page.
    ///
    /// It is the end of the log, or the end of the page if newer messages were left out of a page
    /// that was read forward from `after`.
    #[must_use]
    pub fn position(&self, after: Option<u32>) -> Position {
        let page_end = || self.messages.last().map(|message| message.seq);
        let seq = match after {
            Some(after) if self.has_more => page_end().unwrap_or(after),
            _ => self.head_seq,
        };
        Position { epoch: self.session.epoch.clone(), seq }
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

/// A turn that was accepted and not answered.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The session.
    pub session: Session,
    /// The user message.
    pub message: Arc<Message>,
    /// The attempt of the last checkpoint. 1 without a checkpoint.
    pub attempt: u32,
    /// The text of the last checkpoint.
    pub text: String,
    /// Number of the last message of the session's log.
    pub head_seq: u32,
}

/// The progress of a reply, for the process that may take its turn over.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Number of the user message.
    pub seq: u32,
    /// The attempt.
    pub attempt: u32,
    /// The text so far.
    pub text: Arc<str>,
}

/// Stores sessions and their logs.
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
    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<Session>;

    /// Moves the idle deadline of a session to `expires_at`, never back and never beyond its end.
    /// Returns the session with its new deadline.
    async fn renew(&self, id: SessionId, now: Timestamp, expires_at: Timestamp) -> Result<Session>;

    /// Deletes a session with its log.
    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()>;

    /// Deletes up to `limit` sessions whose deadline has passed. May stop earlier, so that other
    /// operations are not delayed.
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept>;

    /// Returns true if another process has written to the store since the last call. Must be
    /// cheap: it is called twice a second.
    async fn written_elsewhere(&self) -> Result<bool>;

    /// Returns the heads of those of the given sessions that exist, in one consistent read.
    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>>;

    /// Appends an entry under the next number, once.
    ///
    /// An entry that was appended before (see [`NewEntry`]) is returned as a duplicate, regardless
    /// of the limits. A new user message renews the idle deadline.
    ///
    /// `MessageIdReused` if the `client_message_id` was used for another text; `QueueFull` and
    /// `SessionFull` by the limits; `StoreFull` if there is no room. The limits do not apply to a
    /// reply.
    async fn append(
        &self,
        id: SessionId,
        entry: NewEntry,
        append_limits: AppendLimits,
    ) -> Result<Appended>;

    /// Replaces the checkpoint of a turn. Has no effect on a turn that is answered already. If the
    /// future is dropped, the checkpoint may or may not be written. The core never writes two
    /// checkpoints of one turn at the same time.
    async fn checkpoint(&self, id: SessionId, now: Timestamp, at: Checkpoint) -> Result<()>;

    /// Returns the session, a page of its log, and its head, from one consistent snapshot.
    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot>;

    /// Returns up to `limit` unanswered turns of live sessions, in the order of `(session, seq)`,
    /// after the given place.
    async fn unfinished(
        &self,
        now: Timestamp,
        after: Option<(SessionId, u32)>,
        limit: usize,
    ) -> Result<Vec<Unfinished>>;

    /// Closes the store before the process ends. Nothing is written afterwards.
    async fn close(&self) -> Result<()>;

    /// Waits for the final failure of the store. The process must then end: its state may differ
    /// from that of the store.
    async fn failed(&self) -> Error;
}
