//! A WebSocket client on a bare socket, so that this end costs less than the server.

use std::net::SocketAddr;

use duologue::proto::{ChatRequest, ChatResponse, Send, chat_request::Request};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{MESSAGE, Result, event::Event, frame, http, ledger::Ledger};

/// Bytes read at once: 16 turns of five JSON events each fit.
const INBOX: usize = 32 << 10;

/// How messages and replies are written.
#[derive(Clone, Copy)]
pub(crate) enum Codec {
    /// A text in, a text out.
    Plain,
    /// Requests and events in proto-JSON.
    Json,
    /// Requests and events in protobuf.
    Proto,
}

impl Codec {
    /// Its name in the handshake.
    fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Json => Some("duologue.v1.json"),
            Self::Proto => Some("duologue.v1.proto"),
        }
    }

    /// The kind of its frames.
    fn opcode(self) -> u8 {
        match self {
            Self::Plain | Self::Json => frame::TEXT,
            Self::Proto => frame::BINARY,
        }
    }
}

/// One connection, attached to a session of its own.
pub(crate) struct Client {
    stream: TcpStream,
    codec: Codec,
    ledger: Ledger,
    /// Frames to be written.
    out: Vec<u8>,
    /// What was read; `unread` of it has not been looked at.
    inbox: Box<[u8]>,
    unread: std::ops::Range<usize>,
}

impl Client {
    /// Opens a WebSocket on the session of a token. In a structured mode it also attaches.
    pub(crate) async fn connect(address: SocketAddr, token: &str, codec: Codec) -> Result<Self> {
        let (stream, begun) = http::upgrade(address, token, codec.subprotocol()).await?;
        let mut inbox = vec![0; INBOX].into_boxed_slice();
        inbox[..begun.len()].copy_from_slice(&begun);
        let mut client = Self {
            stream,
            codec,
            ledger: Ledger::default(),
            out: Vec::new(),
            inbox,
            unread: 0..begun.len(),
        };
        let open = match codec {
            Codec::Plain => return Ok(client),
            Codec::Json => br#"{"open":{}}"#.to_vec(),
            Codec::Proto => encode(Request::Open(duologue::proto::Open::default())),
        };
        frame::write(&mut client.out, codec.opcode(), true, &open)?;
        client.flush().await?;
        client.opened().await?;
        Ok(client)
    }

    /// Sends messages in one write.
    pub(crate) async fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let payload = self.message();
            frame::write(&mut self.out, self.codec.opcode(), true, &payload)?;
        }
        self.flush().await
    }

    /// Sends one message in two fragments, each in a write of its own.
    pub(crate) async fn send_in_two(&mut self) -> Result<()> {
        let payload = self.message();
        let (head, tail) = payload.split_at(payload.len() / 2);
        frame::write(&mut self.out, self.codec.opcode(), false, head)?;
        self.flush().await?;
        frame::write(&mut self.out, frame::CONTINUATION, true, tail)?;
        self.flush().await
    }

    /// Waits until turns are complete, one or more, and returns how many.
    pub(crate) async fn receive(&mut self) -> Result<usize> {
        let mut turns = 0;
        loop {
            while let Some(frame) = self.next()? {
                turns += usize::from(self.take(&frame)?);
            }
            if !self.out.is_empty() {
                self.flush().await?;
            }
            if turns > 0 {
                return Ok(turns);
            }
            self.fill().await?;
        }
    }

    /// Waits for the first event.
    async fn opened(&mut self) -> Result<()> {
        loop {
            if let Some(frame) = self.next()? {
                self.take(&frame)?;
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// The next message, encoded. Structured ones carry an id, as those of a careful
    /// client do.
    fn message(&mut self) -> Vec<u8> {
        let name = self.ledger.send();
        match self.codec {
            Codec::Plain => MESSAGE.as_bytes().to_vec(),
            Codec::Json => {
                format!(r#"{{"send":{{"text":"{MESSAGE}","clientMessageId":"{name}"}}}}"#)
                    .into_bytes()
            }
            Codec::Proto => encode(Request::Send(Send {
                text: MESSAGE.to_owned(),
                client_message_id: Some(name),
                ..Send::default()
            })),
        }
    }

    /// The next frame, if all of it was read; its payload's place is one in the inbox.
    fn next(&mut self) -> Result<Option<frame::Frame>> {
        let start = self.unread.start;
        let Some(mut frame) = frame::read(&self.inbox[self.unread.clone()])? else {
            return Ok(None);
        };
        frame.payload = start + frame.payload.start..start + frame.payload.end;
        self.unread.start = frame.payload.end;
        Ok(Some(frame))
    }

    /// Checks a frame; true if it ends a turn.
    fn take(&mut self, frame: &frame::Frame) -> Result<bool> {
        let payload = &self.inbox[frame.payload.clone()];
        match frame.opcode {
            frame::PING => {
                frame::write(&mut self.out, frame::PONG, true, payload)?;
                return Ok(false);
            }
            frame::PONG => return Ok(false),
            frame::CLOSE => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                return Err(format!("the server closed: {reason}").into());
            }
            opcode if opcode != self.codec.opcode() => return Err("a frame of another kind".into()),
            _ => {}
        }
        match self.codec {
            Codec::Plain => self.ledger.text(payload).map(|()| true),
            Codec::Json => self.ledger.event(&Event::parse(payload)?),
            Codec::Proto => {
                let response = ChatResponse::decode(payload)?;
                self.ledger.event(&Event::of(&response)?)
            }
        }
    }

    /// Writes what there is to write.
    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Reads once, behind what was not looked at.
    async fn fill(&mut self) -> Result<()> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.end == self.inbox.len() {
            self.inbox.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let count = self.stream.read(&mut self.inbox[self.unread.end..]).await?;
        if count == 0 {
            return Err("the connection ended".into());
        }
        self.unread.end += count;
        Ok(())
    }
}

/// A request in protobuf.
fn encode(request: Request) -> Vec<u8> {
    ChatRequest { request: Some(request) }.encode_to_vec()
}
