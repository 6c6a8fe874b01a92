//! A bot of one's own: `duologue.v1.ResponderService`, called over gRPC.
//!
//! One connection carries all replies, and is made when the first is asked for: the
//! gateway starts though the bot is not up yet.
//!
//! `connect` makes it, `channel` shares it, `reply` runs one reply over it, `failure` says
//! why one did not come; `status` sees to answers that no bot gave.

mod channel;
mod connect;
mod failure;
mod reply;
mod settings;
mod status;

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tonic::metadata::{Ascii, MetadataValue};

use crate::{
    proto,
    responder::admission::Admission,
    session::{History, Prompt, Reply, Responder, estimate_tokens},
};
use channel::Channel;
use connect::Connector;
use reply::Answer;
pub use settings::{Endpoint, Settings};

/// Bytes of text of the messages that a bot is shown: gRPC servers take requests of
/// 4 MiB unless told otherwise.
const HISTORY_SIZE: usize = 2 << 20;

/// Largest frame of a bot's, in bytes.
const MAX_FRAME: usize = 4 << 20;

/// Answers by asking a bot.
#[derive(Debug)]
pub struct Bot {
    settings: Settings,
    channel: Arc<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    admission: Arc<Admission>,
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
        let channel = Arc::new(Channel::new(Connector::new(&settings)?));
        let authorization = settings.token.as_ref().map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_| "the bot's token does not fit into a header")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let admission = Arc::new(Admission::new(settings.capacity));
        Ok(Self { settings, channel, authorization: authorization.transpose()?, admission })
    }
}

impl Responder for Bot {
    fn history(&self) -> History {
        History { messages: self.settings.history, size: HISTORY_SIZE }
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        let texts = prompt.history.iter().chain([&prompt.message]);
        let tokens = texts.map(|message| estimate_tokens(&message.text));
        let request = request(&prompt, self.settings.max_reply_size);
        Reply {
            // A bot that wants no history remembers by itself.
            context_trimmed: request.history_trimmed && self.settings.history > 0,
            input_tokens: Some(tokens.fold(0, u32::saturating_add)),
            chunks: Answer::new(self, request).chunks(),
        }
    }
}

fn request(prompt: &Prompt, max_reply_size: usize) -> proto::RespondRequest {
    let first = prompt.history.first().map_or(prompt.message.seq, |message| message.seq);
    proto::RespondRequest {
        session_id: prompt.session.to_string(),
        name: prompt.name.as_str().into(),
        reply_id: prompt.reply.to_string(),
        attempt: prompt.attempt,
        history: prompt.history.iter().map(|message| message.as_ref().into()).collect(),
        history_trimmed: first > 1,
        message: Some(prompt.message.as_ref().into()),
        max_reply_bytes: max_reply_size.try_into().unwrap_or(u32::MAX),
    }
}
