//! Events of a session. They share their texts: a text exists once, however many subscribers
//! receive it.

use std::{sync::Arc, time::Duration};

use crate::session::model::{Message, MessageId, Position, Session};

/// Something happened in a session.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message was committed.
    Message(Arc<Message>),
    /// A reply begins, or was in progress at the time of the subscription.
    ReplyStarted(Arc<ReplyStarted>),
    /// More text of the reply.
    Delta {
        /// The reply that grows.
        reply: MessageId,
        /// 0, 1, 2 … without gaps, counted per subscriber.
        index: u32,
        /// The text to append.
        text: Arc<String>,
    },
    /// The stream will end soon: the client should reconnect after this long.
    GoAway(Duration),
}

impl Event {
    /// Returns the bytes that this event counts in a subscriber's queue.
    pub(in crate::session) fn cost(&self) -> usize {
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

/// The events that a subscriber receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum EventFilter {
    All,
    /// Committed replies and `GoAway`.
    Replies,
}

impl EventFilter {
    /// Returns true if the subscriber receives the event.
    pub(in crate::session) fn accepts(self, event: &Event) -> bool {
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
    /// The id of the message that will be committed.
    pub reply: MessageId,
    /// The user message that it answers.
    pub in_reply_to: MessageId,
    /// 1, or higher if an earlier attempt ended with its process.
    pub attempt: u32,
    /// The prompt does not contain the whole conversation: older messages were left out.
    pub context_trimmed: bool,
    /// The text produced before the subscription.
    pub text: String,
    /// Index of the next delta.
    pub next_index: u32,
}

/// The first event of a subscription.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The session, with its deadlines.
    pub session: Session,
    /// The start of the stream: it carries every message after this position.
    pub position: Position,
    /// The requested position is honored.
    pub recovered: bool,
    /// Sequence number of the last message at the time of the subscription.
    pub head_seq: u32,
    /// The user messages without a reply at that time.
    pub unanswered: Vec<MessageId>,
}

/// The acknowledgement of a durable user message.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The message.
    pub message: Arc<Message>,
    /// True if the message had been accepted before.
    pub duplicate: bool,
    /// Sequence number of its reply, if it has one.
    pub reply_seq: Option<u32>,
}
