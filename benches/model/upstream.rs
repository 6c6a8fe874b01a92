//! The model: a server that streams its script as fast as possible.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until},
};

use crate::{Result, body, stamp};

/// An event as OpenAI writes it, up to where its choice begins.
const BEFORE: &str = r#"data: {"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk","created":1741569952,"model":"scripted","service_tier":"default","system_fingerprint":"fp_50cad350e4","choices":["#;

/// Bytes of one write when there is no delay between deltas.
const BATCH: usize = 16 << 10;

/// What every answer is.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    /// Deltas with text; the first one comes at once.
    pub(crate) deltas: u16,
    /// Between two of them; with zero they come as fast as they are taken.
    pub(crate) interval: Duration,
}

impl Script {
    /// How long an answer takes.
    pub(crate) fn duration(self) -> Duration {
        self.interval * u32::from(self.deltas)
    }
}

/// A running one.
pub(crate) struct Upstream {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    /// Listens on a free port, for as long as the program runs.
    pub(crate) async fn start(script: Script) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Mutex::new(script));
        tokio::spawn({
            let script = Arc::clone(&script);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // A client that disconnects in the middle reports the reason itself.
                    tokio::spawn(serve(stream, Arc::clone(&script)));
                }
            }
        });
        Ok(Self { address, script })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the script.
    pub(crate) fn play(&self, script: Script) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }
}

/// Answers one request after the other.
async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut inbox = Vec::new();
    while request(&mut stream, &mut inbox).await? {
        let script = *script.lock().unwrap_or_else(PoisonError::into_inner);
        answer(&mut stream, script).await?;
    }
    Ok(())
}

/// Reads a request to its end; false if there is none any more.
async fn request(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> Result<bool> {
    loop {
        if let Some(head) = body::end_of_head(inbox) {
            let length = body::content_length(&inbox[..head]).unwrap_or(0);
            if inbox.len() >= head + length {
                inbox.drain(..head + length);
                return Ok(true);
            }
        }
        if stream.read_buf(inbox).await? == 0 {
            return Ok(false);
        }
    }
}

async fn answer(stream: &mut TcpStream, script: Script) -> Result<()> {
    let mut out = Vec::with_capacity(BATCH + 1024);
    out.extend(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    choice(&mut out, r#"{"role":"assistant","content":""}"#, "null");
    let mut due = Instant::now();
    let mut text = Vec::with_capacity(64);
    for number in 0..script.deltas {
        // A sleep of no length takes one, too.
        if number > 0 && !script.interval.is_zero() {
            due += script.interval;
            sleep_until(due).await;
        }
        text.clear();
        text.extend(br#"{"content":""#);
        stamp::write(&mut text, number, stamp::now());
        text.extend(br#""}"#);
        choice(&mut out, str::from_utf8(&text)?, "null");
        if !script.interval.is_zero() || out.len() >= BATCH {
            stream.write_all(&out).await?;
            out.clear();
        }
    }
    choice(&mut out, "{}", r#""stop""#);
    let usage = r#"],"usage":{"prompt_tokens":9,"completion_tokens":"#;
    let deltas = script.deltas;
    chunk(&mut out, &format!(r#"{BEFORE}{usage}{deltas},"total_tokens":{}}}}}"#, 9 + deltas));
    chunk(&mut out, "data: [DONE]");
    out.extend(b"0\r\n\r\n");
    stream.write_all(&out).await?;
    Ok(())
}

/// An event with one choice, in an HTTP chunk of its own.
fn choice(out: &mut Vec<u8>, delta: &str, finish_reason: &str) {
    const AROUND: [&str; 3] =
        [r#"{"index":0,"delta":"#, r#","logprobs":null,"finish_reason":"#, "}]}"];
    let [before, between, behind] = AROUND;
    let length = BEFORE.len() + before.len() + delta.len() + between.len() + finish_reason.len();
    let _ = write!(out, "{:x}\r\n", length + behind.len() + 2);
    for part in [BEFORE, before, delta, between, finish_reason, behind, "\n\n\r\n"] {
        out.extend(part.as_bytes());
    }
}

/// An event in an HTTP chunk of its own.
fn chunk(out: &mut Vec<u8>, event: &str) {
    let _ = write!(out, "{:x}\r\n{event}\n\n\r\n", event.len() + 2);
}
