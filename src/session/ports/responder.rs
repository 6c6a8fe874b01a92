//! The port for components that produce replies.

use std::sync::Arc;

use futures_util::stream::BoxStream;

use crate::session::{
    live::event::ToolCallPiece,
    model::{
        Citation, Failure, Message, MessageId, Metadata, Name, Part, Role, SessionId, TurnOptions,
        Usage,
    },
};

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
    /// Bytes of content, without inline files.
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

    /// Returns true if another reply can run or wait. If not, new turns are refused. A turn that was
    /// accepted is never refused: [`Self::respond`] waits for it.
    fn has_room(&self) -> bool {
        true
    }

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
    /// The metadata of the session.
    pub metadata: Metadata,
    /// The newest messages before the one to answer on its branch: user messages in order, each
    /// followed by its reply.
    pub history: Vec<Arc<Message>>,
    /// The branch has older messages.
    pub is_trimmed: bool,
    /// The user message to answer.
    pub message: Arc<Message>,
}

impl Prompt {
    /// Returns the options of the turn.
    #[must_use]
    pub fn options(&self) -> Option<&TurnOptions> {
        match &self.message.role {
            Role::User(user) => user.options.as_deref(),
            Role::Assistant(_) => None,
        }
    }
}

/// A chunk of a reply.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Before any content: older messages were left out after all, since the upstream refused the
    /// first prompt.
    ContextTrimmed {
        /// Replaces [`Reply::input_tokens`], if it is known.
        input_tokens: Option<u32>,
    },
    /// More of the reply. The piece is appended to the open part if it is of the same kind and the
    /// same tool call. Otherwise that part ends and a new one begins.
    Delta(Piece),
    /// A whole part. Ends the open part.
    Part(Part),
    /// Ends the open part.
    PartEnd {
        /// The sources of a text.
        citations: Vec<Citation>,
        /// As [`Part::provider_data`].
        provider_data: Option<Arc<str>>,
    },
    /// The content is complete, and [`Chunk::End`] follows with the usage. A reply that is interrupted
    /// in between is complete. With some servers more content follows nevertheless.
    Finished {
        /// As in [`Outcome::finish_reason`].
        finish_reason: Option<Arc<str>>,
    },
    /// The last chunk.
    End(Outcome),
}

/// A piece of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Of a text.
    Text(String),
    /// Of reasoning.
    Reasoning(String),
    /// Of a tool call.
    ToolCall(ToolCallPiece),
}

impl Piece {
    /// Returns the text of the piece.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Reasoning(text) => text,
            Self::ToolCall(call) => &call.arguments,
        }
    }

    pub(in crate::session) const fn text_mut(&mut self) -> &mut String {
        match self {
            Self::Text(text) | Self::Reasoning(text) => text,
            Self::ToolCall(call) => &mut call.arguments,
        }
    }

    pub(in crate::session) fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Reasoning(text) => text,
            Self::ToolCall(call) => call.arguments,
        }
    }
}

/// The outcome of a reply.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The failure. `None`: the reply is complete.
    pub failure: Option<Failure>,
    /// The finish reason of the responder.
    pub finish_reason: Option<Arc<str>>,
    /// The tokens of the reply. `None` if the responder does not know them.
    pub usage: Option<Usage>,
    /// The model that answered.
    pub model: Option<Arc<str>>,
    /// The metadata of the message.
    pub metadata: Metadata,
    /// As [`Part::provider_data`], for the message as a whole.
    pub provider_data: Option<Arc<str>>,
}

impl Outcome {
    /// Creates the outcome of a complete reply.
    #[must_use]
    pub fn complete(finish_reason: Option<Arc<str>>, usage: Option<Usage>) -> Self {
        Self { finish_reason, usage, ..Self::default() }
    }

    /// Creates the outcome of a failed reply. Code and message must reveal nothing about the
    /// upstream.
    #[must_use]
    pub fn failed(code: &str, message: &str) -> Self {
        let failure = Failure { code: code.into(), message: message.into() };
        Self { failure: Some(failure), ..Self::default() }
    }
}
