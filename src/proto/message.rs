//! Messages of a log in the form of the contract: as clients see them, and a bot too.

use std::sync::Arc;

use crate::{
    proto::{self, timestamp::Timestamp},
    session::{Message, Role, Status, Usage},
};

impl From<&Message> for proto::Message {
    fn from(message: &Message) -> Self {
        let wire = Self {
            seq: message.seq,
            id: message.id.to_string(),
            text: message.text.as_ref().into(),
            created_at: Some(Timestamp::from_millis(message.created_at.as_millis())),
            ..Self::default()
        };
        let owned = |text: &Arc<str>| text.as_ref().into();
        match &message.role {
            Role::User { client_message_id } => Self {
                role: proto::Role::User.into(),
                client_message_id: client_message_id.as_ref().map(owned),
                ..wire
            },
            Role::Assistant { in_reply_to, status, finish_reason, usage } => Self {
                role: proto::Role::Assistant.into(),
                in_reply_to: Some(in_reply_to.to_string()),
                status: proto::MessageStatus::from(status).into(),
                finish_reason: finish_reason.as_ref().map(owned),
                usage: usage.map(Into::into),
                failure: status.failure().map(|failure| proto::Failure {
                    code: owned(&failure.code),
                    message: owned(&failure.message),
                }),
                ..wire
            },
        }
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
        let Usage { input_tokens, output_tokens, estimated } = usage;
        Self { input_tokens, output_tokens, estimated }
    }
}

impl From<proto::Usage> for Usage {
    fn from(usage: proto::Usage) -> Self {
        let proto::Usage { input_tokens, output_tokens, estimated } = usage;
        Self { input_tokens, output_tokens, estimated }
    }
}
