//! The port for the turns of a session: which process answers them, and the log that they grow.

use std::{fmt, num::NonZeroU64, sync::Arc};

use async_trait::async_trait;

use crate::session::model::{
    Budgets, Content, Error, ErrorKind, Message, MessageId, Metadata, ReplyFields, Result, Role,
    Session, SessionId, Timestamp, TokenId, TurnOptions,
};

/// A process of the gateway, as a store and the other processes know it. Random, and new at each
/// start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// Returns a new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Creates an id from the bytes of [`Self::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Returns the 8 bytes, for stores.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The right of one process to answer the waiting turns of a session.
///
/// A store that several processes share grants it with an append that finds no waiting turn, under
/// a number that rises with each grant: the fence. It ends with the answer that leaves no turn
/// waiting. Every write of the holder carries it. The store refuses a write under a lease that it
/// has granted to another process since, so that a process that was paused answers no turn twice.
///
/// Leases of one session are ordered by their grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease(NonZeroU64);

impl Lease {
    /// The lease of the only process of a store. It is valid for every session and never ends.
    pub const UNSHARED: Self = Self(NonZeroU64::MAX);

    /// Returns the lease of a fence.
    #[must_use]
    pub const fn new(fence: NonZeroU64) -> Self {
        Self(fence)
    }

    /// Returns the fence.
    #[must_use]
    pub const fn fence(self) -> NonZeroU64 {
        self.0
    }

    /// Returns true if another process can hold a lease of the same session.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::UNSHARED
    }
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
    /// The token of the caller. Its idle deadline moves if it has one of its own.
    pub token: TokenId,
    /// New idle deadline of the token or the session, unless the current one is later. Limited by
    /// its end.
    pub expires_at: Timestamp,
    /// New time for the deletion of a session with an owner, unless the current one is later or the
    /// session has none.
    pub delete_at: Timestamp,
    /// The responder has room for another turn.
    pub has_room: bool,
    /// Model tokens that may be used.
    pub budgets: Budgets,
    /// Most user messages without a reply. Further ones are refused.
    pub max_queued_turns: u32,
    /// A user message is refused when it and the replies that are still to come would
    /// not fit into this many messages.
    pub max_session_messages: u32,
}

impl AppendLimits {
    /// Refuses a new turn if the responder has no room for it.
    ///
    /// # Errors
    /// `Overloaded`.
    pub fn check_room(&self) -> Result<()> {
        if self.has_room {
            return Ok(());
        }
        let message = "The model has no room for another turn";
        Err(Error::new(ErrorKind::Overloaded, message))
    }

    /// Moves the deadlines of a session to which a user message is appended.
    pub fn renew(&self, session: &mut Session) {
        if session.subject.is_none() {
            session.renew(self.expires_at);
        } else if let Some(delete_at) = &mut session.delete_at {
            *delete_at = self.delete_at.max(*delete_at);
            session.expires_at = *delete_at;
        }
    }
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
    /// The deadline of the session now, which its tokens share unless they have own ones.
    pub expires_at: Timestamp,
    /// The token's own idle deadline now.
    pub token_expires_at: Option<Timestamp>,
    /// The lease under which this process answers the turns that wait now. `None` if no turn waits,
    /// or if another process answers them.
    pub lease: Option<Lease>,
}

/// The result of an answer.
#[derive(Clone, Debug)]
pub enum Answered {
    /// The log holds the reply, or an earlier reply to the same turn.
    Kept(Appended),
    /// A client stopped the turn through another process. The reply must not be `complete`.
    Stopped,
    /// Another process answers the turns of the session.
    LeaseLost,
}

/// The result of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpointed {
    /// It is written, or the turn is answered.
    Done,
    /// Another process answers the turns of the session.
    LeaseLost,
}

/// A turn that was accepted and not answered.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The lease under which this process answers it.
    pub lease: Lease,
    /// The session.
    pub session: Session,
    /// The user message.
    pub message: Arc<Message>,
    /// The attempt of the last checkpoint. 1 without a checkpoint.
    pub attempt: u32,
    /// The content of the last checkpoint.
    pub partial: Content,
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

/// Appends to the logs of sessions. Each append is one atomic step, and durable when it returns, in
/// the sense of the store.
///
/// A store with one process grants every lease. `tests/store_contract.rs` tests each
/// implementation.
///
/// # Errors
/// [`Turns::append`] and [`Turns::answer`] fail with [`Error::store_restarted`] if the store was
/// restarted since the session was entered.
///
/// Every operation can fail with `Internal` and `StoreUnavailable`, and with `SessionExpired` if its
/// session does not exist. Other kinds are listed at the operations.
#[async_trait]
pub trait Turns: Send + Sync + 'static {
    /// Appends a user message under the next number, once, and renews the idle deadline. Grants the
    /// lease of the session if no turn waited.
    ///
    /// A message that was appended before under its `client_message_id` is returned as a
    /// duplicate, regardless of the limits. [`place`](crate::session::place) has the rules.
    ///
    /// `MessageIdReused` if the `client_message_id` was used for another message;
    /// `InvalidArgument` if its parent, the turn to repeat or a tool call that it answers does
    /// not exist; `QueueFull`, `SessionFull`, `BudgetExceeded` and `Overloaded` by the limits;
    /// `StoreFull` if there is no room.
    async fn append(&self, id: SessionId, turn: NewTurn, limits: AppendLimits) -> Result<Appended>;

    /// Appends the reply to a user message, once, under the next number. Counts its model tokens for
    /// the session, its owner and the day. A reply to a turn that
    /// has one is not stored: the first one is returned as a duplicate. No limit applies.
    async fn answer(
        &self,
        id: SessionId,
        lease: Lease,
        reply: NewReply,
        now: Timestamp,
    ) -> Result<Answered>;

    /// Replaces the checkpoint of a turn. Has no effect on a turn that is answered already. If the
    /// future is dropped, the checkpoint may or may not be written. The core never writes two
    /// checkpoints of one turn at the same time.
    async fn checkpoint(
        &self,
        id: SessionId,
        lease: Lease,
        at: Checkpoint,
        now: Timestamp,
    ) -> Result<Checkpointed>;

    /// Stops the turn of a user message's number, or the first one that waits, in the process that
    /// holds the lease. The store tells that process, and refuses a complete reply to the turn.
    /// Returns false if no such turn waits.
    ///
    /// The core calls it only if it does not hold the lease.
    async fn stop(&self, id: SessionId, seq: Option<u32>, now: Timestamp) -> Result<bool>;

    /// Returns the turns of a session that wait, in order, if this process holds its lease.
    async fn unanswered(&self, id: SessionId, now: Timestamp) -> Result<Vec<Unfinished>>;

    /// Hands the waiting turns of a session over to another process, which receives
    /// [`Note::HandedOver`](super::Note::HandedOver). Returns false if the lease is lost, or if the
    /// store has one process.
    async fn hand_over(
        &self,
        id: SessionId,
        lease: Lease,
        to: NodeId,
        now: Timestamp,
    ) -> Result<bool>;

    /// Takes over the turns that no living process answers, and returns them in the order of
    /// `(session, seq)`, after the given place.
    ///
    /// Without `from`: up to `limit` turns of sessions without a lease, and of those under a lease of
    /// this process, which stays as it is. In a store with one process these are all turns. With
    /// `from`: the turns of that process, which the caller knows to have ended, in whole sessions until
    /// there are `limit`.
    async fn take_over(
        &self,
        from: Option<NodeId>,
        after: Option<(SessionId, u32)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unfinished>>;
}
