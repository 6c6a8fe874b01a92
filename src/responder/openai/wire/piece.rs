//! The events of a response, once they are read.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    responder::openai::{error_body::ErrorBody, tool_calls::CallPiece},
    session::Usage,
};

/// The content of one event.
#[derive(Debug, PartialEq)]
pub(in crate::responder::openai) enum WireEvent {
    /// A piece of the reply, or of its metadata.
    Piece(WirePiece),
    /// The upstream reports an error.
    Error(ErrorBody),
    /// `[DONE]`.
    Done,
    KeepAlive,
    /// Something that is not an event of a chat completion.
    Unknown,
}

/// A piece of a reply.
#[derive(Debug, Default, PartialEq)]
pub(in crate::responder::openai) struct WirePiece {
    /// More text. May be empty.
    pub(in crate::responder::openai) text: String,
    /// The field that held the content.
    pub(in crate::responder::openai) form: DocumentForm,
    /// Index of the choice among the alternatives that the upstream produces.
    pub(in crate::responder::openai) choice: Option<u32>,
    /// More reasoning. May be empty.
    pub(in crate::responder::openai) reasoning: String,
    /// The reasoning came as `reasoning_content`. Some servers want it back with tool calls.
    pub(in crate::responder::openai) is_reasoning_content: bool,
    /// The text is a refusal.
    pub(in crate::responder::openai) refuses: bool,
    /// Pieces of tool calls.
    pub(in crate::responder::openai) calls: Vec<CallPiece>,
    /// Images of the reply: their URLs.
    pub(in crate::responder::openai) images: Vec<String>,
    /// Sources of the text.
    pub(in crate::responder::openai) annotations: Vec<Annotation>,
    /// Details of the reasoning that the server wants back.
    pub(in crate::responder::openai) reasoning_details: Vec<Value>,
    /// The model, as the server names it.
    pub(in crate::responder::openai) model: Option<Arc<str>>,
    /// Why the reply ended, in the upstream's own words.
    pub(in crate::responder::openai) finish_reason: Option<Arc<str>>,
    /// Tokens used so far.
    pub(in crate::responder::openai) usage: Option<Usage>,
    /// The event held content that is not understood: audio, another form.
    pub(in crate::responder::openai) ignored: bool,
}

/// A source of a range of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::responder::openai) struct Annotation {
    pub(in crate::responder::openai) url: String,
    pub(in crate::responder::openai) title: Option<String>,
    /// In characters (Unicode scalar values) of the text.
    pub(in crate::responder::openai) range: Option<(u32, u32)>,
}

/// The field of a choice that holds its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::responder::openai) enum DocumentForm {
    /// `delta`.
    #[default]
    Delta,
    /// `message`, as in a response that is not streamed.
    Message,
    /// `text`, as in the older completions API.
    Text,
}

impl WirePiece {
    /// Returns true if the piece has content of the reply.
    pub(super) fn has_content(&self) -> bool {
        !self.text.is_empty()
            || !self.reasoning.is_empty()
            || !self.calls.is_empty()
            || !self.images.is_empty()
    }

    /// Returns true if the reply, or the way to it, has advanced.
    pub(in crate::responder::openai) fn advances(&self) -> bool {
        self.has_content() || self.finish_reason.is_some() || self.usage.is_some()
    }
}
