//! A message of the log in the answers of REST.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use utoipa::ToSchema;

use super::{schema, timestamp::rfc3339};
use crate::session::{
    Failure, Message, Part, PartContent, ReplyFields, Role, Status, Usage, UserFields,
};

/// A message of the log.
#[derive(Default, Serialize, ToSchema)]
pub(in crate::transport) struct LogEntry {
    #[schema(format = "uuid")]
    id: String,
    /// The whole content if it is one text. Otherwise the texts of its parts.
    msg: String,
    #[schema(format = DateTime)]
    timestamp: String,
    /// `user` or `assistant`.
    role: &'static str,
    #[schema(value_type = i64, minimum = 0)]
    seq: u32,
    /// The content, unless it is one text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::Part>)]
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<String>,
    /// Of a user message: the user message before it on its branch. 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
    parent_seq: Option<u32>,
    /// Of a user message that asks again: the message that asked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 1)]
    regenerates_seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_reply_to: Option<String>,
    /// How a reply ended: `complete`, `stopped`, `interrupted`, `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Tokens>,
    /// Why a reply failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<ReplyFailure>,
    /// The model that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// From the start of a reply to its first content.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
    first_content_ms: Option<u32>,
    /// From the start of a reply to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
    duration_ms: Option<u32>,
}

/// The failure of a reply.
#[derive(Serialize, ToSchema)]
struct ReplyFailure {
    /// For programs; stable.
    #[schema(example = "upstream_unavailable")]
    code: String,
    /// For people.
    message: String,
}

/// Tokens of the model that a reply took.
#[derive(Serialize, ToSchema)]
struct Tokens {
    #[schema(value_type = i64, minimum = 0)]
    input_tokens: u32,
    #[schema(value_type = i64, minimum = 0)]
    output_tokens: u32,
    /// The numbers, or a part of them, are the gateway's estimate.
    estimated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
    cached_input_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
    cache_write_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<i64>, minimum = 0)]
    reasoning_tokens: Option<u32>,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        let Usage {
            input_tokens,
            output_tokens,
            estimated,
            cached_input_tokens,
            cache_write_tokens,
            reasoning_tokens,
        } = usage;
        Self {
            input_tokens,
            output_tokens,
            estimated,
            cached_input_tokens,
            cache_write_tokens,
            reasoning_tokens,
        }
    }
}

impl LogEntry {
    pub(super) fn new(message: &Message) -> Self {
        let entry = Self {
            id: message.id.to_string(),
            msg: message.text().as_ref().into(),
            timestamp: rfc3339(message.created_at),
            seq: message.seq,
            parts: visible_parts(message),
            metadata: message.metadata.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            ..Self::default()
        };
        let text = |text: &Option<Arc<str>>| text.as_deref().map(Into::into);
        match &message.role {
            Role::User(user) => {
                let UserFields { client_message_id, parent_seq, regenerates_seq, .. } = user;
                Self {
                    role: "user",
                    client_message_id: text(client_message_id),
                    parent_seq: Some(*parent_seq),
                    regenerates_seq: *regenerates_seq,
                    ..entry
                }
            }
            Role::Assistant(reply) => {
                let ReplyFields { in_reply_to, status, finish_reason, usage, model, .. } = reply;
                Self {
                    role: "assistant",
                    in_reply_to: Some(in_reply_to.to_string()),
                    status: Some(status.as_str()),
                    finish_reason: text(finish_reason),
                    usage: usage.map(Into::into),
                    failure: ReplyFailure::of(status),
                    model: text(model),
                    first_content_ms: reply.first_content_ms,
                    duration_ms: reply.duration_ms,
                    ..entry
                }
            }
        }
    }
}

/// Returns the parts without provider data. None if the text is all that is left.
fn visible_parts(message: &Message) -> Vec<Part> {
    let visible = |part: &Part| Part { provider_data: None, ..part.clone() };
    let parts: Vec<_> = message.content.parts().iter().map(visible).collect();
    match &parts[..] {
        [Part { content: PartContent::Text(_), citations, .. }] if citations.is_empty() => {
            Vec::new()
        }
        _ => parts,
    }
}

impl ReplyFailure {
    fn of(status: &Status) -> Option<Self> {
        match status {
            Status::Complete | Status::Stopped | Status::Interrupted => None,
            Status::Failed(Failure { code, message }) => {
                Some(Self { code: code.as_ref().into(), message: message.as_ref().into() })
            }
        }
    }
}
