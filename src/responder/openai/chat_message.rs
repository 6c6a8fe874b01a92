//! A message of a request, as the model reads it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::session::estimate_tokens;

/// Tokens of a message beside its content: its role and its delimiters.
const PER_MESSAGE: u32 = 4;

/// Tokens of an image or a document. Every model counts differently.
const PER_FILE: u32 = 800;

/// A message as the model reads it.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct ChatMessage<'a> {
    pub(super) role: &'static str,
    /// `null` for calls without a text.
    pub(super) content: Option<ChatContent<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<ChatToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) reasoning_details: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
}

/// The content of a message: a text, or a list of parts.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum ChatContent<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<ChatPart<'a>>),
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ChatPart<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: ImageUrl<'a> },
    InputAudio { input_audio: InputAudio<'a> },
    File { file: ChatFile<'a> },
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ImageUrl<'a> {
    pub(super) url: &'a str,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct InputAudio<'a> {
    pub(super) data: &'a str,
    pub(super) format: &'static str,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ChatFile<'a> {
    pub(super) filename: &'a str,
    pub(super) file_data: &'a str,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ChatToolCall<'a> {
    pub(super) id: &'a str,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) function: ChatFunction<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extra_content: Option<Value>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ChatFunction<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: &'a str,
}

impl<'a> ChatMessage<'a> {
    /// Creates a message of one text.
    pub(super) fn text(role: &'static str, text: impl Into<Cow<'a, str>>) -> Self {
        Self { role, content: Some(ChatContent::Text(text.into())), ..Self::default() }
    }
}

impl ChatMessage<'_> {
    /// Estimates the tokens of the message.
    pub(super) fn tokens(&self) -> u32 {
        let content = self.content.as_ref().map_or(0, ChatContent::tokens);
        let calls = self.tool_calls.iter().map(|call| {
            let ChatFunction { name, arguments } = call.function;
            let extra = call.extra_content.iter().map(json_tokens);
            sum([estimate_tokens(name), estimate_tokens(arguments)].into_iter().chain(extra))
        });
        let details = self.reasoning_details.iter().map(json_tokens);
        let reasoning = self.reasoning_content.iter().map(|text| estimate_tokens(text));
        sum([PER_MESSAGE, content].into_iter().chain(calls).chain(details).chain(reasoning))
    }
}

impl ChatContent<'_> {
    fn tokens(&self) -> u32 {
        match self {
            Self::Text(text) => estimate_tokens(text),
            Self::Parts(parts) => sum(parts.iter().map(|part| match part {
                ChatPart::Text { text } => estimate_tokens(text),
                ChatPart::ImageUrl { .. } | ChatPart::InputAudio { .. } | ChatPart::File { .. } => {
                    PER_FILE
                }
            })),
        }
    }
}

fn json_tokens(value: &Value) -> u32 {
    estimate_tokens(&value.to_string())
}

/// Adds tokens. Saturates.
pub(super) fn sum(tokens: impl IntoIterator<Item = u32>) -> u32 {
    tokens.into_iter().fold(0, u32::saturating_add)
}
