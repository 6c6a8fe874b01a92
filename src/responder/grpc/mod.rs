//! A bot of one's own: `duologue.v1.ResponderService`, called over gRPC.
//!
//! One connection carries all replies, and is made when the first is asked for: the
//! gateway starts though the bot is not up yet.
//!
//! `connect` makes it, `channel` shares it. `reply` runs one reply, each `call` of which goes
//! over it; `failure` says why one did not come. `status` sees to answers that no bot gave.

mod call;
mod channel;
mod connect;
mod failure;
mod reply_stream;
mod settings;
mod status;

use std::{mem, sync::Arc};

use prost::{Message as _, length_delimiter_len};
use secrecy::ExposeSecret as _;
use tonic::metadata::{Ascii, MetadataValue};

use crate::{
    proto,
    responder::upstream::limiter::Limiter,
    session::{History, Message, Prompt, Reply, Responder, estimate_tokens},
};
use channel::Channel;
use connect::Connector;
use reply_stream::ReplyStream;
pub use settings::{Endpoint, Settings};

/// Bytes of text of the messages that a bot is shown.
const HISTORY_SIZE: usize = 2 << 20;

/// Largest request, in bytes: gRPC servers take no larger ones unless told otherwise. Many
/// short messages take more beside their texts than in them.
const MAX_REQUEST: usize = 4 << 20;

/// Largest frame of a bot's, in bytes.
const MAX_FRAME: usize = 4 << 20;

/// Answers by asking a bot.
#[derive(Debug)]
pub struct Bot(Arc<Shared>);

/// What all replies share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
    limiter: Limiter,
}

impl Bot {
    /// Prepares the calls. Nothing is connected yet.
    ///
    /// # Errors
    /// One sentence for the operator: the authorities cannot be read, or there are none.
    pub fn new(settings: Settings) -> Result<Self, String> {
        if settings.token.is_some() && settings.endpoint.is_exposed() {
            tracing::warn!("the bot's token can be read on its way: use https://");
        }
        let channel = Channel::new(Connector::new(&settings)?);
        let authorization = settings.token.as_ref().map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_| "the bot's token does not fit into a header")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let limiter = Limiter::new(settings.capacity);
        let authorization = authorization.transpose()?;
        Ok(Self(Arc::new(Shared { settings, channel, authorization, limiter })))
    }
}

impl Responder for Bot {
    fn history(&self) -> History {
        History { messages: self.0.settings.history, size: HISTORY_SIZE }
    }

    fn respond(&self, mut prompt: Prompt) -> Reply {
        trim(&mut prompt);
        let texts = prompt.history.iter().chain([&prompt.message]);
        let tokens = texts.map(|message| estimate_tokens(&message.text));
        Reply {
            // A bot that wants no history remembers by itself.
            context_trimmed: is_trimmed(&prompt) && self.0.settings.history > 0,
            input_tokens: Some(tokens.fold(0, u32::saturating_add)),
            chunks: ReplyStream::new(&self.0, prompt).chunks(),
        }
    }
}

fn request(prompt: &Prompt, max_reply_size: usize) -> proto::RespondRequest {
    proto::RespondRequest {
        session_id: prompt.session.to_string(),
        name: prompt.name.as_str().into(),
        reply_id: prompt.reply.to_string(),
        attempt: prompt.attempt,
        history: prompt.history.iter().map(|message| message.as_ref().into()).collect(),
        history_trimmed: is_trimmed(prompt),
        message: Some(prompt.message.as_ref().into()),
        max_reply_bytes: max_reply_size.try_into().unwrap_or(u32::MAX),
    }
}

/// There are older messages than those in it.
fn is_trimmed(prompt: &Prompt) -> bool {
    prompt.history.first().unwrap_or(&prompt.message).seq > 1
}

/// Leaves the oldest messages out, as many as make the request too large.
fn trim(prompt: &mut Prompt) {
    let mut history = mem::take(&mut prompt.history);
    let room = MAX_REQUEST.saturating_sub(request(prompt, usize::MAX).encoded_len());
    let fitting = count_newest(&history, room);
    prompt.history = history.split_off(history.len() - fitting);
}

/// How many of the newest messages so many bytes of a request hold.
fn count_newest(history: &[Arc<Message>], mut room: usize) -> usize {
    let messages = history.iter().rev().map(|message| proto::Message::from(message.as_ref()));
    let fitting = messages.take_while(|message| {
        let size = message.encoded_len();
        // Of a repeated field: a tag of one byte, the length, the message.
        let left = room.checked_sub(1 + length_delimiter_len(size) + size);
        room = left.unwrap_or_default();
        left.is_some()
    });
    fitting.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{MessageId, Name, Role, SessionId, Timestamp};

    /// Ada's, of user messages alone.
    pub(super) fn prompt(history: &[&str]) -> Prompt {
        let message = |(seq, text): (u32, &&str)| Message {
            seq,
            id: MessageId::generate(),
            text: (*text).into(),
            created_at: Timestamp::default(),
            role: Role::User { client_message_id: None },
        };
        let mut messages = (1..).zip(history.iter().chain([&"go"])).map(message).map(Arc::new);
        let history = messages.by_ref().take(history.len()).collect();
        Prompt {
            session: SessionId::generate(),
            name: Name::trusted("Ada"),
            reply: MessageId::generate(),
            attempt: 1,
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
