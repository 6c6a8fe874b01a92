//! What a log holds.

use std::sync::Arc;

use super::{MessageId, Timestamp};

/// A committed entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number in the log: 1, 2, 3 … without gaps.
    pub seq: u32,
    /// Names it.
    pub id: MessageId,
    /// The text; empty only in a reply that ended early.
    pub text: Arc<str>,
    /// When it was committed, by the wall clock.
    pub created_at: Timestamp,
    /// Who speaks, and what only they have.
    pub role: Role,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The user.
    User {
        /// The id its sender gave it.
        client_message_id: Option<Arc<str>>,
    },
    /// The responder.
    Assistant {
        /// The user message it answers.
        in_reply_to: MessageId,
        /// How the reply ended.
        status: Status,
        /// Why the responder ended, in its own words.
        finish_reason: Option<Arc<str>>,
        /// What it cost.
        usage: Option<Usage>,
    },
}

/// How a reply ended. The text so far is kept in each case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The responder said all it had to say.
    Complete,
    /// A client stopped it.
    Stopped,
    /// The gateway ended it: a shutdown, a limit, the death of a process.
    Interrupted,
    /// The responder failed.
    Failed(Failure),
}

impl Status {
    /// Its name, in snake case.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Failed(_) => "failed",
        }
    }

    /// The failure, if it is one.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Complete | Self::Stopped | Self::Interrupted => None,
        }
    }
}

/// Why a reply failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable, for programs, in snake case.
    pub code: Arc<str>,
    /// A sentence for people, which leaks nothing of the upstream.
    pub message: Arc<str>,
}

/// Tokens of the model that a reply took, or all replies of a session together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read by the model.
    pub input_tokens: u32,
    /// Written by the model.
    pub output_tokens: u32,
    /// The responder did not say: the numbers, or a part of them, are an estimate.
    pub estimated: bool,
}

impl Usage {
    /// Both together: an estimate if either is, and no more than fits.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            estimated: self.estimated || other.estimated,
        }
    }
}

/// Tokens of a text, roughly: there are as many ways to count them as models.
///
/// Four characters of ASCII to a token, as in English; three bytes of everything else,
/// which is one character of Chinese and one and a half of Cyrillic.
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

    /// The user message it answers; `None` for a user's own.
    #[must_use]
    pub const fn in_reply_to(&self) -> Option<MessageId> {
        match &self.role {
            Role::User { .. } => None,
            Role::Assistant { in_reply_to, .. } => Some(*in_reply_to),
        }
    }

    /// The id its sender gave it; `None` for replies.
    #[must_use]
    pub const fn client_message_id(&self) -> Option<&Arc<str>> {
        match &self.role {
            Role::User { client_message_id } => client_message_id.as_ref(),
            Role::Assistant { .. } => None,
        }
    }

    /// What it adds to its session's account. A reply that nobody counted adds nothing,
    /// and makes an estimate of the whole.
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
