//! The port for the other processes of the gateway that share a store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    store::{Page, Store},
    turns::{Lease, NodeId},
};
use crate::session::{
    live::event::{Delta, ReplyPart, ReplyStarted},
    model::{
        Epoch, Message, MessageId, Position, ReplyPosition, Result, Session, SessionId, Timestamp,
        TokenId,
    },
};

/// A user message that waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingTurn {
    /// Its number.
    pub seq: u32,
    /// Its id.
    pub id: MessageId,
}

/// The state of a session when [`Peers::enter`] registered this process. Every later change is
/// reported.
#[derive(Clone, Debug)]
pub struct Entered {
    /// The session.
    pub session: Session,
    /// Number of the last message of its log.
    pub head_seq: u32,
    /// Its id, in a store that several processes share.
    pub head: Option<MessageId>,
    /// The turns that another process answers, in order.
    pub waiting: Vec<WaitingTurn>,
    /// That process, if it is known.
    pub owner: Option<NodeId>,
    /// The lease under which this process answers the turns of the session, if it holds one.
    pub lease: Option<Lease>,
    /// The newest lease that was granted to any process. Older ones are lost.
    pub newest_lease: Option<Lease>,
    /// The last position of the log under its earlier epoch, if the store has given it another one:
    /// the store may have lost messages after it.
    pub earlier: Option<Position>,
    /// Messages that this process knew and that the store has lost. Each is reported once.
    pub lost: u32,
}

/// The newest message of a log that a process knows.
#[derive(Clone, Debug)]
pub struct Known {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The number of the message. 0: the log is empty.
    pub seq: u32,
    /// Its id.
    pub message: Option<MessageId>,
}

/// A change that another process made to a session. A note is a hint: it may be late, lost or
/// repeated, and the store decides.
#[derive(Clone, Debug)]
pub enum Note {
    /// A message was appended.
    Appended {
        /// Its number.
        seq: u32,
        /// The message. `None` if it is too large for a note.
        message: Option<Arc<Message>>,
        /// The process that answers the turns that wait now. `None` for the receiver itself.
        owner: Option<NodeId>,
    },
    /// Another process answers the waiting turns from now on.
    OwnerChanged(NodeId),
    /// This process answers the waiting turns from now on: another one has handed them over.
    HandedOver,
    /// A token was revoked.
    TokenRevoked(TokenId),
    /// The session was revoked, or it was deleted after its deadline.
    Ended,
    /// A client stopped the turn of this number, which this process answers.
    Stop {
        /// Number of the user message.
        seq: u32,
    },
}

/// A message from one process to another about a session. Like a note it is a hint.
#[derive(Clone, Debug)]
pub enum PeerMessage {
    /// The sender has subscribers of the session. It asks for the replies of the receiver, which
    /// answers the waiting turns.
    Watch {
        /// The subscribers receive the content of a reply before it ends.
        wants_content: bool,
        /// The content that the sender has of the reply in progress.
        from: Option<ReplyPosition>,
    },
    /// The receiver of [`Self::Watch`] sends its replies from now on.
    Watched,
    /// The sender has no subscriber of the session any more.
    Unwatch,
    /// A reply of the sender begins, or continues from an offset.
    ReplyStarted(RemoteReply),
    /// More of one part of it.
    Delta(Delta),
    /// A part of it is whole.
    Part(ReplyPart),
}

/// The reply in progress of another process.
#[derive(Clone, Debug)]
pub struct RemoteReply {
    /// The reply, and the offset of the content that follows.
    pub started: ReplyStarted,
    /// Number of the user message.
    pub turn_seq: u32,
    /// The lease under which it is produced. A reply of an older lease is out of date.
    pub lease: Lease,
    /// Number of the last message of the log. Subscribers receive the messages first.
    pub head_seq: u32,
}

impl PeerMessage {
    /// Returns the approximate size of the message in bytes.
    pub(in crate::session) fn cost(&self) -> usize {
        const OVERHEAD: usize = 64;
        OVERHEAD
            + match self {
                Self::Watch { .. } | Self::Watched | Self::Unwatch | Self::ReplyStarted(_) => 0,
                Self::Delta(delta) => delta.piece.text().len(),
                Self::Part(part) => part.part.size(),
            }
    }
}

/// A process that shares the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process.
    pub node: NodeId,
    /// Time since its last heartbeat, by the clock of the store.
    pub silent_for: Duration,
    /// It receives messages.
    pub is_reachable: bool,
    /// It shuts down: it takes over no turns.
    pub is_draining: bool,
}

/// A report of [`Peers::receive`].
#[derive(Clone, Debug)]
pub enum Received {
    /// A change of a session.
    Note(SessionId, Note),
    /// A message of another process about a session.
    Message(NodeId, SessionId, PeerMessage),
    /// Notes may have been lost.
    Interrupted,
    /// Notes may have been lost, and the store was emptied: it has lost all sessions, or those on one
    /// of its servers.
    Emptied,
}

/// The other processes that share a store.
///
/// The operations of the store send the notes, to every process that has entered the session except
/// the one that makes the change.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Returns true if other processes can change the sessions of the store.
    fn is_shared(&self) -> bool {
        self.node().is_some()
    }

    /// Registers this process as a watcher of a session and reads its head, in one atomic step:
    /// every later change is reported. A second call has no other effect than to read again.
    ///
    /// `known` is the newest message that this process knows. If the store was restarted and has kept
    /// the log up to there, the log keeps its epoch. Otherwise it has another epoch from now on, since
    /// messages may be lost.
    ///
    /// # Errors
    /// `SessionExpired` if the session does not exist; `Internal`, `StoreUnavailable`.
    async fn enter(&self, id: SessionId, now: Timestamp, known: Option<Known>) -> Result<Entered>;

    /// Ends the registration of sessions. Their notes may still arrive.
    ///
    /// # Errors
    /// `Internal`, `StoreUnavailable`.
    async fn leave(&self, sessions: Vec<SessionId>) -> Result<()>;

    /// Writes a heartbeat of this process, and returns all processes with a heartbeat, including this
    /// one. A process stays in the list until [`Self::forget`].
    ///
    /// # Errors
    /// `Internal`, `StoreUnavailable`.
    async fn heartbeat(&self, is_draining: bool) -> Result<Vec<Peer>>;

    /// Removes a dead process, whose turns were taken over, from the list of [`Self::heartbeat`].
    ///
    /// # Errors
    /// `Internal`, `StoreUnavailable`.
    async fn forget(&self, node: NodeId) -> Result<()>;

    /// Returns the id of this process, if others can share the store.
    fn node(&self) -> Option<NodeId>;

    /// Sends messages to another process, in order. They are lost if it cannot be reached.
    ///
    /// # Errors
    /// `Internal`, `StoreUnavailable`.
    async fn send(&self, to: NodeId, messages: Vec<(SessionId, PeerMessage)>) -> Result<()>;

    /// Waits for the next note or message. Cancel safe.
    async fn receive(&self) -> Received;
}

/// The peers of a store that one process uses: none.
pub(super) struct Alone {
    store: Arc<dyn Store>,
}

impl Alone {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Peers for Alone {
    fn node(&self) -> Option<NodeId> {
        None
    }

    async fn heartbeat(&self, _: bool) -> Result<Vec<Peer>> {
        Ok(Vec::new())
    }

    async fn forget(&self, _: NodeId) -> Result<()> {
        Ok(())
    }

    /// Reads the head. No turn waits elsewhere: every turn of an active session is queued or
    /// running in this process.
    async fn enter(&self, id: SessionId, now: Timestamp, _: Option<Known>) -> Result<Entered> {
        let snapshot = self.store.read(id, now, Page::HEAD).await?;
        Ok(Entered {
            session: snapshot.session,
            head_seq: snapshot.head_seq,
            head: None,
            waiting: Vec::new(),
            owner: None,
            lease: Some(Lease::UNSHARED),
            newest_lease: None,
            earlier: None,
            lost: 0,
        })
    }

    async fn leave(&self, _: Vec<SessionId>) -> Result<()> {
        Ok(())
    }

    async fn send(&self, _: NodeId, _: Vec<(SessionId, PeerMessage)>) -> Result<()> {
        Ok(())
    }

    async fn receive(&self) -> Received {
        std::future::pending().await
    }
}
