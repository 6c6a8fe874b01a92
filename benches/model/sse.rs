//! A client of `chat/completions`, as people talk to a model, or to a proxy in front of it.

use std::net::SocketAddr;

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{MESSAGE, Result, body, http, reply_timer::ReplyTimer};

/// One connection, which is used again for every reply.
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    raw: Vec<u8>,
    body: Vec<u8>,
}

impl Client {
    /// Connects; a proxy wants a key.
    pub(crate) async fn connect(address: SocketAddr, key: &str) -> Result<Self> {
        let body = format!(
            r#"{{"model":"scripted","messages":[{{"role":"user","content":"{MESSAGE}"}}],"stream":true,"stream_options":{{"include_usage":true}}}}"#
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\n\
             authorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(Self {
            stream: http::connect(address).await?,
            request: request.into_bytes(),
            raw: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Asks, and hears the reply to its end.
    pub(crate) async fn reply(&mut self, timer: &mut ReplyTimer) -> Result<()> {
        timer.message_sent();
        self.stream.write_all(&self.request).await?;
        let head = loop {
            self.fill().await?;
            if let Some(head) = body::end_of_head(&self.raw) {
                break head;
            }
        };
        if !self.raw.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("no reply: {}", String::from_utf8_lossy(&self.raw)).into());
        }
        self.raw.drain(..head);

        let mut chunks = body::Chunks::default();
        let (mut finished, mut done) = (false, false);
        loop {
            let is_over = chunks.decode(&mut self.raw, &mut self.body)?;
            let mut read = 0;
            while let Some(length) = self.body[read..].iter().position(|byte| *byte == b'\n') {
                let line = &self.body[read..read + length];
                read += length + 1;
                match line.strip_prefix(b"data: ") {
                    None if line.is_empty() => {}
                    None => return Err("a line of no event".into()),
                    Some(b"[DONE]") => done = true,
                    Some(event) => finished |= event_of(event, timer)?,
                }
            }
            self.body.drain(..read);
            match (is_over, finished && done) {
                (true, true) => return Ok(()),
                (true, false) => return Err("the reply is not whole".into()),
                (false, _) => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.raw.reserve(32 << 10);
        match self.stream.read_buf(&mut self.raw).await? {
            0 => Err("the connection ended".into()),
            _ => Ok(()),
        }
    }
}

/// Hears an event; true if it says why the reply ends.
fn event_of(event: &[u8], timer: &mut ReplyTimer) -> Result<bool> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        choices: Vec<Choice<'a>>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        delta: Delta<'a>,
        finish_reason: Option<&'a str>,
    }
    #[derive(Deserialize)]
    struct Delta<'a> {
        content: Option<&'a str>,
    }

    let event: Event<'_> = serde_json::from_slice(event)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(event)))?;
    let Some(choice) = event.choices.first() else { return Ok(false) };
    if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
        timer.text(text)?;
    }
    match choice.finish_reason {
        None => Ok(false),
        Some("stop") => Ok(true),
        Some(other) => Err(format!("the reply ended with {other}").into()),
    }
}
