//! A bot of one's own: `duologue.v1.ResponderService`, called over gRPC.
//!
//! One connection carries all replies, and is made when the first is asked for: the
//! gateway starts though the bot is not up yet. Not the library's own timeout for a call:
//! it covers the head of an answer alone.

mod failure;
mod reply;
mod settings;

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret as _;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::{
    proto::{self, responder_service_client::ResponderServiceClient},
    responder::{admission::Admission, authorities},
    session::{History, Prompt, Reply, Responder, estimate_tokens},
};
use reply::Answer;
pub use settings::{Endpoint, Settings};

/// Bytes of text of the messages that a bot is shown: gRPC servers take requests of
/// 4 MiB unless told otherwise.
const HISTORY_SIZE: usize = 2 << 20;

/// Largest frame of a bot's, in bytes.
const MAX_FRAME: usize = 4 << 20;

/// Many small frames that wait unread are counted against a budget which grows with it,
/// and the connection is cut when that is used up.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A host that is gone says nothing: after so long the system asks …
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// … this often, …
const TCP_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// … so many times.
const TCP_KEEP_ALIVE_RETRIES: u32 = 3;

/// How long a bot may take to answer a PING.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers by asking a bot.
#[derive(Debug)]
pub struct Bot {
    settings: Settings,
    client: ResponderServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    admission: Arc<Admission>,
}

impl Bot {
    /// Prepares the calls; must run on the runtime. Nothing is connected yet.
    ///
    /// # Errors
    /// One sentence for the operator: the file of authorities cannot be read, or holds none.
    pub fn new(settings: Settings) -> Result<Self, String> {
        if settings.token.is_some() && settings.endpoint.is_exposed() {
            tracing::warn!("the bot's token can be read on its way: use https://");
        }
        let channel = channel(&settings)?;
        let client = ResponderServiceClient::new(channel).max_decoding_message_size(MAX_FRAME);
        let authorization = settings.token.as_ref().map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_| "the bot's token does not fit into a header")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let admission = Arc::new(Admission::new(settings.capacity));
        Ok(Self { settings, client, authorization: authorization.transpose()?, admission })
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

fn channel(settings: &Settings) -> Result<Channel, String> {
    let mut endpoint = Channel::builder(settings.endpoint.uri().clone())
        .user_agent(concat!("duologue/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| error.to_string())?
        .connect_timeout(settings.connect_timeout)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_keepalive(Some(TCP_KEEP_ALIVE))
        .tcp_keepalive_interval(Some(TCP_KEEP_ALIVE_INTERVAL))
        .tcp_keepalive_retries(Some(TCP_KEEP_ALIVE_RETRIES));
    if !settings.keep_alive.is_zero() {
        endpoint = endpoint
            .http2_keep_alive_interval(settings.keep_alive)
            .keep_alive_timeout(settings.keep_alive.min(PING_TIMEOUT));
    }
    if settings.endpoint.is_tls() {
        let tls = ClientTlsConfig::new().timeout(settings.connect_timeout);
        let tls = match &settings.ca_cert {
            Some(path) => {
                let pem =
                    authorities::read(path).map_err(|line| format!("--bot-ca-cert {line}"))?;
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => tls.with_enabled_roots(),
        };
        endpoint = endpoint.tls_config(tls).map_err(|error| {
            format!("TLS to the bot cannot be set up: {}", failure::in_full(&error))
        })?;
    }
    Ok(endpoint.connect_lazy())
}
