//! Events of a session. They share their content: a text exists once, however many subscribers
//! receive it.

use std::{sync::Arc, time::Duration};

use super::encoded::EncodedForms;
use crate::session::model::{Message, MessageId, Part, Position, Session};

/// Something happened in a session.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message was committed.
    Message(MessageEvent),
    /// A reply begins, or was in progress at the time of the subscription.
    ReplyStarted(Arc<ReplyStarted>),
    /// More of one part of the reply.
    Delta(Delta),
    /// A part of the reply is whole.
    ReplyPart(ReplyPart),
    /// The stream will end soon: the client should reconnect after this long.
    GoAway(Duration),
}

/// A committed message, as one subscriber receives it.
#[derive(Clone, Debug)]
pub struct MessageEvent {
    /// The message.
    pub message: Arc<Message>,
    /// The parent of a user message has to be shown: it is not the user message before this one,
    /// or the subscriber has not received that one.
    pub shows_parent: bool,
    /// The encoded forms of the message without its parent.
    pub encoded: EncodedForms,
}

/// More of one part of a reply.
///
/// The size of a part is the number of bytes (UTF-8) of its text, reasoning or arguments, plus 1
/// for its end. Parts lie one behind the other, and offsets count from the start of the reply.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The reply.
    pub reply: MessageId,
    /// Index of the part in the reply.
    pub index: u32,
    /// Offset before the piece.
    pub offset: u32,
    /// Offset after it.
    pub end: u32,
    /// The text to append.
    pub piece: DeltaPiece,
    /// The part has ended, and `end` counts that.
    pub done: bool,
    /// The encoded forms. Merged deltas have none in common.
    pub encoded: EncodedForms,
}

/// A piece of a part.
#[derive(Clone, Debug)]
pub enum DeltaPiece {
    /// Of a text.
    Text(Arc<String>),
    /// Of reasoning.
    Reasoning(Arc<String>),
    /// Of the arguments of a tool call.
    ToolCall(Arc<ToolCallPiece>),
}

/// A piece of a tool call. The other fields are repeated in every piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCallPiece {
    /// As [`ToolCall::id`](crate::session::ToolCall::id).
    pub id: Arc<str>,
    /// As [`ToolCall::name`](crate::session::ToolCall::name).
    pub name: Arc<str>,
    /// The next piece of the arguments.
    pub arguments: String,
    /// As [`ToolCall::plain_text`](crate::session::ToolCall::plain_text).
    pub plain_text: bool,
    /// As [`ToolCall::responder_executed`](crate::session::ToolCall::responder_executed).
    pub responder_executed: bool,
}

/// A whole part of a reply. It replaces the deltas of the part.
#[derive(Clone, Debug)]
pub struct ReplyPart {
    /// The reply.
    pub reply: MessageId,
    /// Index of the part in the reply.
    pub index: u32,
    /// Offset of the content that this event adds: deltas may have brought a part of it.
    pub offset: u32,
    /// Offset after the part.
    pub end: u32,
    /// The part.
    pub part: Arc<Part>,
    /// The encoded forms.
    pub encoded: EncodedForms,
}

impl DeltaPiece {
    /// Returns the text of the piece.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Reasoning(text) => text,
            Self::ToolCall(call) => &call.arguments,
        }
    }

    /// Appends a piece of the same part. Returns false if it is of another kind.
    pub(in crate::session) fn append(&mut self, more: &Self) -> bool {
        match (self, more) {
            (Self::Text(text), Self::Text(more))
            | (Self::Reasoning(text), Self::Reasoning(more)) => {
                Arc::make_mut(text).push_str(more);
            }
            (Self::ToolCall(call), Self::ToolCall(more)) => {
                Arc::make_mut(call).arguments.push_str(&more.arguments);
            }
            (Self::Text(_) | Self::Reasoning(_) | Self::ToolCall(_), _) => return false,
        }
        true
    }
}

impl Event {
    /// Returns the bytes that this event counts in a subscriber's queue.
    pub(in crate::session) fn cost(&self) -> usize {
        const OVERHEAD: usize = 64;
        OVERHEAD
            + match self {
                Self::Message(event) => event.message.size(),
                Self::Delta(delta) => delta.piece.text().len(),
                Self::ReplyPart(part) => part.part.size(),
                Self::ReplyStarted(_) | Self::GoAway(_) => 0,
            }
    }

    /// Lets the subscribers share the encoded forms of the event.
    pub(in crate::session) fn share(&mut self) {
        match self {
            Self::Message(MessageEvent { encoded, .. })
            | Self::Delta(Delta { encoded, .. })
            | Self::ReplyPart(ReplyPart { encoded, .. }) => *encoded = EncodedForms::shared(),
            // Rare, and different for each subscriber.
            Self::ReplyStarted(_) | Self::GoAway(_) => {}
        }
    }

    /// Returns the encoded forms of the event, as this subscriber receives it. `None` if it shares
    /// none.
    #[must_use]
    pub const fn encoded(&self) -> Option<&EncodedForms> {
        match self {
            Self::Message(MessageEvent { shows_parent: true, .. })
            | Self::ReplyStarted(_)
            | Self::GoAway(_) => None,
            Self::Message(MessageEvent { encoded, .. })
            | Self::Delta(Delta { encoded, .. })
            | Self::ReplyPart(ReplyPart { encoded, .. }) => Some(encoded),
        }
    }

    /// Returns the end of a delta or part, as a position in its reply.
    #[must_use]
    pub const fn reply_end(&self) -> Option<(MessageId, u32)> {
        match self {
            Self::Delta(Delta { reply, end, .. })
            | Self::ReplyPart(ReplyPart { reply, end, .. }) => Some((*reply, *end)),
            Self::Message(_) | Self::ReplyStarted(_) | Self::GoAway(_) => None,
        }
    }
}

/// The events that a subscriber receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum EventFilter {
    All,
    /// Committed replies and `GoAway`.
    Replies,
    /// The reply in progress.
    Progress,
    /// None: the subscriber only counts as one.
    Nothing,
}

impl EventFilter {
    /// Returns true if the subscriber receives the reply in progress.
    pub(in crate::session) const fn wants_progress(self) -> bool {
        matches!(self, Self::All | Self::Progress)
    }

    /// Returns true if the subscriber receives the event.
    pub(in crate::session) fn accepts(self, event: &Event) -> bool {
        match (self, event) {
            (Self::All, _) | (Self::Replies, Event::GoAway(_)) => true,
            (Self::Replies, Event::Message(event)) => event.message.in_reply_to().is_some(),
            (Self::Replies, Event::ReplyStarted(_) | Event::Delta(_) | Event::ReplyPart(_)) => {
                false
            }
            (Self::Progress, Event::ReplyStarted(_) | Event::Delta(_) | Event::ReplyPart(_)) => {
                true
            }
            (Self::Progress, Event::Message(_) | Event::GoAway(_)) | (Self::Nothing, _) => false,
        }
    }
}

/// A reply that is being produced. Its content follows as deltas and parts.
#[derive(Clone, Debug)]
pub struct ReplyStarted {
    /// The id of the message that will be committed.
    pub reply: MessageId,
    /// The user message that it answers.
    pub in_reply_to: MessageId,
    /// 1, or higher if an earlier attempt ended with its process.
    pub attempt: u32,
    /// The offset from which the content follows. 0: the subscriber discards what it has.
    pub offset: u32,
    /// The prompt does not contain the whole branch: older messages were left out.
    pub context_trimmed: bool,
}

/// The first event of a subscription.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The session, with its deadlines.
    pub session: Session,
    /// The start of the stream: it carries everything after this position.
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
