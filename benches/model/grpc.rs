//! A client of the gateway over gRPC: tonic's.

use std::net::SocketAddr;

use duologue::proto::{
    ChatRequest, ChatResponse, Open, Send, chat_request::Request,
    chat_service_client::ChatServiceClient,
};
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    MESSAGE, Result,
    event::Event,
    http,
    reply_timer::{EventMeaning, ReplyTimer},
};

/// One `Chat` stream on an HTTP/2 connection of its own, attached to a session of its own.
pub(crate) struct Client {
    requests: mpsc::Sender<ChatRequest>,
    responses: Streaming<ChatResponse>,
}

impl Client {
    /// Starts a session and attaches to it.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let token = http::create_session(address).await?;
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let (requests, outbox) = mpsc::channel(4);
        let open = Request::Open(Open { token: Some(token), ..Open::default() });
        requests.send(ChatRequest { request: Some(open) }).await?;
        let outbox = stream::unfold(outbox, |mut outbox| async {
            outbox.recv().await.map(|request| (request, outbox))
        });
        let responses = ChatServiceClient::new(channel).chat(outbox).await?.into_inner();
        let mut client = Self { requests, responses };
        let mut timer = ReplyTimer::new(0..0);
        while !matches!(client.next(&mut timer).await?, EventMeaning::Opened) {}
        Ok(client)
    }

    /// Sends a message and reads the reply.
    pub(crate) async fn reply(&mut self, timer: &mut ReplyTimer) -> Result<()> {
        timer.message_sent();
        let send = Send {
            text: MESSAGE.to_owned(),
            client_message_id: Some("1".to_owned()),
            ..Send::default()
        };
        self.requests.send(ChatRequest { request: Some(Request::Send(send)) }).await?;
        while !matches!(self.next(timer).await?, EventMeaning::Ended) {}
        Ok(())
    }

    async fn next(&mut self, timer: &mut ReplyTimer) -> Result<EventMeaning> {
        let response = self.responses.message().await?.ok_or("the stream ended")?;
        timer.event(&Event::of(&response)?)
    }
}
