//! What those who watch a session are told. The events are shared, not copied: a
//! text exists once, however many watch.

use std::{sync::Arc, time::Duration};

use super::{Message, MessageId, Position, Session};

/// Something happened in a session.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message was committed.
    Message(Arc<Message>),
    /// A reply begins, or was under way when the watcher came.
    ReplyStarted(Arc<ReplyStarted>),
    /// More text of the reply.
    Delta {
        /// Of which reply.
        reply: MessageId,
        /// 0, 1, 2 … without gaps, as this watcher is told them.
        index: u32,
        /// To be appended.
        text: Arc<String>,
    },
    /// The stream will end soon: come back after this long.
    GoAway(Duration),
}

impl Event {
    /// Bytes that a backlog pays for holding it.
    pub(super) fn cost(&self) -> usize {
        const OVERHEAD: usize = 64;
        OVERHEAD
            + match self {
                Self::Message(message) => message.text.len(),
                Self::ReplyStarted(started) => started.text.len(),
                Self::Delta { text, .. } => text.len(),
                Self::GoAway(_) => 0,
            }
    }
}

/// What a watcher wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventFilter {
    /// Everything.
    All,
    /// Committed replies, and when to leave.
    Replies,
}

impl EventFilter {
    /// Whether an event is of interest.
    pub(super) fn accepts(self, event: &Event) -> bool {
        match (self, event) {
            (Self::All, _) | (Self::Replies, Event::GoAway(_)) => true,
            (Self::Replies, Event::Message(message)) => message.in_reply_to().is_some(),
            (Self::Replies, Event::ReplyStarted(_) | Event::Delta { .. }) => false,
        }
    }
}

/// A reply that is being produced.
#[derive(Clone, Debug)]
pub struct ReplyStarted {
    /// The id its message will have.
    pub reply: MessageId,
    /// The user message it answers.
    pub in_reply_to: MessageId,
    /// 1, or more where an earlier attempt died with its process.
    pub attempt: u32,
    /// The responder does not read all of the conversation: older messages were left
    /// out.
    pub context_trimmed: bool,
    /// What was produced before this watcher came.
    pub text: String,
    /// Index of the next delta.
    pub next_index: u32,
}

/// What a watcher is told first.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The session, with its deadlines.
    pub session: Session,
    /// Where the stream starts: it carries every message after it.
    pub position: Position,
    /// The position that was asked for is honoured.
    pub recovered: bool,
    /// Number of the last message at the time of the attach.
    pub head_seq: u32,
    /// The user messages that waited for their reply then.
    pub unanswered: Vec<MessageId>,
}

/// A user message is durable.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The message.
    pub message: Arc<Message>,
    /// It was there already.
    pub duplicate: bool,
    /// Number of the reply to it, if it has been answered.
    pub reply_seq: Option<u32>,
}
