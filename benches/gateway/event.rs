//! The parts of the gateway's events that are checked, from both encodings.

use duologue::proto::{self, chat_response::Event as Proto, delta::Piece};
use serde::Deserialize;

use crate::Result;

/// An event of the gateway.
pub(crate) enum Event<'a> {
    /// The stream is attached.
    Opened,
    /// A message is durable: its `client_message_id`, and true for a duplicate.
    Accepted(&'a str, bool),
    /// A user's message was committed.
    User { seq: u32, id: &'a str, client_message_id: &'a str },
    /// Any other event.
    Other,
    /// More of the reply.
    Delta(&'a str),
    /// A reply was committed.
    Reply { seq: u32, text: &'a str, in_reply_to: &'a str, complete: bool },
    /// An error, or `go_away`.
    Failure(&'a str),
}

impl<'a> Event<'a> {
    /// From a decoded protobuf message.
    pub(crate) fn of(response: &'a proto::ChatResponse) -> Result<Self> {
        Ok(match response.event.as_ref().ok_or("an event of no kind")? {
            Proto::Opened(_) => Self::Opened,
            Proto::Accepted(accepted) => Self::Accepted(
                accepted.client_message_id.as_deref().unwrap_or_default(),
                accepted.duplicate,
            ),
            Proto::Message(message) if message.role() == proto::Role::User => Self::User {
                seq: message.seq,
                id: &message.id,
                client_message_id: message.client_message_id.as_deref().unwrap_or_default(),
            },
            Proto::Message(message) => Self::Reply {
                seq: message.seq,
                text: &message.text,
                in_reply_to: message.in_reply_to.as_deref().unwrap_or_default(),
                complete: message.status() == proto::MessageStatus::Complete,
            },
            Proto::Delta(delta) => match &delta.piece {
                Some(Piece::Text(text)) => Self::Delta(text),
                _ => return Err("a delta without text".into()),
            },
            Proto::ReplyStarted(_) | Proto::ReplyPart(_) | Proto::Pong(_) => Self::Other,
            Proto::Error(error) => Self::Failure(&error.message),
            Proto::GoAway(go_away) => Self::Failure(&go_away.reason),
        })
    }

    /// From proto-JSON, without a copy: this end must not be slower than the server.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self> {
        let Json { accepted, message, delta, opened, reply_started, pong } =
            serde_json::from_slice(json)?;
        Ok(match (accepted, message, delta) {
            (Some(accepted), ..) => Self::Accepted(accepted.client_message_id, accepted.duplicate),
            (_, Some(message), _) if message.role == "ROLE_USER" => Self::User {
                seq: message.seq,
                id: message.id,
                client_message_id: message.client_message_id.unwrap_or_default(),
            },
            (_, Some(message), _) => Self::Reply {
                seq: message.seq,
                text: message.text,
                in_reply_to: message.in_reply_to.unwrap_or_default(),
                complete: message.status == Some("MESSAGE_STATUS_COMPLETE"),
            },
            (.., Some(delta)) => Self::Delta(delta.text),
            _ if opened.is_some() => Self::Opened,
            _ if reply_started.is_some() || pong.is_some() => Self::Other,
            _ => Self::Failure(str::from_utf8(json)?),
        })
    }
}

/// `ChatResponse` in proto-JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    #[serde(borrow)]
    accepted: Option<Accepted<'a>>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    opened: Option<Anything>,
    reply_started: Option<Anything>,
    pong: Option<Anything>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    client_message_id: &'a str,
    duplicate: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    seq: u32,
    id: &'a str,
    role: &'a str,
    text: &'a str,
    status: Option<&'a str>,
    in_reply_to: Option<&'a str>,
    client_message_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    text: &'a str,
}

/// An object with any fields.
#[derive(Deserialize)]
struct Anything {}
