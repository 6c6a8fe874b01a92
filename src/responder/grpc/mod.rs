//! The operator's own bot: `duologue.v1.ResponderService`, called over gRPC.
//!
//! One connection carries all calls. It is opened with the first one, so the gateway starts before
//! the bot does.
//!
//! `connect` opens the connection, `channel` shares it. `reply_stream` runs one reply with one or
//! more `call`s; `request` builds the request. `failure` classifies failures; `status` handles
//! responses that are not of a bot.

mod bot_client;
mod call;
mod channel;
mod connect;
mod failure;
mod reply_stream;
mod request;
mod settings;
mod status;

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tonic::metadata::MetadataValue;

use crate::{
    responder::upstream::limiter::Limiter,
    session::{History, Prompt, Reply, Responder, estimate_tokens},
};
use bot_client::BotClient;
use channel::Channel;
use connect::Connector;
use reply_stream::ReplyStream;
use request::trim;
pub use settings::{Endpoint, Settings};

/// Most bytes of the history that a bot receives.
const HISTORY_SIZE: usize = 2 << 20;

/// The responder that calls a bot.
#[derive(Debug)]
pub struct Bot(Arc<BotClient>);

impl Bot {
    /// Prepares the calls, without a connection.
    ///
    /// # Errors
    /// One sentence for the operator: the CA certificates cannot be used.
    pub fn new(settings: Settings) -> Result<Self, String> {
        if settings.token.is_some() && settings.endpoint.is_exposed() {
            tracing::warn!("the bot's token is sent without TLS: use https://");
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
        Ok(Self(Arc::new(BotClient { settings, channel, authorization, limiter })))
    }
}

impl Responder for Bot {
    fn history(&self) -> History {
        History { messages: self.0.settings.history, size: HISTORY_SIZE }
    }

    fn has_room(&self) -> bool {
        self.0.limiter.has_room()
    }

    fn respond(&self, mut prompt: Prompt) -> Reply {
        trim(&mut prompt);
        let messages = prompt.history.iter().chain([&prompt.message]);
        let tokens = messages.map(|message| estimate_tokens(message.text()));
        Reply {
            // A bot with `history` 0 remembers the conversation itself.
            context_trimmed: prompt.is_trimmed && self.0.settings.history > 0,
            input_tokens: Some(tokens.fold(0, u32::saturating_add)),
            chunks: ReplyStream::new(&self.0, prompt).chunks(),
        }
    }
}
