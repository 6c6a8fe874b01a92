//! What answers.

use std::sync::Arc;

use futures_util::stream::BoxStream;

use super::{Failure, Message, Name, SessionId, Usage};

/// The pieces of one reply, in order. Dropping the stream cancels the reply: the
/// responder must then let go of its upstream at once.
pub type Chunks = BoxStream<'static, Chunk>;

/// Answers user messages.
///
/// An implementation keeps no state of a conversation: the prompt holds what it
/// needs. A stream that ends without [`Chunk::End`] counts as failed, never as
/// complete.
pub trait Responder: Send + Sync + 'static {
    /// How many messages before the user's it wants to see, the newest ones.
    fn history(&self) -> u32;

    /// Begins a reply.
    fn respond(&self, prompt: Prompt) -> Chunks;
}

/// What a reply is made from.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Whose conversation; names it in logs, opens nothing.
    pub session: SessionId,
    /// The visitor's name.
    pub name: Name,
    /// Messages before the user's, oldest first.
    pub history: Vec<Arc<Message>>,
    /// The user message to answer.
    pub message: Arc<Message>,
}

/// A piece of a reply.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// More text.
    Delta(String),
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
    /// What it cost.
    pub usage: Option<Usage>,
}
