//! Converts values of the core to messages of the wire contract, and requests from them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proto::{
    chat_request::Request,
    chat_response::Event as Wire,
    messages::{Visibility, message, metadata},
};

use crate::{
    proto,
    session::{
        Accepted, Content, Delta, Epoch, Error, ErrorKind, Event, ListedSession, Message, Metadata,
        NewMessage, Opened, Part, Position, Regeneration, ReplyPart, ReplyPosition, ReplyStarted,
        Result, Role, Session, Settings, Snapshot, Timestamp, TokenRecord, given_id,
    },
    transport::stream::{ClientRequest, Outbound},
};

/// Counts the additions to the contract, see `Opened.revision`.
const REVISION: u32 = 1;

/// Converts a request frame.
///
/// # Errors
/// `BadFrame` for a frame without a known request, `InvalidArgument` for a value that has no form
/// in the core.
pub(in crate::transport) fn client_request(request: proto::ChatRequest) -> Result<ClientRequest> {
    let Some(request) = request.request else {
        let message = "The frame holds none of open, send, stop, ping, regenerate";
        return Err(Error::new(ErrorKind::BadFrame, message));
    };
    Ok(match request {
        Request::Open(proto::Open { token, position: at, credential }) => ClientRequest::Open {
            token: token.filter(|token| !token.is_empty()),
            position: at.map(position).transpose()?,
            credential: credential.filter(|credential| !credential.is_empty()),
        },
        Request::Send(send) => {
            let id = send.client_message_id.clone();
            ClientRequest::Send { message: new_message(send), client_message_id: id }
        }
        Request::Regenerate(again) => {
            let id = again.client_message_id.clone();
            ClientRequest::Regenerate { again: regeneration(again), client_message_id: id }
        }
        Request::Stop(proto::Stop { seq }) => ClientRequest::Stop { seq },
        Request::Ping(proto::Ping {}) => ClientRequest::Ping,
    })
}

/// Converts a message. The core checks it.
///
/// # Errors
/// `InvalidArgument` for a text beside parts, and for a part without a known content.
pub(in crate::transport) fn new_message(send: proto::Send) -> Result<NewMessage> {
    let proto::Send { text, client_message_id, parts, parent_seq, metadata, options } = send;
    let content = match parts.is_empty() {
        true => Content::of_text(text),
        false if text.is_empty() => Content::of_parts(user_parts(parts)?),
        false => {
            let message = "text and parts exclude each other";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    };
    Ok(NewMessage {
        content,
        client_message_id: given_id(client_message_id.as_deref()),
        parent_seq,
        metadata: new_metadata(metadata),
        options: options.map(|options| Arc::new(options.into())),
    })
}

fn user_parts(parts: Vec<proto::Part>) -> Result<Vec<Part>> {
    let part = |(index, part): (usize, proto::Part)| {
        Part::try_from(part).map_err(|unknown| {
            Error::new(ErrorKind::InvalidArgument, format!("Part {index}: {unknown}"))
        })
    };
    parts.into_iter().enumerate().map(part).collect()
}

/// Converts a request for another reply.
pub(in crate::transport) fn regeneration(again: proto::Regenerate) -> Regeneration {
    let proto::Regenerate { seq, client_message_id, metadata, options } = again;
    Regeneration {
        seq,
        client_message_id: given_id(client_message_id.as_deref()),
        metadata: new_metadata(metadata),
        options: options.map(|options| Arc::new(options.into())),
    }
}

/// Converts metadata. The core checks it.
pub(in crate::transport) fn new_metadata(pairs: BTreeMap<String, String>) -> Metadata {
    Metadata::new(pairs)
}

/// Converts a position.
///
/// # Errors
/// `InvalidArgument` if the epoch is malformed.
pub(in crate::transport) fn position(at: proto::Position) -> Result<Position> {
    // The id of a reply that was never given is not honored, as that of a reply that has ended.
    let reply = at.reply.and_then(|reply| {
        let offset = reply.offset;
        reply.reply_id.parse().ok().map(|reply| ReplyPosition { reply, offset })
    });
    Ok(Position { epoch: Epoch::parse(&at.epoch)?, seq: at.seq, reply })
}

/// Returns the frame of an item. `None` for the end of a stream without an error, which has no
/// frame.
pub(in crate::transport) fn response(
    outbound: &Outbound,
    limits: &Settings,
    heartbeat: Duration,
) -> Option<proto::ChatResponse> {
    let event = match outbound {
        Outbound::Opened(open) => Wire::Opened(Box::new(opened(open, limits, heartbeat))),
        Outbound::Accepted(accept) => Wire::Accepted(accepted(accept)),
        Outbound::Event(event) => wire_event(event),
        Outbound::Refused { error, client_message_id } => {
            Wire::Error(refusal(error, client_message_id.clone(), false))
        }
        Outbound::Pong | Outbound::Heartbeat => Wire::Pong(proto::Pong {}),
        Outbound::End(Err(error)) => Wire::Error(refusal(error, None, true)),
        Outbound::End(Ok(())) => return None,
    };
    Some(proto::ChatResponse { event: Some(event) })
}

fn wire_event(event: &Event) -> Wire {
    match event {
        Event::Message(event) => {
            let visibility = Visibility { parent: event.shows_parent, provider_data: false };
            Wire::Message(Box::new(message(&event.message, visibility)))
        }
        Event::ReplyStarted(started) => Wire::ReplyStarted(reply_started(started)),
        Event::Delta(delta) => Wire::Delta(wire_delta(delta)),
        Event::ReplyPart(part) => Wire::ReplyPart(Box::new(reply_part(part))),
        Event::GoAway(after) => Wire::GoAway(proto::GoAway {
            reason: "shutting down".into(),
            reconnect_after_ms: millis(*after),
        }),
    }
}

fn wire_delta(delta: &Delta) -> proto::Delta {
    let Delta { reply, index, offset, end, piece, done, encoded: _ } = delta;
    proto::Delta {
        reply_id: reply.to_string(),
        index: *index,
        offset: *offset,
        end: *end,
        piece: Some(piece.into()),
        done: *done,
    }
}

fn reply_part(part: &ReplyPart) -> proto::ReplyPart {
    let ReplyPart { reply, index, offset, end, part, encoded: _ } = part;
    let content = proto::Part { provider_data: None, ..part.as_ref().into() };
    proto::ReplyPart {
        reply_id: reply.to_string(),
        index: *index,
        offset: *offset,
        end: *end,
        content: Some(content),
    }
}

fn opened(opened: &Opened, limits: &Settings, heartbeat: Duration) -> proto::Opened {
    proto::Opened {
        session: Some(session(&opened.session)),
        position: Some(wire_position(&opened.position)),
        recovered: opened.recovered,
        head_seq: opened.head_seq,
        heartbeat_interval_ms: millis(heartbeat),
        limits: Some(wire_limits(limits)),
        revision: REVISION,
    }
}

fn wire_limits(limits: &Settings) -> proto::Limits {
    let content = &limits.messages.content;
    proto::Limits {
        max_message_bytes: saturated(content.max_size),
        max_queued_turns: limits.max_queued_turns,
        max_session_messages: limits.max_session_messages,
        max_parts: saturated(content.max_parts),
        max_inline_file_bytes: saturated(content.max_inline_file_size),
        media_types: content.media_types.iter().map(owned).collect(),
        max_reply_bytes: saturated(limits.max_reply_size),
        max_text_bytes: saturated(content.max_text_size),
        max_reply_text_bytes: saturated(limits.max_reply_text_size),
    }
}

pub(in crate::transport) fn accepted(accepted: &Accepted) -> proto::Accepted {
    let message = &accepted.message;
    proto::Accepted {
        client_message_id: message.client_message_id().map(owned),
        message_id: message.id.to_string(),
        seq: message.seq,
        duplicate: accepted.duplicate,
        parent_seq: message.user().map_or(0, |user| user.parent_seq),
    }
}

// Converts an error.
fn refusal(error: &Error, client_message_id: Option<String>, is_final: bool) -> proto::Error {
    proto::Error {
        code: error.kind().code().into(),
        message: error.message().into(),
        retry_after_ms: error.wait().map(millis),
        client_message_id,
        r#final: is_final,
    }
}

/// Converts a session as its owner sees it, without the deadlines of a token.
pub(in crate::transport) fn owned_session(of: &Session) -> proto::Session {
    proto::Session { expires_at: None, ends_at: None, ..session(of) }
}

pub(in crate::transport) fn listed_session(listed: &ListedSession) -> proto::ListedSession {
    let (title, is_generated) = listed.shown_title();
    proto::ListedSession {
        session: Some(proto::Session { title, ..owned_session(&listed.session) }),
        active_at: Some(timestamp(listed.active_at)),
        head_seq: listed.head_seq,
        title_generated: is_generated,
    }
}

pub(in crate::transport) fn token_info(token: &TokenRecord) -> proto::TokenInfo {
    let (expires_at, ends_at) = token.deadlines.unzip();
    proto::TokenInfo {
        id: token.id.to_string(),
        scope: token.scope.as_str().into(),
        label: token.label.as_ref().map(owned),
        created_at: Some(timestamp(token.id.created_at())),
        expires_at: expires_at.map(timestamp),
        ends_at: ends_at.map(timestamp),
    }
}

pub(in crate::transport) fn session(session: &Session) -> proto::Session {
    proto::Session {
        id: session.id.to_string(),
        name: session.name.as_str().into(),
        created_at: Some(timestamp(session.created_at)),
        expires_at: Some(timestamp(session.expires_at)),
        ends_at: Some(timestamp(session.ends_at)),
        metadata: metadata(&session.metadata),
        title: session.title.as_ref().map(owned),
        delete_at: session.delete_at.map(timestamp),
    }
}

/// Converts a page. `provider_data` shows the data that responders keep with messages.
pub(in crate::transport) fn snapshot(
    snapshot: &Snapshot,
    provider_data: bool,
) -> proto::RefreshTokenResponse {
    let parents = shown_parents(&snapshot.messages);
    let messages = snapshot.messages.iter().zip(parents);
    let messages = messages.map(|(it, parent)| message(it, Visibility { parent, provider_data }));
    proto::RefreshTokenResponse {
        session: Some(session(&snapshot.session)),
        messages: messages.collect(),
        position: Some(wire_position(&snapshot.position())),
        has_more: snapshot.has_more,
        usage: Some(snapshot.usage.into()),
    }
}

/// Returns for each message of a page whether its parent has to be shown: it is the first user
/// message of the page, or its parent is not the user message before it.
fn shown_parents(messages: &[Arc<Message>]) -> impl Iterator<Item = bool> {
    let mut before = None;
    messages.iter().map(move |message| match &message.role {
        Role::User(user) => before.replace(message.seq) != Some(user.parent_seq),
        Role::Assistant(_) => false,
    })
}

fn reply_started(started: &ReplyStarted) -> proto::ReplyStarted {
    proto::ReplyStarted {
        reply_id: started.reply.to_string(),
        in_reply_to: started.in_reply_to.to_string(),
        attempt: started.attempt,
        offset: started.offset,
        context_trimmed: started.context_trimmed,
    }
}

pub(in crate::transport) fn wire_position(at: &Position) -> proto::Position {
    let reply = at.reply.map(|ReplyPosition { reply, offset }| proto::ReplyPosition {
        reply_id: reply.to_string(),
        offset,
    });
    proto::Position { epoch: at.epoch.as_str().into(), seq: at.seq, reply }
}

fn timestamp(time: Timestamp) -> proto::timestamp::Timestamp {
    proto::timestamp::Timestamp::from_millis(time.as_millis())
}

fn owned(text: &Arc<str>) -> String {
    text.as_ref().into()
}

fn millis(duration: Duration) -> u32 {
    duration.as_millis().try_into().unwrap_or(u32::MAX)
}

fn saturated(size: usize) -> u32 {
    size.try_into().unwrap_or(u32::MAX)
}
