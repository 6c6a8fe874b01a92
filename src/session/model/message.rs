//! The messages of a log.

use std::sync::Arc;

use super::{Content, MessageId, Metadata, Timestamp, TurnOptions};

/// A committed entry of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Number in the log: 1, 2, 3 … without gaps.
    pub seq: u32,
    /// The id.
    pub id: MessageId,
    /// The content. Empty only for a reply that ended before any.
    pub content: Content,
    /// Time of the commit, by the wall clock.
    pub created_at: Timestamp,
    /// As the sender or the bot gave it.
    pub metadata: Metadata,
    /// The role, with the fields of that role.
    pub role: Role,
}

/// The role of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// The user.
    User(UserFields),
    /// The responder.
    Assistant(ReplyFields),
}

/// The fields of a user message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserFields {
    /// The id that the sender gave it.
    pub client_message_id: Option<Arc<str>>,
    /// Number of the user message before it on its branch. 0: none.
    pub parent_seq: u32,
    /// Number of the user message that asked first, if this one asks again.
    pub regenerates_seq: Option<u32>,
    /// How the turn is to be answered.
    pub options: Option<Arc<TurnOptions>>,
}

/// The fields of a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyFields {
    /// The user message that it answers.
    pub in_reply_to: MessageId,
    /// The number of that message.
    pub turn_seq: u32,
    /// How the reply ended.
    pub status: Status,
    /// The finish reason of the responder.
    pub finish_reason: Option<Arc<str>>,
    /// The tokens of the reply.
    pub usage: Option<Usage>,
    /// The model that answered, as the responder names it.
    pub model: Option<Arc<str>>,
    /// Time from the start of the reply to its first content, in milliseconds.
    pub first_content_ms: Option<u32>,
    /// Time from the start of the reply to its end, in milliseconds.
    pub duration_ms: Option<u32>,
    /// As [`Part::provider_data`](super::Part::provider_data), for the message as a whole.
    pub provider_data: Option<Arc<str>>,
}

impl ReplyFields {
    /// Creates the fields of a reply of which only the end is known.
    #[must_use]
    pub const fn new(in_reply_to: MessageId, turn_seq: u32, status: Status) -> Self {
        Self {
            in_reply_to,
            turn_seq,
            status,
            finish_reason: None,
            usage: None,
            model: None,
            first_content_ms: None,
            duration_ms: None,
            provider_data: None,
        }
    }
}

/// The terminal status of a reply. The content so far is kept in each case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The responder finished.
    Complete,
    /// A client stopped it.
    Stopped,
    /// The gateway ended it: a shutdown, a limit, or the death of a process.
    Interrupted,
    /// The responder failed.
    Failed(Failure),
}

impl Status {
    /// Returns the name in snake case.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Failed(_) => "failed",
        }
    }

    /// Returns the failure of a failed reply.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Complete | Self::Stopped | Self::Interrupted => None,
        }
    }
}

/// The failure of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable code for programs, in snake case.
    pub code: Arc<str>,
    /// Sentence for people. It reveals nothing about the upstream.
    pub message: Arc<str>,
}

/// Tokens of a reply, or of all replies of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens that the model read, cached ones included.
    pub input_tokens: u32,
    /// Tokens that the model wrote, reasoning included.
    pub output_tokens: u32,
    /// The numbers, or a part of them, are an estimate: the responder did not report them.
    pub estimated: bool,
    /// Input tokens that came from a cache.
    pub cached_input_tokens: Option<u32>,
    /// Input tokens that were written to a cache.
    pub cache_write_tokens: Option<u32>,
    /// Output tokens that were reasoning.
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Creates a usage of two numbers that the responder reported.
    #[must_use]
    pub const fn exact(input_tokens: u32, output_tokens: u32) -> Self {
        Self {
            input_tokens,
            output_tokens,
            estimated: false,
            cached_input_tokens: None,
            cache_write_tokens: None,
            reasoning_tokens: None,
        }
    }

    /// Creates a usage of two estimated numbers.
    #[must_use]
    pub const fn estimate(input_tokens: u32, output_tokens: u32) -> Self {
        Self { estimated: true, ..Self::exact(input_tokens, output_tokens) }
    }

    /// Adds two usages. The sum is an estimate if either is. Saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            estimated: self.estimated || other.estimated,
            cached_input_tokens: sum(self.cached_input_tokens, other.cached_input_tokens),
            cache_write_tokens: sum(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens: sum(self.reasoning_tokens, other.reasoning_tokens),
        }
    }
}

const fn sum(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (Some(known), None) | (None, Some(known)) => Some(known),
        (None, None) => None,
    }
}

/// Estimates the tokens of a text. Every model counts differently.
///
/// A token is four ASCII characters, as in English, or three bytes of other text: one Chinese
/// character, or one and a half of Cyrillic.
#[must_use]
pub fn estimate_tokens(text: &str) -> u32 {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let tokens = ascii.div_ceil(4) + (text.len() - ascii).div_ceil(3);
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

impl Message {
    /// Returns the text of the message, see [`Content::text`].
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        self.content.text()
    }

    /// Returns the estimated bytes of the content as JSON.
    #[must_use]
    pub fn json_size(&self) -> usize {
        self.content.json_size() + self.metadata.size()
    }

    /// Returns the bytes that the message counts in a store and in a queue.
    #[must_use]
    pub fn size(&self) -> usize {
        let rest = match &self.role {
            Role::User(user) => user.options.as_ref().map_or(0, |options| options.size()),
            Role::Assistant(reply) => reply.provider_data.as_ref().map_or(0, |data| data.len()),
        };
        self.content.size() + self.metadata.size() + rest
    }

    /// Returns the user message that a reply answers. `None` for a user message.
    #[must_use]
    pub const fn in_reply_to(&self) -> Option<MessageId> {
        match &self.role {
            Role::User(_) => None,
            Role::Assistant(reply) => Some(reply.in_reply_to),
        }
    }

    /// Returns the fields of a user message. `None` for a reply.
    #[must_use]
    pub const fn user(&self) -> Option<&UserFields> {
        match &self.role {
            Role::User(user) => Some(user),
            Role::Assistant(_) => None,
        }
    }

    /// Returns the fields of a reply. `None` for a user message.
    #[must_use]
    pub const fn reply(&self) -> Option<&ReplyFields> {
        match &self.role {
            Role::User(_) => None,
            Role::Assistant(reply) => Some(reply),
        }
    }

    /// Returns the number of the user message of this message's turn.
    #[must_use]
    pub const fn turn_seq(&self) -> u32 {
        match &self.role {
            Role::User(_) => self.seq,
            Role::Assistant(reply) => reply.turn_seq,
        }
    }

    /// Returns the id that the sender gave it. `None` for a reply.
    #[must_use]
    pub const fn client_message_id(&self) -> Option<&Arc<str>> {
        match &self.role {
            Role::User(user) => user.client_message_id.as_ref(),
            Role::Assistant(_) => None,
        }
    }

    /// Returns the tokens that the message adds to its session. A reply without usage adds nothing,
    /// and makes the sum an estimate.
    #[must_use]
    pub fn cost(&self) -> Usage {
        match &self.role {
            Role::User(_) => Usage::default(),
            Role::Assistant(reply) => reply.usage.unwrap_or(Usage::estimate(0, 0)),
        }
    }
}
