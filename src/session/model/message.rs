//! The messages of a log.

use std::sync::Arc;

use super::{MessageId, Timestamp};

/// A committed entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number in the log: 1, 2, 3 … without gaps.
    pub seq: u32,
    /// The id.
    pub id: MessageId,
    /// The text. Empty only for a reply that ended before any.
    pub text: Arc<str>,
    /// Time of the commit, by the wall clock.
    pub created_at: Timestamp,
    /// The role, with the fields of that role.
    pub role: Role,
}

/// The role of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The user.
    User {
        /// The id that the sender gave it.
        client_message_id: Option<Arc<str>>,
    },
    /// The responder.
    Assistant {
        /// The user message that it answers.
        in_reply_to: MessageId,
        /// How the reply ended.
        status: Status,
        /// The finish reason of the responder.
        finish_reason: Option<Arc<str>>,
        /// The tokens of the reply.
        usage: Option<Usage>,
    },
}

/// The terminal status of a reply. The text so far is kept in each case.
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
    /// Tokens that the model read.
    pub input_tokens: u32,
    /// Tokens that the model wrote.
    pub output_tokens: u32,
    /// The numbers, or a part of them, are an estimate: the responder did not report them.
    pub estimated: bool,
}

impl Usage {
    /// Adds two usages. The sum is an estimate if either is. Saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            estimated: self.estimated || other.estimated,
        }
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
    /// Returns the bytes of the text as a JSON string (RFC 8259, section 7), without its quotes. A
    /// control character takes six.
    #[must_use]
    pub fn json_size(&self) -> usize {
        let size = |byte: u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..=0x1f => 6,
            _ => 1,
        };
        self.text.bytes().map(size).sum()
    }

    /// Returns the user message that a reply answers. `None` for a user message.
    #[must_use]
    pub const fn in_reply_to(&self) -> Option<MessageId> {
        match &self.role {
            Role::User { .. } => None,
            Role::Assistant { in_reply_to, .. } => Some(*in_reply_to),
        }
    }

    /// Returns the id that the sender gave it. `None` for a reply.
    #[must_use]
    pub const fn client_message_id(&self) -> Option<&Arc<str>> {
        match &self.role {
            Role::User { client_message_id } => client_message_id.as_ref(),
            Role::Assistant { .. } => None,
        }
    }

    /// Returns the tokens that the message adds to its session. A reply without usage adds nothing,
    /// and makes the sum an estimate.
    #[must_use]
    pub fn cost(&self) -> Usage {
        match &self.role {
            Role::User { .. } => Usage::default(),
            Role::Assistant { usage, .. } => {
                usage.unwrap_or(Usage { estimated: true, ..Usage::default() })
            }
        }
    }
}
