//! A gRPC client: tonic's.

use std::net::SocketAddr;

use duologue::proto::{
    ChatRequest, ChatResponse, Open, Ping, Send, chat_request::Request,
    chat_service_client::ChatServiceClient,
};
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::{Streaming, transport::Endpoint};

use crate::{MESSAGE, Result, event::Event, ledger::Ledger};

/// Requests that may wait to be sent: more than are ever in flight.
const OUTBOX: usize = 64;

/// One `Chat` stream on an HTTP/2 connection of its own, attached to a session of its own.
pub(crate) struct Client {
    requests: mpsc::Sender<ChatRequest>,
    responses: Streaming<ChatResponse>,
    ledger: Ledger,
}

impl Client {
    /// Opens a stream on the session of a token.
    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let (requests, outbox) = mpsc::channel(OUTBOX);
        let open = Open { token: Some(token.to_owned()), ..Open::default() };
        requests.send(request(Request::Open(open))).await?;
        let outbox = stream::unfold(outbox, |mut outbox| async {
            outbox.recv().await.map(|request| (request, outbox))
        });
        let responses = ChatServiceClient::new(channel).chat(outbox).await?;
        let mut client =
            Self { requests, responses: responses.into_inner(), ledger: Ledger::default() };
        client.next().await?;
        Ok(client)
    }

    /// Sends messages.
    pub(crate) async fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let send = Send {
                text: MESSAGE.to_owned(),
                client_message_id: Some(self.ledger.send()),
                ..Send::default()
            };
            self.requests.send(request(Request::Send(send))).await?;
        }
        Ok(())
    }

    /// Sends a `ping`, waits until it is written, and sends one message: a message of gRPC
    /// is always one write, so the second frame is a second message.
    pub(crate) async fn send_in_two(&mut self) -> Result<()> {
        self.requests.send(request(Request::Ping(Ping {}))).await?;
        tokio::task::yield_now().await;
        self.send(1).await
    }

    /// Waits until a turn is complete.
    pub(crate) async fn receive(&mut self) -> Result<usize> {
        while !self.next().await? {}
        Ok(1)
    }

    /// Checks the next event; true if it ends a turn.
    async fn next(&mut self) -> Result<bool> {
        let response = self.responses.message().await?;
        self.ledger.event(&Event::of(&response.ok_or("the stream ended")?)?)
    }
}

/// A request of one kind.
fn request(request: Request) -> ChatRequest {
    ChatRequest { request: Some(request) }
}
