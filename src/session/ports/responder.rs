//! The port for components that produce replies.

use std::sync::Arc;

use futures_util::stream::BoxStream;

use crate::session::model::{Failure, Message, MessageId, Name, SessionId, Usage};

/// The chunks of a reply, in order. Dropping the stream cancels the reply: the responder must then
/// drop its upstream request at once.
pub type Chunks = BoxStream<'static, Chunk>;

/// A reply in progress.
pub struct Reply {
    /// The chunks.
    pub chunks: Chunks,
    /// Older messages were left out of the prompt.
    pub context_trimmed: bool,
    /// Estimated tokens of the prompt. They count if the reply ends without usage.
    pub input_tokens: Option<u32>,
}

/// The part of a conversation that a responder gets: the newest messages before the one that it
/// answers, up to both limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Number of messages.
    pub messages: u32,
    /// Bytes of text.
    pub size: usize,
}

impl History {
    /// No history.
    pub const NONE: Self = Self { messages: 0, size: 0 };
}

/// Produces replies to user messages.
///
/// An implementation keeps no state of a conversation: the prompt contains all that it needs. A
/// stream that ends without [`Chunk::End`] counts as failed, never as complete.
pub trait Responder: Send + Sync + 'static {
    /// Returns the part of the conversation that the responder needs.
    fn history(&self) -> History;

    /// Begins a reply. Is called on the runtime and must not block.
    fn respond(&self, prompt: Prompt) -> Reply;
}

/// The input of a reply.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The session, for logs.
    pub session: SessionId,
    /// The user's name.
    pub name: Name,
    /// The id of the reply.
    pub reply: MessageId,
    /// 1, or higher if an earlier attempt ended with its process.
    pub attempt: u32,
    /// Messages before the one to answer, oldest first.
    pub history: Vec<Arc<Message>>,
    /// The user message to answer.
    pub message: Arc<Message>,
}

/// A chunk of a reply.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Before any text: older messages were left out after all, since the upstream refused the
    /// first prompt.
    ContextTrimmed {
        /// Replaces [`Reply::input_tokens`].
        input_tokens: u32,
    },
    /// More text.
    Delta(String),
    /// The text is complete, and [`Chunk::End`] follows with the usage. A reply that is interrupted
    /// in between is complete. With some servers more text follows nevertheless.
    Finished {
        /// As in [`Outcome::finish_reason`].
        finish_reason: Option<Arc<str>>,
    },
    /// The last chunk.
    End(Outcome),
}

/// The outcome of a reply.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The failure. `None`: the reply is complete.
    pub failure: Option<Failure>,
    /// The finish reason of the responder.
    pub finish_reason: Option<Arc<str>>,
    /// The tokens of the reply. `None` if the responder does not know them.
    pub usage: Option<Usage>,
}

impl Outcome {
    /// Creates the outcome of a complete reply.
    #[must_use]
    pub const fn complete(finish_reason: Option<Arc<str>>, usage: Option<Usage>) -> Self {
        Self { failure: None, finish_reason, usage }
    }

    /// Creates the outcome of a failed reply. Code and message must reveal nothing about the
    /// upstream.
    #[must_use]
    pub fn failed(code: &str, message: &str) -> Self {
        let failure = Failure { code: code.into(), message: message.into() };
        Self { failure: Some(failure), finish_reason: None, usage: None }
    }
}
