//! What is measured.

use std::fmt;

use crate::{Result, grpc, reply_timer::ReplyTimer, server::Servers, socket, sse};

/// A way to the model.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Subject {
    /// None in between.
    Direct,
    /// A process that copies bytes.
    Relay,
    /// The proxy.
    LiteLlm,
    /// The gateway, over WebSocket, in proto-JSON.
    Json,
    /// The gateway, one `Chat` stream on an HTTP/2 connection of its own.
    Grpc,
}

impl Subject {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 5] =
        [Self::Direct, Self::Relay, Self::LiteLlm, Self::Json, Self::Grpc];
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "the model itself, SSE",
            Self::Relay => "a bare relay: the limit",
            Self::LiteLlm => "LiteLLM proxy, SSE",
            Self::Json => "Duologue, WebSocket, `duologue.v1.json`",
            Self::Grpc => "Duologue, gRPC `Chat`",
        })
    }
}

/// A client that has not asked yet.
pub(crate) enum Client {
    /// Of the model, the relay or the proxy: a connection for all its replies.
    Sse(sse::Client),
    /// Of the gateway: a session for each reply, so that none has a history to send.
    Socket(socket::Client),
    /// Likewise.
    Grpc(Box<grpc::Client>),
}

impl Client {
    /// Connects. What is there already goes on if it can.
    pub(crate) async fn ready(
        old: Option<Self>,
        subject: Subject,
        servers: &Servers,
    ) -> Result<Self> {
        let address = servers.address(subject)?;
        Ok(match (subject, old) {
            (Subject::Direct | Subject::Relay | Subject::LiteLlm, Some(client)) => client,
            (Subject::Direct | Subject::Relay | Subject::LiteLlm, None) => {
                Self::Sse(sse::Client::connect(address, &servers.key).await?)
            }
            (Subject::Json, _) => Self::Socket(socket::Client::connect(address).await?),
            (Subject::Grpc, _) => Self::Grpc(Box::new(grpc::Client::connect(address).await?)),
        })
    }

    /// Asks, and hears the reply to its end.
    pub(crate) async fn reply(&mut self, timer: &mut ReplyTimer) -> Result<()> {
        match self {
            Self::Sse(client) => client.reply(timer).await,
            Self::Socket(client) => client.reply(timer).await,
            Self::Grpc(client) => client.reply(timer).await,
        }
    }
}
