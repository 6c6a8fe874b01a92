//! One connection over any protocol.

use std::net::SocketAddr;

use crate::{Result, grpc, http, subject::Subject, websocket};

/// A client that is attached to a session of its own.
pub(crate) enum Client {
    /// To the echo server, FastAPI, or the gateway in one of its three codecs.
    WebSocket(websocket::Client),
    /// To the gateway.
    Grpc(Box<grpc::Client>),
}

impl Client {
    /// Starts a session and attaches to it.
    pub(crate) async fn start(subject: Subject, address: SocketAddr) -> Result<Self> {
        let token = http::create_session(address).await?;
        Self::attach(subject, address, &token).await
    }

    /// Attaches to the session of a token.
    pub(crate) async fn attach(subject: Subject, address: SocketAddr, token: &str) -> Result<Self> {
        let codec = match subject {
            Subject::Echo | Subject::FastApi | Subject::Plain | Subject::PlainSqlite => {
                websocket::Codec::Plain
            }
            Subject::Json => websocket::Codec::Json,
            Subject::Proto => websocket::Codec::Proto,
            Subject::Grpc | Subject::GrpcSqlite => {
                let client = grpc::Client::connect(address, token).await?;
                return Ok(Self::Grpc(Box::new(client)));
            }
        };
        let client = websocket::Client::connect(address, token, codec).await?;
        Ok(Self::WebSocket(client))
    }

    /// Sends messages.
    pub(crate) async fn send(&mut self, count: usize) -> Result<()> {
        match self {
            Self::WebSocket(client) => client.send(count).await,
            Self::Grpc(client) => client.send(count).await,
        }
    }

    /// Sends one message so that two small frames leave one after the other.
    pub(crate) async fn send_in_two(&mut self) -> Result<()> {
        match self {
            Self::WebSocket(client) => client.send_in_two().await,
            Self::Grpc(client) => client.send_in_two().await,
        }
    }

    /// Waits until turns are complete, one or more, and returns how many.
    pub(crate) async fn receive(&mut self) -> Result<usize> {
        match self {
            Self::WebSocket(client) => client.receive().await,
            Self::Grpc(client) => client.receive().await,
        }
    }
}
