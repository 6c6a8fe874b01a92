//! A client of the gateway over WebSocket, `duologue.v1.json`, on a bare socket.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    MESSAGE, Result,
    event::Event,
    frame, http,
    reply_timer::{EventMeaning, ReplyTimer},
};

/// One connection, attached to a session of its own.
pub(crate) struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Client {
    /// Starts a session and attaches to it.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let token = http::create_session(address).await?;
        let (stream, inbox) = http::upgrade(address, &token, Some("duologue.v1.json")).await?;
        let mut client = Self { stream, inbox };
        client.send(br#"{"open":{}}"#).await?;
        let mut timer = ReplyTimer::new(0..0);
        while !matches!(client.next(&mut timer).await?, EventMeaning::Opened) {}
        Ok(client)
    }

    /// Asks, and hears the reply to its end.
    pub(crate) async fn reply(&mut self, timer: &mut ReplyTimer) -> Result<()> {
        timer.message_sent();
        let send = format!(r#"{{"send":{{"text":"{MESSAGE}","clientMessageId":"1"}}}}"#);
        self.send(send.as_bytes()).await?;
        while !matches!(self.next(timer).await?, EventMeaning::Ended) {}
        Ok(())
    }

    async fn send(&mut self, json: &[u8]) -> Result<()> {
        let mut out = Vec::new();
        frame::write(&mut out, frame::TEXT, true, json)?;
        Ok(self.stream.write_all(&out).await?)
    }

    async fn next(&mut self, timer: &mut ReplyTimer) -> Result<EventMeaning> {
        loop {
            if let Some(frame) = frame::read(&self.inbox)? {
                let end = frame.payload.end;
                let meaning = self.take(&frame, timer);
                self.inbox.drain(..end);
                return meaning;
            }
            self.inbox.reserve(32 << 10);
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err("the connection ended".into());
            }
        }
    }

    fn take(&self, frame: &frame::Frame, timer: &mut ReplyTimer) -> Result<EventMeaning> {
        let payload = &self.inbox[frame.payload.clone()];
        match frame.opcode {
            // They come after 25 s, which no measurement takes.
            frame::PING | frame::PONG => return Err("a ping".into()),
            frame::CLOSE => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                return Err(format!("the server closed: {reason}").into());
            }
            _ => {}
        }
        timer.event(&Event::parse(payload)?)
    }
}
