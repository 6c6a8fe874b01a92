//! Converts values of the core to messages of the wire contract, and requests from them.

use std::{sync::Arc, time::Duration};

use proto::{chat_request::Request, chat_response::Event as Wire};

use crate::{
    proto,
    session::{
        Accepted, Epoch, Error, ErrorKind, Event, Opened, Position, ReplyStarted, Result, Session,
        Settings, Snapshot, Timestamp,
    },
    transport::stream::{ClientRequest, Outbound},
};

/// Converts a request frame.
///
/// # Errors
/// `BadFrame` for a frame without a known request, `InvalidArgument` for a malformed position.
pub(in crate::transport) fn client_request(request: proto::ChatRequest) -> Result<ClientRequest> {
    let Some(request) = request.request else {
        let message = "The frame holds none of open, send, stop, ping";
        return Err(Error::new(ErrorKind::BadFrame, message));
    };
    Ok(match request {
        Request::Open(proto::Open { token, position: at }) => ClientRequest::Open {
            token: token.filter(|token| !token.is_empty()),
            position: at.map(position).transpose()?,
        },
        Request::Send(proto::Send { text, client_message_id }) => {
            ClientRequest::Send { text, client_message_id }
        }
        Request::Stop(proto::Stop {}) => ClientRequest::Stop,
        Request::Ping(proto::Ping {}) => ClientRequest::Ping,
    })
}

/// Converts a position.
///
/// # Errors
/// `InvalidArgument` if the epoch is malformed.
pub(in crate::transport) fn position(at: proto::Position) -> Result<Position> {
    Ok(Position { epoch: Epoch::parse(&at.epoch)?, seq: at.seq })
}

/// Returns the frame of an item. `None` for the end of a stream without an error, which has no
/// frame.
pub(in crate::transport) fn response(
    outbound: &Outbound,
    limits: &Settings,
    heartbeat: Duration,
) -> Option<proto::ChatResponse> {
    let event = match outbound {
        Outbound::Opened(open) => Wire::Opened(opened(open, limits, heartbeat)),
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
        Event::Message(message) => Wire::Message(message.as_ref().into()),
        Event::ReplyStarted(started) => Wire::ReplyStarted(reply_started(started)),
        Event::Delta { reply, index, text } => Wire::Delta(proto::Delta {
            reply_id: reply.to_string(),
            index: *index,
            text: text.as_str().into(),
        }),
        Event::GoAway(after) => Wire::GoAway(proto::GoAway {
            reason: "shutting down".into(),
            reconnect_after_ms: millis(*after),
        }),
    }
}

fn opened(opened: &Opened, limits: &Settings, heartbeat: Duration) -> proto::Opened {
    proto::Opened {
        session: Some(session(&opened.session)),
        position: Some(wire_position(&opened.position)),
        recovered: opened.recovered,
        head_seq: opened.head_seq,
        heartbeat_interval_ms: millis(heartbeat),
        limits: Some(proto::Limits {
            max_message_bytes: saturated(limits.max_message_size),
            max_queued_turns: limits.max_queued_turns,
            max_session_messages: limits.max_session_messages,
        }),
    }
}

pub(in crate::transport) fn accepted(accepted: &Accepted) -> proto::Accepted {
    let message = &accepted.message;
    proto::Accepted {
        client_message_id: message.client_message_id().map(owned),
        message_id: message.id.to_string(),
        seq: message.seq,
        duplicate: accepted.duplicate,
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

pub(in crate::transport) fn session(session: &Session) -> proto::Session {
    proto::Session {
        id: session.id.to_string(),
        name: session.name.as_str().into(),
        created_at: Some(timestamp(session.created_at)),
        expires_at: Some(timestamp(session.expires_at)),
        ends_at: Some(timestamp(session.ends_at)),
    }
}

pub(in crate::transport) fn snapshot(
    snapshot: &Snapshot,
    after: Option<u32>,
) -> proto::RefreshTokenResponse {
    proto::RefreshTokenResponse {
        session: Some(session(&snapshot.session)),
        messages: snapshot.messages.iter().map(|message| message.as_ref().into()).collect(),
        position: Some(wire_position(&snapshot.position(after))),
        has_more: snapshot.has_more,
        usage: Some(snapshot.usage.into()),
    }
}

fn reply_started(started: &ReplyStarted) -> proto::ReplyStarted {
    proto::ReplyStarted {
        reply_id: started.reply.to_string(),
        in_reply_to: started.in_reply_to.to_string(),
        attempt: started.attempt,
        text: started.text.clone(),
        next_index: started.next_index,
        context_trimmed: started.context_trimmed,
    }
}

pub(in crate::transport) fn wire_position(at: &Position) -> proto::Position {
    proto::Position { epoch: at.epoch.as_str().into(), seq: at.seq }
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
