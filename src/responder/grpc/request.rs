//! The request for one reply, with as much of the conversation as fits.

use std::{mem, sync::Arc};

use prost::{Message as _, length_delimiter_len};

use crate::{
    proto::{
        self,
        messages::{Visibility, message, metadata},
    },
    session::{Message, Prompt},
};

/// Largest request in bytes: the default limit of gRPC servers. The fields of short messages may
/// take more than their texts.
const MAX_REQUEST: usize = 4 << 20;

pub(super) fn request(prompt: &Prompt, max_reply_size: usize) -> proto::RespondRequest {
    proto::RespondRequest {
        session_id: prompt.session.to_string(),
        name: prompt.name.as_str().into(),
        reply_id: prompt.reply.to_string(),
        attempt: prompt.attempt,
        history: prompt.history.iter().map(|it| message(it, Visibility::ALL)).collect(),
        history_trimmed: prompt.is_trimmed,
        message: Some(message(&prompt.message, Visibility::ALL)),
        max_reply_bytes: max_reply_size.try_into().unwrap_or(u32::MAX),
        metadata: metadata(&prompt.metadata),
        options: prompt.options().map(Into::into),
    }
}

/// Removes the oldest messages until the request fits.
pub(super) fn trim(prompt: &mut Prompt) {
    let mut history = mem::take(&mut prompt.history);
    let room = MAX_REQUEST.saturating_sub(request(prompt, usize::MAX).encoded_len());
    let fitting = count_newest(&history, room);
    prompt.is_trimmed |= fitting < history.len();
    prompt.history = history.split_off(history.len() - fitting);
}

/// Returns the number of the newest messages that fit into `room` bytes of a request.
fn count_newest(history: &[Arc<Message>], mut room: usize) -> usize {
    let messages = history.iter().rev().map(|it| message(it, Visibility::ALL));
    let fitting = messages.take_while(|message| {
        let size = message.encoded_len();
        // An element of a repeated field: a tag of one byte, the length, the message.
        let left = room.checked_sub(1 + length_delimiter_len(size) + size);
        room = left.unwrap_or_default();
        left.is_some()
    });
    fitting.count()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::session::{
        Content, MessageId, Metadata, Name, Role, SessionId, Timestamp, UserFields,
    };

    /// Ada's, of user messages alone.
    pub(in crate::responder::grpc) fn prompt(history: &[&str]) -> Prompt {
        let message = |(seq, text): (u32, &&str)| Message {
            seq,
            id: MessageId::generate(),
            content: Content::of_text(*text),
            created_at: Timestamp::default(),
            metadata: Metadata::default(),
            role: Role::User(UserFields::default()),
        };
        let mut messages = (1..).zip(history.iter().chain([&"go"])).map(message).map(Arc::new);
        let history = messages.by_ref().take(history.len()).collect();
        Prompt {
            session: SessionId::generate(),
            name: Name::trusted("Ada"),
            reply: MessageId::generate(),
            attempt: 1,
            metadata: Metadata::default(),
            is_trimmed: false,
            history,
            message: messages.next().unwrap(),
        }
    }

    #[test]
    fn a_request_is_never_larger_than_a_server_takes_and_holds_what_fits() {
        let short = "x".repeat(100);
        let mut all = prompt(&vec![short.as_str(); 40_000]);
        trim(&mut all);
        let request = request(&all, usize::MAX);
        let (size, count) = (request.encoded_len(), request.history.len());
        let one_more = size / count;
        assert!(size <= MAX_REQUEST && size + one_more > MAX_REQUEST, "{size} of {count}");
        assert!(request.history_trimmed);
        let seqs = request.history.iter().map(|message| message.seq);
        assert!(seqs.eq(40_001 - u32::try_from(count).unwrap()..=40_000));
    }

    #[test]
    fn a_request_that_fits_is_whole() {
        let large = "x".repeat(MAX_REQUEST);
        for (history, kept, is_trimmed) in [(["one", "two"], 2, false), (["one", &large], 0, true)]
        {
            let mut prompt = prompt(&history);
            trim(&mut prompt);
            let request = request(&prompt, 1);
            assert_eq!((request.history.len(), request.history_trimmed), (kept, is_trimmed));
        }
    }
}
