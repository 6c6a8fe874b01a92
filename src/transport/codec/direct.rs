//! The frames of every turn, written from the values of the core.
//!
//! The generated messages own their texts, so that a frame by way of them copies each text and
//! allocates each id, and the generated JSON escapes each name. The frames here are the same bytes
//! at half the price; a test compares them. All other frames, and those with parts, metadata or a
//! failure, take the generated way.

mod json;
mod protobuf;

pub(super) use json::JsonWriter;
pub(super) use protobuf::ProtoWriter;

use crate::{
    session::{
        Accepted, Delta, DeltaPiece, Event, Message, MessageId, ReplyFields, ReplyStarted, Role,
        Status, Timestamp, Usage, UserFields,
    },
    transport::stream::Outbound,
};

/// A field of the contract: its number and its name in JSON.
#[derive(Clone, Copy)]
pub(super) struct Field {
    tag: u8,
    name: &'static str,
}

const fn field(tag: u8, name: &'static str) -> Field {
    Field { tag, name }
}

/// Writes the fields of a message, in the order of their numbers.
///
/// The methods with `some_` are for fields with presence. The others are left out of protobuf if
/// they have the default value.
pub(super) trait FrameWriter: Sized {
    /// The finished frame.
    type Frame;

    /// A `oneof` comes after all other fields, as the generated code of JSON writes it.
    const ONEOF_IS_LAST: bool;

    /// Writes a `ChatResponse` with one event. `size` is the size of its texts.
    fn frame(event: Field, size: usize, fields: impl FnOnce(&mut Self)) -> Self::Frame;

    fn id(&mut self, field: Field, id: MessageId);
    fn text(&mut self, field: Field, text: &str);
    fn some_text(&mut self, field: Field, text: &str);
    fn number(&mut self, field: Field, number: u32);
    fn some_number(&mut self, field: Field, number: u32);
    fn flag(&mut self, field: Field, flag: bool);
    /// Writes a value of an enumeration, which is not the default.
    fn choice(&mut self, field: Field, value: u8, name: &'static str);
    fn time(&mut self, field: Field, time: Timestamp);
    /// Writes a message of less than 128 bytes.
    fn message(&mut self, field: Field, fields: impl FnOnce(&mut Self));
}

/// Returns the frame of an item. `None` if the item needs the generated encoder.
pub(super) fn frame<W: FrameWriter>(outbound: &Outbound) -> Option<W::Frame> {
    match outbound {
        Outbound::Accepted(it) => Some(W::frame(field(2, "accepted"), 0, |w| accepted(w, it))),
        Outbound::Event(Event::Message(event)) => {
            let message = &event.message;
            let write = |w: &mut W| self::message(w, message, event.shows_parent);
            is_plain(message).then(|| W::frame(field(3, "message"), message.text().len(), write))
        }
        Outbound::Event(Event::ReplyStarted(it)) => {
            Some(W::frame(field(4, "replyStarted"), 0, |w| reply_started(w, it)))
        }
        Outbound::Event(Event::Delta(it)) => {
            let (piece, text) = match &it.piece {
                DeltaPiece::Text(text) => (field(5, "text"), text),
                DeltaPiece::Reasoning(text) => (field(6, "reasoning"), text),
                DeltaPiece::ToolCall(_) => return None,
            };
            Some(W::frame(field(5, "delta"), text.len(), |w| delta(w, it, piece, text)))
        }
        Outbound::Event(Event::ReplyPart(_) | Event::GoAway(_))
        | Outbound::Opened(_)
        | Outbound::Refused { .. }
        | Outbound::Pong
        | Outbound::Heartbeat
        | Outbound::End(_) => None,
    }
}

/// Returns true for a message that is one text, without metadata or a failure.
fn is_plain(message: &Message) -> bool {
    let failed = match &message.role {
        Role::User(_) => false,
        Role::Assistant(reply) => reply.status.failure().is_some(),
    };
    message.content.parts().is_empty() && message.metadata.is_empty() && !failed
}

fn accepted(w: &mut impl FrameWriter, accepted: &Accepted) {
    let message = &accepted.message;
    if let Some(id) = message.client_message_id() {
        w.some_text(field(1, "clientMessageId"), id);
    }
    w.id(field(2, "messageId"), message.id);
    w.number(field(3, "seq"), message.seq);
    w.flag(field(4, "duplicate"), accepted.duplicate);
    w.number(field(5, "parentSeq"), message.user().map_or(0, |user| user.parent_seq));
}

fn message(w: &mut impl FrameWriter, message: &Message, shows_parent: bool) {
    w.number(field(1, "seq"), message.seq);
    w.id(field(2, "id"), message.id);
    match &message.role {
        Role::User(_) => w.choice(field(3, "role"), 1, "ROLE_USER"),
        Role::Assistant(_) => w.choice(field(3, "role"), 2, "ROLE_ASSISTANT"),
    }
    w.text(field(4, "text"), message.text());
    w.time(field(5, "createdAt"), message.created_at);
    match &message.role {
        Role::User(user) => user_fields(w, user, shows_parent),
        Role::Assistant(reply) => reply_fields(w, reply),
    }
}

fn user_fields(w: &mut impl FrameWriter, user: &UserFields, shows_parent: bool) {
    if let Some(id) = &user.client_message_id {
        w.some_text(field(8, "clientMessageId"), id);
    }
    if shows_parent {
        w.some_number(field(9, "parentSeq"), user.parent_seq);
    }
    if let Some(seq) = user.regenerates_seq {
        w.some_number(field(10, "regeneratesSeq"), seq);
    }
}

fn reply_fields(w: &mut impl FrameWriter, reply: &ReplyFields) {
    w.id(field(11, "inReplyTo"), reply.in_reply_to);
    let (status, name) = match &reply.status {
        Status::Complete => (1, "MESSAGE_STATUS_COMPLETE"),
        Status::Stopped => (2, "MESSAGE_STATUS_STOPPED"),
        Status::Interrupted => (3, "MESSAGE_STATUS_INTERRUPTED"),
        Status::Failed(_) => (4, "MESSAGE_STATUS_FAILED"),
    };
    w.choice(field(12, "status"), status, name);
    if let Some(reason) = &reply.finish_reason {
        w.some_text(field(13, "finishReason"), reason);
    }
    if let Some(it) = reply.usage {
        w.message(field(15, "usage"), |w| usage(w, it));
    }
    if let Some(model) = &reply.model {
        w.some_text(field(16, "model"), model);
    }
    if let Some(millis) = reply.first_content_ms {
        w.some_number(field(17, "firstContentMs"), millis);
    }
    if let Some(millis) = reply.duration_ms {
        w.some_number(field(18, "durationMs"), millis);
    }
}

fn usage(w: &mut impl FrameWriter, usage: Usage) {
    w.number(field(1, "inputTokens"), usage.input_tokens);
    w.number(field(2, "outputTokens"), usage.output_tokens);
    w.flag(field(3, "estimated"), usage.estimated);
    let details = [
        (field(4, "cachedInputTokens"), usage.cached_input_tokens),
        (field(5, "cacheWriteTokens"), usage.cache_write_tokens),
        (field(6, "reasoningTokens"), usage.reasoning_tokens),
    ];
    for (field, tokens) in details {
        if let Some(tokens) = tokens {
            w.some_number(field, tokens);
        }
    }
}

fn reply_started(w: &mut impl FrameWriter, started: &ReplyStarted) {
    w.id(field(1, "replyId"), started.reply);
    w.id(field(2, "inReplyTo"), started.in_reply_to);
    w.number(field(3, "attempt"), started.attempt);
    w.number(field(4, "offset"), started.offset);
    w.flag(field(5, "contextTrimmed"), started.context_trimmed);
}

fn delta<W: FrameWriter>(w: &mut W, delta: &Delta, piece: Field, text: &str) {
    w.id(field(1, "replyId"), delta.reply);
    w.number(field(2, "index"), delta.index);
    w.number(field(3, "offset"), delta.offset);
    w.number(field(4, "end"), delta.end);
    if W::ONEOF_IS_LAST {
        w.flag(field(8, "done"), delta.done);
        w.some_text(piece, text);
    } else {
        w.some_text(piece, text);
        w.flag(field(8, "done"), delta.done);
    }
}

#[cfg(test)]
mod tests;
