//! One client for every transport, so that a promise is written once.

use std::{collections::VecDeque, fmt};

use duologue::proto::{
    self, ChatRequest, ChatResponse, chat_request::Request, chat_response::Event,
    chat_service_client::ChatServiceClient, delta::Piece,
};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::{Streaming, transport::Channel};

use super::{Address, Rest, Socket, handshake, soon};

/// A protocol that a test client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Grpc,
    Json,
    Proto,
    Sse,
}

impl Transport {
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Json, Self::Proto, Self::Sse];

    /// Every transport with every transport.
    pub fn pairs() -> impl Iterator<Item = (Self, Self)> {
        Self::ALL.into_iter().flat_map(|one| Self::ALL.into_iter().map(move |other| (one, other)))
    }

    pub async fn open(
        self,
        server: &Address,
        token: &str,
        position: Option<&proto::Position>,
    ) -> Attached {
        let mut client = self.connect(server, token, position).await;
        client.opened = match client.next().await {
            Event::Opened(opened) => *opened,
            other => panic!("{self:?}: not opened but {other:?}"),
        };
        client
    }

    /// As [`Self::open`], without waiting for `opened`.
    pub async fn connect(
        self,
        server: &Address,
        token: &str,
        position: Option<&proto::Position>,
    ) -> Attached {
        let connected = self.try_connect(server, token, position, None).await;
        connected.unwrap_or_else(|refused| panic!("{self:?}: {refused:?}"))
    }

    /// As [`Self::connect`], with a credential. Returns the code of a refusal.
    pub async fn connect_as(
        self,
        server: &Address,
        token: &str,
        credential: Option<&str>,
    ) -> Result<Attached, String> {
        self.try_connect(server, token, None, credential).await
    }

    async fn try_connect(
        self,
        server: &Address,
        token: &str,
        position: Option<&proto::Position>,
        credential: Option<&str>,
    ) -> Result<Attached, String> {
        let authorization = credential.map(|credential| format!("Bearer {credential}"));
        let open = proto::Open {
            token: Some(token.into()),
            position: position.cloned(),
            ..Default::default()
        };
        let wire = match self {
            Self::Grpc => {
                let (requests, outgoing) = mpsc::unbounded_channel();
                requests.send(frame(Request::Open(open))).unwrap();
                let outgoing = UnboundedReceiverStream::new(outgoing);
                let mut call = tonic::Request::new(outgoing);
                if let Some(authorization) = &authorization {
                    call.metadata_mut().insert("authorization", authorization.parse().unwrap());
                }
                let responses = match stub(server).await.chat(call).await {
                    Ok(responses) => responses.into_inner(),
                    Err(status) => return Err(code_of(&status)),
                };
                Wire::Grpc { requests, responses }
            }
            Self::Json | Self::Proto => {
                let protocol = match self {
                    Self::Json => "duologue.v1.json",
                    Self::Proto => "duologue.v1.proto",
                    Self::Grpc | Self::Sse => unreachable!("it has no subprotocol"),
                };
                let mut headers = vec![("sec-websocket-protocol", protocol)];
                headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
                let socket = handshake(server, "", &headers).await;
                let mut socket = socket.unwrap_or_else(|refused| panic!("{refused:?}"));
                socket.send(self.encode(&frame(Request::Open(open)))).await;
                Wire::Socket(socket)
            }
            Self::Sse => {
                let mut request = Rest::request(server, "GET", &format!("/events?token={token}"));
                if let Some(at) = position {
                    request = request.header("last-event-id", text_of(at));
                }
                if let Some(authorization) = &authorization {
                    request = request.header("authorization", authorization);
                }
                let response = request.send().await.unwrap();
                if response.status() != 200 {
                    return Err(response.status().as_u16().to_string());
                }
                Wire::Sse { response, buffer: Vec::new() }
            }
        };
        let url = server.url("");
        Ok(Attached {
            transport: self,
            wire,
            url,
            token: token.into(),
            early: VecDeque::new(),
            opened: Default::default(),
        })
    }

    fn encode(self, request: &ChatRequest) -> Message {
        match self {
            Self::Json => Message::text(serde_json::to_string(request).unwrap()),
            Self::Proto => Message::binary(request.encode_to_vec()),
            Self::Grpc | Self::Sse => unreachable!("it sends no WebSocket frames"),
        }
    }
}

/// Returns the gateway's own code of a refused call.
pub fn code_of(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map_or_else(String::new, |info| info.reason.clone())
}

pub async fn stub(server: &Address) -> ChatServiceClient<Channel> {
    let endpoint = Channel::from_shared(server.url("")).unwrap();
    ChatServiceClient::new(endpoint.connect().await.unwrap())
}

/// Returns the request that sends a text.
pub fn send_text(token: &str, text: &str, id: Option<&str>) -> proto::SendMessageRequest {
    let send = proto::Send {
        text: text.into(),
        client_message_id: id.map(Into::into),
        ..Default::default()
    };
    proto::SendMessageRequest { token: token.into(), send: Some(send) }
}

/// Returns the text of a delta of any kind.
pub fn piece_of(delta: &proto::Delta) -> &str {
    match &delta.piece {
        Some(Piece::Text(text) | Piece::Reasoning(text)) => text,
        Some(Piece::ToolCall(call)) => &call.arguments,
        None => "",
    }
}

fn frame(request: Request) -> ChatRequest {
    ChatRequest { request: Some(request) }
}

/// A client that is attached to a session.
pub struct Attached {
    pub transport: Transport,
    pub opened: proto::Opened,
    wire: Wire,
    url: String,
    token: String,
    early: VecDeque<Event>,
}

enum Wire {
    Grpc { requests: mpsc::UnboundedSender<ChatRequest>, responses: Streaming<ChatResponse> },
    Socket(Socket),
    Sse { response: reqwest::Response, buffer: Vec<u8> },
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.transport)
    }
}

impl Attached {
    /// The next event.
    pub async fn next(&mut self) -> Event {
        let transport = self.transport;
        self.try_next().await.unwrap_or_else(|end| panic!("{transport:?} ended: {end}"))
    }

    /// Returns the next event, or the protocol's own text for the end.
    pub async fn try_next(&mut self) -> Result<Event, String> {
        match self.early.pop_front() {
            Some(event) => Ok(event),
            None => self.read().await,
        }
    }

    /// Waits for the end of the stream. Returns the code of the last error, if there is one, and
    /// the protocol's own text for the end.
    pub async fn ended(mut self) -> (Option<String>, String) {
        let mut last = None;
        loop {
            match self.read().await {
                Ok(Event::Error(error)) if error.r#final => last = Some(error.code),
                Ok(_) => {}
                Err(end) => return (last, end),
            }
        }
    }

    /// Sends a message. Returns the acknowledgement or the refusal.
    pub async fn say(
        &mut self,
        text: &str,
        id: Option<&str>,
    ) -> Result<proto::Accepted, proto::Error> {
        let transport = self.transport;
        let answer = self.try_say(text, id).await;
        answer.unwrap_or_else(|lost| panic!("{transport:?} lost: {lost}"))
    }

    /// As [`Self::say`]. The outer error: the connection was lost before the answer.
    pub async fn try_say(
        &mut self,
        text: &str,
        id: Option<&str>,
    ) -> Result<Result<proto::Accepted, proto::Error>, String> {
        let send = proto::Send {
            text: text.into(),
            client_message_id: id.map(Into::into),
            ..Default::default()
        };
        self.try_send(Request::Send(send)).await
    }

    /// Sends a message with all its fields. Returns the acknowledgement or the refusal.
    pub async fn send(&mut self, send: proto::Send) -> Result<proto::Accepted, proto::Error> {
        let transport = self.transport;
        let answer = self.try_send(Request::Send(send)).await;
        answer.unwrap_or_else(|lost| panic!("{transport:?} lost: {lost}"))
    }

    /// Asks for another reply. Returns the acknowledgement or the refusal.
    pub async fn regenerate(
        &mut self,
        again: proto::Regenerate,
    ) -> Result<proto::Accepted, proto::Error> {
        let transport = self.transport;
        let answer = self.try_send(Request::Regenerate(again)).await;
        answer.unwrap_or_else(|lost| panic!("{transport:?} lost: {lost}"))
    }

    async fn try_send(
        &mut self,
        request: Request,
    ) -> Result<Result<proto::Accepted, proto::Error>, String> {
        if matches!(self.wire, Wire::Sse { .. }) {
            return self.post(request).await.map_err(|error| error.to_string());
        }
        self.try_ask(request).await?;
        loop {
            match self.read().await? {
                Event::Accepted(accepted) => return Ok(Ok(accepted)),
                Event::Error(error) => return Ok(Err(error)),
                other => self.early.push_back(other),
            }
        }
    }

    /// Sends a request.
    pub async fn ask(&mut self, request: Request) {
        self.try_ask(request).await.unwrap();
    }

    async fn try_ask(&mut self, request: Request) -> Result<(), String> {
        let frame = frame(request);
        match &mut self.wire {
            Wire::Grpc { requests, .. } => requests.send(frame).map_err(|lost| lost.to_string()),
            Wire::Socket(socket) => {
                let sent = socket.stream.send(self.transport.encode(&frame)).await;
                sent.map_err(|lost| lost.to_string())
            }
            Wire::Sse { .. } => panic!("one cannot write to server-sent events"),
        }
    }

    /// Stops the reply in progress, or the next one.
    pub async fn stop(&mut self) {
        self.stop_turn(None).await;
    }

    /// Stops the turn of a message.
    pub async fn stop_turn(&mut self, seq: Option<u32>) {
        match &self.wire {
            Wire::Sse { .. } => {
                let seq = seq.map_or(String::new(), |seq| format!("&seq={seq}"));
                let url = format!("{}/stop?token={}{seq}", self.url, self.token);
                let answer = Rest::send(reqwest::Client::new().post(url)).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
            }
            Wire::Grpc { .. } | Wire::Socket(_) => {
                self.ask(Request::Stop(proto::Stop { seq })).await;
            }
        }
    }

    /// Returns the events up to the next reply, which is the last of them.
    pub async fn reply(&mut self) -> (Vec<Event>, proto::Message) {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Event::Message(message) if message.role() == proto::Role::Assistant => {
                    return (before, *message);
                }
                other => before.push(other),
            }
        }
    }

    /// Returns the next committed messages.
    pub async fn messages(&mut self, count: usize) -> Vec<proto::Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            if let Event::Message(message) = self.next().await {
                messages.push(*message);
            }
        }
        messages
    }

    /// Events until a reply begins.
    pub async fn reply_started(&mut self) -> proto::ReplyStarted {
        loop {
            if let Event::ReplyStarted(started) = self.next().await {
                return started;
            }
        }
    }

    /// Waits until the gateway has begun with the reply and asked its responder.
    pub async fn has_begun(&mut self) {
        self.reply_started().await;
        // It asks its responder in the same breath, before it looks at another frame.
        self.ask(Request::Ping(Default::default())).await;
        while !matches!(self.next().await, Event::Pong(_)) {}
    }

    /// Returns the next delta.
    pub async fn delta(&mut self) -> proto::Delta {
        loop {
            if let Event::Delta(delta) = self.next().await {
                return delta;
            }
        }
    }

    /// Returns the position after a message.
    pub fn at(&self, seq: u32) -> proto::Position {
        let position = self.opened.position.clone().unwrap();
        proto::Position { seq, reply: None, ..position }
    }

    async fn read(&mut self) -> Result<Event, String> {
        let response = match &mut self.wire {
            Wire::Grpc { responses, .. } => match soon("a response", responses.message()).await {
                Ok(Some(response)) => response,
                Ok(None) => return Err("Ok".into()),
                Err(status) => return Err(format!("{:?}", status.code())),
            },
            Wire::Socket(socket) => loop {
                match soon("a frame", socket.stream.next()).await {
                    Some(Ok(Message::Text(text))) => break serde_json::from_str(&text).unwrap(),
                    Some(Ok(Message::Binary(bytes))) => break ChatResponse::decode(bytes).unwrap(),
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or(1005, |frame| u16::from(frame.code)).to_string());
                    }
                    Some(Ok(_)) => {}
                    lost => return Err(format!("lost: {lost:?}")),
                }
            },
            Wire::Sse { response, buffer } => loop {
                if let Some(event) = next_data(buffer) {
                    break serde_json::from_str(&event).unwrap();
                }
                match soon("an event", response.chunk()).await {
                    Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
                    Ok(None) => return Err("end".into()),
                    Err(error) => return Err(format!("lost: {error}")),
                }
            },
        };
        Ok(response.event.expect("a response holds an event"))
    }

    async fn post(
        &self,
        request: Request,
    ) -> Result<Result<proto::Accepted, proto::Error>, reqwest::Error> {
        let (path, body) = match &request {
            Request::Send(send) => ("messages", serde_json::to_value(send)),
            Request::Regenerate(again) => ("regenerate", serde_json::to_value(again)),
            other => panic!("{other:?} has no answer"),
        };
        let url = format!("{}/{path}?token={}", self.url, self.token);
        let answer = reqwest::Client::new().post(url).json(&body.unwrap()).send().await?;
        let status = answer.status().as_u16();
        let retry = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        let json: serde_json::Value = answer.json().await?;
        if status != 202 {
            return Ok(Err(proto::Error {
                code: status.to_string(),
                message: json["detail"].to_string(),
                retry_after_ms: retry.map(|seconds| seconds * 1000),
                ..Default::default()
            }));
        }
        let number = |name: &str| json[name].as_u64().unwrap().try_into().unwrap();
        Ok(Ok(proto::Accepted {
            client_message_id: json["client_message_id"].as_str().map(Into::into),
            message_id: json["message_id"].as_str().unwrap().into(),
            seq: number("seq"),
            duplicate: json["duplicate"].as_bool().unwrap(),
            parent_seq: number("parent_seq"),
        }))
    }
}

/// Returns a position as the id of a server-sent event.
fn text_of(at: &proto::Position) -> String {
    let place = format!("{}:{}", at.epoch, at.seq);
    match &at.reply {
        None => place,
        Some(reply) => format!("{place}:{}:{}", reply.reply_id, reply.offset),
    }
}

/// Takes the data of the first whole event; comments have none.
fn next_data(buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let event: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = String::from_utf8(event).unwrap();
        if let Some(data) = text.lines().find_map(|line| line.strip_prefix("data: ")) {
            return Some(data.to_owned());
        }
    }
}
