//! What answers.

use std::sync::Arc;

use futures_util::stream::BoxStream;

use crate::session::model::{Failure, Message, MessageId, Name, SessionId, Usage};

/// The pieces of one reply, in order. Dropping the stream cancels the reply: the
/// responder must then let go of its upstream at once.
pub type Chunks = BoxStream<'static, Chunk>;

/// A reply that has begun.
pub struct Reply {
    /// Its pieces.
    pub chunks: Chunks,
    /// The responder left older messages out of what it reads.
    pub context_trimmed: bool,
    /// Tokens that it reads, as an estimate: what counts for a reply that ends without
    /// the responder's own figures.
    pub input_tokens: Option<u32>,
}

/// How much of a conversation a responder wants to see: the newest messages before the
/// one that it answers, up to both limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Messages.
    pub messages: u32,
    /// Bytes of their text.
    pub size: usize,
}

impl History {
    /// Nothing of it.
    pub const NONE: Self = Self { messages: 0, size: 0 };
}

/// Answers user messages.
///
/// An implementation keeps no state of a conversation: the prompt holds what it
/// needs. A stream that ends without [`Chunk::End`] counts as failed, never as
/// complete.
pub trait Responder: Send + Sync + 'static {
    /// What it wants to see.
    fn history(&self) -> History;

    /// Begins a reply. Called on the runtime; must not block.
    fn respond(&self, prompt: Prompt) -> Reply;
}

/// What a reply is made from.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Whose conversation; names it in logs, opens nothing.
    pub session: SessionId,
    /// The user's name.
    pub name: Name,
    /// The id that the reply will have.
    pub reply: MessageId,
    /// 1, or more where an earlier attempt died with its process.
    pub attempt: u32,
    /// Messages before the user's, oldest first.
    pub history: Vec<Arc<Message>>,
    /// The user message to answer.
    pub message: Arc<Message>,
}

/// A piece of a reply.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Before any text: older messages were left out after all, since the upstream
    /// refused the first prompt.
    ContextTrimmed {
        /// Replaces [`Reply::input_tokens`].
        input_tokens: u32,
    },
    /// More text.
    Delta(String),
    /// The text is complete. [`Chunk::End`] follows, and until then the usage is waited for: a
    /// reply that is interrupted now is complete. With some servers more text follows after
    /// all.
    Finished {
        /// As in [`Outcome::finish_reason`].
        finish_reason: Option<Arc<str>>,
    },
    /// The end: nothing follows.
    End(Outcome),
}

/// How the responder ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `None`: it said all it had to say.
    pub failure: Option<Failure>,
    /// Why it ended, in its own words.
    pub finish_reason: Option<Arc<str>>,
    /// What it cost; `None` if the responder does not know.
    pub usage: Option<Usage>,
}

impl Outcome {
    /// It said all it had to say.
    #[must_use]
    pub const fn complete(finish_reason: Option<Arc<str>>, usage: Option<Usage>) -> Self {
        Self { failure: None, finish_reason, usage }
    }

    /// It failed, for a reason that leaks nothing of the upstream.
    #[must_use]
    pub fn failed(code: &str, message: &str) -> Self {
        let failure = Failure { code: code.into(), message: message.into() };
        Self { failure: Some(failure), finish_reason: None, usage: None }
    }
}
