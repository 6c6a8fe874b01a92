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
        /// 0, 1, 2 … without gaps.
        index: u32,
        /// To be appended.
        text: Arc<str>,
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

/// A reply that is being produced.
#[derive(Clone, Debug)]
pub struct ReplyStarted {
    /// The id its message will have.
    pub reply: MessageId,
    /// The user message it answers.
    pub in_reply_to: MessageId,
    /// 1, or more where an earlier attempt died with its process.
    pub attempt: u32,
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
