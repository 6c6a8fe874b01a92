//! The port for components that store sessions and their logs.

use std::sync::Arc;

use async_trait::async_trait;

use crate::session::model::{
    Content, Epoch, Error, Message, MessageId, Metadata, Position, ReplyFields, Result, Role,
    Session, SessionId, Timestamp, TokenHash, TokenId, TokenRecord, TurnOptions, Usage,
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

/// A user message to append. The store assigns its number.
#[derive(Clone, Debug)]
pub struct NewTurn {
    /// The id of the message.
    pub id: MessageId,
    /// The id that the sender gave it. The append is idempotent by it.
    pub client_message_id: Option<Arc<str>>,
    /// The metadata. Empty for a question that is asked again: that of the original.
    pub metadata: Metadata,
    /// The options. `None` for a question that is asked again: those of the original.
    pub options: Option<Arc<TurnOptions>>,
    /// The content, and its place in the tree of turns.
    pub question: Question,
}

/// The content of a new turn, and its place in the tree of turns.
#[derive(Clone, Debug)]
pub enum Question {
    /// A new one.
    New {
        /// The content.
        content: Content,
        /// A message of the parent turn. 0: none. `None`: the newest turn.
        parent_seq: Option<u32>,
    },
    /// The question of an earlier turn again, under the same parent.
    Again {
        /// A message of that turn. 0: the newest turn.
        seq: u32,
    },
}

/// A reply to append. Idempotent by the user message that it answers.
#[derive(Clone, Debug)]
pub struct NewReply {
    /// The id of the message.
    pub id: MessageId,
    /// The content.
    pub content: Content,
    /// The metadata.
    pub metadata: Metadata,
    /// The other fields.
    pub fields: ReplyFields,
}

impl NewReply {
    /// Returns the message that this reply becomes under its number.
    #[must_use]
    #[inline]
    pub fn into_message(self, seq: u32, created_at: Timestamp) -> Message {
        let Self { id, content, metadata, fields } = self;
        Message { seq, id, content, created_at, metadata, role: Role::Assistant(fields) }
    }
}

/// The limits of an append.
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
    /// Only messages after this number, oldest first. `None`: the newest ones.
    pub after: Option<u32>,
    /// No message after this number.
    pub until: u32,
    /// Most messages.
    pub limit: u32,
    /// Most bytes, but at least one message if `limit` allows it.
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

/// A turn that was accepted and not answered.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The session.
    pub session: Session,
    /// The user message.
    pub message: Arc<Message>,
    /// The attempt of the last checkpoint. 1 without a checkpoint.
    pub attempt: u32,
    /// The content of the last checkpoint.
    pub partial: Content,
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
    /// The content so far.
    pub content: Content,
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

    /// Returns true if another process has written to the store since the last call. Must be
    /// cheap: it is called twice a second.
    async fn written_elsewhere(&self) -> Result<bool>;

    /// Returns the heads of those of the given sessions that exist, in one consistent read.
    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>>;

    /// Appends a user message under the next number, once, and renews the idle deadline.
    ///
    /// A message that was appended before under its `client_message_id` is returned as a
    /// duplicate, regardless of the limits. [`place`](crate::session::place) has the rules.
    ///
    /// `MessageIdReused` if the `client_message_id` was used for another message;
    /// `InvalidArgument` if its parent, the turn to repeat or a tool call that it answers does
    /// not exist; `QueueFull` and `SessionFull` by the limits; `StoreFull` if there is no room.
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended>;

    /// Appends the reply to a user message, once, under the next number. A reply to a turn that
    /// has one is not stored: the first one is returned as a duplicate. No limit applies.
    async fn answer(&self, id: SessionId, reply: NewReply, now: Timestamp) -> Result<Appended>;

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
