//! Messages of a log in the form of the contract: as clients see them, and a bot too.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    proto::{self, timestamp::Timestamp},
    session::{
        Content, Message, Metadata, Part, ReplyFields, Role, Status, Tool, TurnOptions, Usage,
    },
};

/// Fields of a message that not every reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visibility {
    /// The parent of a user message.
    pub parent: bool,
    /// The provider data of parts and replies.
    pub provider_data: bool,
}

impl Visibility {
    /// A bot sees everything.
    pub const ALL: Self = Self { parent: true, provider_data: true };
}

fn owned(text: &Arc<str>) -> String {
    text.as_ref().into()
}

/// Converts metadata.
#[must_use]
pub fn metadata(metadata: &Metadata) -> BTreeMap<String, String> {
    // Collecting nothing would still allocate and sort.
    if metadata.is_empty() {
        return BTreeMap::new();
    }
    metadata.iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// Converts the parts of a content. Empty if its text is all that the reader sees.
fn parts(content: &Content, visibility: Visibility) -> Vec<proto::Part> {
    match content.parts() {
        [only] if !visibility.provider_data && is_text_alone(only) => Vec::new(),
        parts => {
            let visible = |part: &Part| {
                let mut wire = proto::Part::from(part);
                if !visibility.provider_data {
                    wire.provider_data = None;
                }
                wire
            };
            parts.iter().map(visible).collect()
        }
    }
}

fn is_text_alone(part: &Part) -> bool {
    part.content.text().is_some() && part.citations.is_empty()
}

/// Converts a message for a reader.
#[must_use]
pub fn message(message: &Message, visibility: Visibility) -> proto::Message {
    let wire = proto::Message {
        seq: message.seq,
        id: message.id.to_string(),
        text: owned(message.text()),
        created_at: Some(Timestamp::from_millis(message.created_at.as_millis())),
        parts: parts(&message.content, visibility),
        metadata: metadata(&message.metadata),
        ..proto::Message::default()
    };
    match &message.role {
        Role::User(user) => proto::Message {
            role: proto::Role::User.into(),
            client_message_id: user.client_message_id.as_ref().map(owned),
            parent_seq: visibility.parent.then_some(user.parent_seq),
            regenerates_seq: user.regenerates_seq,
            ..wire
        },
        Role::Assistant(reply) => of_reply(wire, reply, visibility),
    }
}

fn of_reply(wire: proto::Message, reply: &ReplyFields, visibility: Visibility) -> proto::Message {
    let provider_data = reply.provider_data.as_ref().filter(|_| visibility.provider_data);
    proto::Message {
        role: proto::Role::Assistant.into(),
        in_reply_to: Some(reply.in_reply_to.to_string()),
        status: Some(proto::MessageStatus::from(&reply.status).into()),
        finish_reason: reply.finish_reason.as_ref().map(owned),
        usage: reply.usage.map(Into::into),
        failure: reply.status.failure().map(|failure| proto::Failure {
            code: owned(&failure.code),
            message: owned(&failure.message),
        }),
        model: reply.model.as_ref().map(owned),
        first_content_ms: reply.first_content_ms,
        duration_ms: reply.duration_ms,
        provider_data: provider_data.map(owned),
        ..wire
    }
}

impl From<&Status> for proto::MessageStatus {
    fn from(status: &Status) -> Self {
        match status {
            Status::Complete => Self::Complete,
            Status::Stopped => Self::Stopped,
            Status::Interrupted => Self::Interrupted,
            Status::Failed(_) => Self::Failed,
        }
    }
}

impl From<Usage> for proto::Usage {
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

impl From<proto::Usage> for Usage {
    fn from(usage: proto::Usage) -> Self {
        let proto::Usage {
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

impl From<&TurnOptions> for proto::TurnOptions {
    fn from(options: &TurnOptions) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_ref().map(owned);
        let tool = |tool: &Tool| proto::Tool {
            name: owned(&tool.name),
            description: text(&tool.description),
            parameters: text(&tool.parameters),
        };
        Self {
            model: text(&options.model),
            instructions: text(&options.instructions),
            tools: options.tools.iter().map(tool).collect(),
            tool_choice: text(&options.tool_choice),
            max_output_tokens: options.max_output_tokens,
            temperature: options.temperature,
            extra: text(&options.extra),
        }
    }
}

impl From<proto::TurnOptions> for TurnOptions {
    fn from(options: proto::TurnOptions) -> Self {
        let text = |text: Option<String>| text.map(Into::into);
        let tool = |tool: proto::Tool| Tool {
            name: tool.name.into(),
            description: text(tool.description),
            parameters: text(tool.parameters),
        };
        Self {
            model: text(options.model),
            instructions: text(options.instructions),
            tools: options.tools.into_iter().map(tool).collect(),
            tool_choice: text(options.tool_choice),
            max_output_tokens: options.max_output_tokens,
            temperature: options.temperature,
            extra: text(options.extra),
        }
    }
}
