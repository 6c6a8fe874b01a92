use std::{sync::Arc, time::Duration};

use proptest::{option, prelude::*};
use prost::Message as _;

use super::*;
use crate::{
    session::{Content, EncodedForms, MessageEvent, Metadata, Settings},
    transport::codec::convert::response,
};

fn id() -> impl Strategy<Value = MessageId> {
    any::<[u8; 16]>().prop_map(MessageId::from_bytes)
}

fn shared() -> impl Strategy<Value = Arc<str>> {
    any::<String>().prop_map(Into::into)
}

/// Small numbers, and large ones.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..200_u32, any::<u32>()]
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{100,300}", "[\\x00-\\x7f]{0,40}", Just("é".repeat(9000))]
}

fn user() -> impl Strategy<Value = Role> {
    (option::of(shared()), number(), option::of(number())).prop_map(
        |(client_message_id, parent_seq, regenerates_seq)| {
            let options = None;
            Role::User(UserFields { client_message_id, parent_seq, regenerates_seq, options })
        },
    )
}

fn usage() -> impl Strategy<Value = Usage> {
    let details = || option::of(number());
    (number(), number(), any::<bool>(), details(), details(), details()).prop_map(
        |(input, output, estimated, cached_input_tokens, cache_write_tokens, reasoning_tokens)| {
            Usage {
                estimated,
                cached_input_tokens,
                cache_write_tokens,
                reasoning_tokens,
                ..Usage::exact(input, output)
            }
        },
    )
}

fn reply() -> impl Strategy<Value = Role> {
    let status =
        prop_oneof![Just(Status::Complete), Just(Status::Stopped), Just(Status::Interrupted),];
    let texts = (option::of(shared()), option::of(shared()));
    let times = (option::of(number()), option::of(number()));
    (id(), status, texts, option::of(usage()), times).prop_map(
        |(in_reply_to, status, (finish_reason, model), usage, (first_content_ms, duration_ms))| {
            Role::Assistant(ReplyFields {
                finish_reason,
                usage,
                model,
                first_content_ms,
                duration_ms,
                ..ReplyFields::new(in_reply_to, 1, status)
            })
        },
    )
}

fn message() -> impl Strategy<Value = Arc<Message>> {
    // To the year 9999, which is as far as RFC 3339 goes.
    let created_at = prop_oneof![Just(0), Just(999), 0..253_402_300_799_999_u64];
    (number(), id(), texts(), created_at, prop_oneof![user(), reply()]).prop_map(
        |(seq, id, text, created_at, role)| {
            let (content, metadata) = (Content::of_text(text), Metadata::default());
            let created_at = Timestamp::from_millis(created_at);
            Arc::new(Message { seq, id, content, created_at, metadata, role })
        },
    )
}

fn outbound() -> impl Strategy<Value = Outbound> {
    let encoded = EncodedForms::default;
    let accepted = (message(), any::<bool>()).prop_map(|(message, duplicate)| {
        Outbound::Accepted(Accepted { message, duplicate, reply_seq: None })
    });
    let message = (message(), any::<bool>()).prop_map(move |(message, shows_parent)| {
        Outbound::Event(Event::Message(MessageEvent { message, shows_parent, encoded: encoded() }))
    });
    let started = (id(), id(), number(), number(), any::<bool>()).prop_map(
        |(reply, in_reply_to, attempt, offset, context_trimmed)| {
            let started = ReplyStarted { reply, in_reply_to, attempt, offset, context_trimmed };
            Outbound::Event(Event::ReplyStarted(Arc::new(started)))
        },
    );
    let delta = (id(), number(), number(), number(), texts(), any::<[bool; 2]>()).prop_map(
        move |(reply, index, offset, end, text, [done, is_text])| {
            let text = Arc::new(text);
            let piece = if is_text { DeltaPiece::Text(text) } else { DeltaPiece::Reasoning(text) };
            let encoded = encoded();
            Outbound::Event(Event::Delta(Delta { reply, index, offset, end, piece, done, encoded }))
        },
    );
    prop_oneof![accepted, message, started, delta]
}

proptest! {
    #[test]
    fn the_frames_are_those_of_the_generated_messages(outbound in outbound()) {
        let generated = response(&outbound, &Settings::default(), Duration::ZERO).unwrap();
        let json = frame::<JsonWriter>(&outbound).unwrap();
        prop_assert_eq!(json, serde_json::to_string(&generated).unwrap());
        let bytes = frame::<ProtoWriter>(&outbound).unwrap();
        prop_assert_eq!(&bytes[..], &generated.encode_to_vec()[..]);
    }
}

/// A new field of the contract has to be written here too: the test above has no value for it.
#[test]
fn the_messages_have_the_fields_that_are_written() {
    let crate::proto::Delta { reply_id: _, index: _, offset: _, end: _, done: _, piece: _ } =
        crate::proto::Delta::default();
    let crate::proto::ReplyStarted {
        reply_id: _,
        in_reply_to: _,
        attempt: _,
        offset: _,
        context_trimmed: _,
    } = crate::proto::ReplyStarted::default();
    let crate::proto::Accepted {
        client_message_id: _,
        message_id: _,
        seq: _,
        duplicate: _,
        parent_seq: _,
    } = crate::proto::Accepted::default();
    let crate::proto::Usage {
        input_tokens: _,
        output_tokens: _,
        estimated: _,
        cached_input_tokens: _,
        cache_write_tokens: _,
        reasoning_tokens: _,
    } = crate::proto::Usage::default();
    let crate::proto::Message {
        seq: _,
        id: _,
        role: _,
        text: _,
        created_at: _,
        parts: _,
        metadata: _,
        client_message_id: _,
        parent_seq: _,
        regenerates_seq: _,
        in_reply_to: _,
        status: _,
        finish_reason: _,
        failure: _,
        usage: _,
        model: _,
        first_content_ms: _,
        duration_ms: _,
        provider_data: _,
    } = crate::proto::Message::default();
}
