//! What keeps sessions and their logs.

use std::sync::Arc;

use async_trait::async_trait;

use crate::session::model::{
    Epoch, Error, Message, MessageId, Position, Result, Role, Session, SessionId, Status,
    Timestamp, TokenHash, Usage,
};

/// A session to be kept, and the hash of the token that opens it.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The session.
    pub session: Session,
    /// Finds it.
    pub token: TokenHash,
}

/// An entry to be appended. The store gives it its number.
#[derive(Clone, Debug)]
pub enum NewEntry {
    /// A user message. Idempotent by `client_message_id`, if it has one.
    User {
        /// Its id.
        id: MessageId,
        /// Its text.
        text: Arc<str>,
        /// The sender's id for it.
        client_message_id: Option<Arc<str>>,
    },
    /// A reply. Idempotent by `in_reply_to`.
    Reply {
        /// Its id.
        id: MessageId,
        /// Its text.
        text: Arc<str>,
        /// The user message it answers.
        in_reply_to: MessageId,
        /// How it ended.
        status: Status,
        /// Why the responder ended.
        finish_reason: Option<Arc<str>>,
        /// What it cost.
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
    /// What the session's idle deadline becomes, unless that is later or past its end.
    pub expires_at: Timestamp,
    /// A user message is refused when so many others wait for their reply.
    pub max_queued_turns: u32,
    /// A user message is refused when it and the replies that are still to come would
    /// not fit into this many messages.
    pub max_session_messages: u32,
}

/// What an append did.
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
    /// At most so many messages …
    pub limit: u32,
    /// … and so many bytes of text, but at least one message if `limit` allows it.
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
    /// What the replies of the whole log took: each message's [`Message::cost`].
    pub usage: Usage,
    /// The page's limits left messages out.
    pub has_more: bool,
}

impl Snapshot {
    /// Up to where a reader of this page has everything that it asked for.
    ///
    /// The end of the log; or, where newer messages were left out of a page that was
    /// read forward from `after`, the end of the page.
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

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The sessions that are gone.
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

/// A turn that was accepted and never answered.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// Whose.
    pub session: Session,
    /// The user message.
    pub message: Arc<Message>,
    /// The last attempt that was noted, 1 if none was.
    pub attempt: u32,
    /// What it had produced when it was noted last.
    pub text: String,
    /// Number of the last message of the session's log.
    pub head_seq: u32,
}

/// How far the reply to a turn has come, for whoever takes it over.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Number of the user message.
    pub seq: u32,
    /// Which attempt.
    pub attempt: u32,
    /// What it has produced.
    pub text: Arc<str>,
}

/// Keeps sessions and their logs.
///
/// Every operation is atomic, and what it returns is durable in the store's sense when
/// it returns. A session whose deadline has come is gone for every operation at once,
/// whether or not it has been swept. `tests/store_contract.rs` holds each
/// implementation to this.
///
/// # Errors
/// Every operation can fail with `Internal`, and with `SessionExpired` where it names
/// a session that is not there; the others are named.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keeps a new session. `Overloaded` or `StoreFull` if there is no room.
    async fn create(&self, new: NewSession) -> Result<()>;

    /// The session that a token opens.
    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<Session>;

    /// Moves a session's idle deadline to `expires_at`, unless it is later already,
    /// and never past its end. Returns the session as it is then.
    async fn renew(&self, id: SessionId, now: Timestamp, expires_at: Timestamp) -> Result<Session>;

    /// Ends a session: its log is gone, its token opens nothing.
    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()>;

    /// Deletes sessions whose deadline has come, up to `limit` of them or fewer, so that
    /// others need not wait for it.
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept>;

    /// Returns true if another process has written to the store since the last call. Must be
    /// cheap: it is called twice a second.
    async fn written_elsewhere(&self) -> Result<bool>;

    /// Returns the heads of those of the given sessions that exist, in one consistent read.
    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>>;

    /// Gives an entry the next number and appends it, once.
    ///
    /// An entry that is there already (see [`NewEntry`]) is returned again as a duplicate,
    /// whatever the terms. A new user message renews the idle deadline.
    ///
    /// `MessageIdReused` if its `client_message_id` stands for another text; `QueueFull`,
    /// `SessionFull` by the terms; `StoreFull` if there is no room. A reply is never
    /// refused by the terms.
    async fn append(
        &self,
        id: SessionId,
        entry: NewEntry,
        append_limits: AppendLimits,
    ) -> Result<Appended>;

    /// Notes how far the reply to a turn has come, in place of what was noted before. Of a
    /// turn that has been answered meanwhile there is nothing to note: a note that comes
    /// late changes nothing. Whoever stops waiting leaves open whether it is made; two
    /// notes of one turn are never asked for at the same time.
    async fn checkpoint(&self, id: SessionId, now: Timestamp, at: Checkpoint) -> Result<()>;

    /// The session, a part of its log, and its head, in one consistent look.
    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot>;

    /// Up to `limit` turns that were accepted and not answered, of sessions that live,
    /// in the order of `(session, seq)`, after the place that the last answer ended at.
    async fn unfinished(
        &self,
        now: Timestamp,
        after: Option<(SessionId, u32)>,
        limit: usize,
    ) -> Result<Vec<Unfinished>>;

    /// Puts the store into order before the process ends. Nothing is written afterwards.
    async fn close(&self) -> Result<()>;

    /// Waits until the store can no longer keep what it is given, and says why. The
    /// process must then end: what it holds may differ from what is kept.
    async fn failed(&self) -> Error;
}
