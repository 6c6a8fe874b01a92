//! A model server that writes exactly the bytes of the test.

use std::{collections::HashMap, io::ErrorKind, net::SocketAddr, time::Duration};

use duologue::responder::openai::{Endpoint, OpenAi, Settings, UpstreamSettings};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::soon;

/// The head of a stream that ends with its connection.
pub const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// The head of a stream in chunked encoding.
pub const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

pub const DONE: &str = "data: [DONE]\n\n";

/// A piece of an answer.
pub fn delta(text: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
    )
}

/// The end of an answer.
pub fn finish(reason: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    )
}

/// The usage event of a response.
pub fn usage(input: u32, output: u32) -> String {
    let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
    format!("data: {}\n\n", json!({"choices": [], "usage": usage}))
}

/// A whole answer, as it should be.
pub fn answer(text: &str) -> String {
    [&delta(text)[..], &finish("stop"), &usage(3, 2), DONE].concat()
}

/// A refusal.
pub fn refusal(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{body}"
    )
}

/// Listens, and hands each request to the test.
pub struct Upstream {
    pub addr: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (requests, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Some(asked) = Asked::read(stream).await {
                        let _the_test_is_over = requests.send(asked);
                    }
                });
            }
        });
        Self { addr, asked }
    }

    /// As an upstream of the gateway.
    pub fn settings(&self, name: &str) -> UpstreamSettings {
        UpstreamSettings::new(name, Endpoint::parse(&format!("http://{}", self.addr)).unwrap())
    }

    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        soon("a request", self.asked.recv()).await.unwrap()
    }

    /// Returns true if no request waits.
    pub fn is_idle(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// Answers every request with these bytes from now on.
    pub fn always(mut self, bytes: String) {
        tokio::spawn(async move {
            while let Some(asked) = self.asked.recv().await {
                asked.answer(&bytes).await;
            }
        });
    }
}

/// The responder for these upstreams.
pub fn responder(upstreams: Vec<UpstreamSettings>) -> OpenAi {
    responder_with(upstreams, |_| {})
}

/// The same, changed.
pub fn responder_with(
    upstreams: Vec<UpstreamSettings>,
    change: impl FnOnce(&mut Settings),
) -> OpenAi {
    let mut settings = Settings {
        upstreams,
        system_prompt: None,
        context_tokens: Settings::CONTEXT_TOKENS,
        total_timeout: Duration::from_secs(600),
    };
    change(&mut settings);
    OpenAi::new(&settings).unwrap()
}

/// A request that waits for its answer.
pub struct Asked {
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: Value,
    stream: TcpStream,
}

impl Asked {
    async fn read(mut stream: TcpStream) -> Option<Self> {
        stream.set_nodelay(true).unwrap();
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let line = lines.next().unwrap().to_owned();
        let headers: HashMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers["content-length"].parse().unwrap();
        let mut body = bytes.split_off(end);
        while body.len() < length {
            if stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        Some(Self { line, headers, body: serde_json::from_slice(&body).unwrap(), stream })
    }

    /// What the model would read, message by message, as "role: text".
    pub fn conversation(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let messages = self.body["messages"].as_array().unwrap().iter();
        messages
            .map(|line| format!("{}: {}", text(&line["role"]), text(&line["content"])))
            .collect()
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// As [`Self::write`]. Returns false if the connection is closed.
    pub async fn try_write(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).await.is_ok()
    }

    /// Writes a chunk of the chunked encoding.
    pub async fn chunk(&mut self, bytes: &str) {
        self.write(format!("{:x}\r\n{bytes}\r\n", bytes.len())).await;
    }

    /// Writes bytes and closes the connection in order. The other side may have closed it before.
    pub async fn answer(mut self, bytes: &str) {
        if self.stream.write_all(bytes.as_bytes()).await.is_ok() {
            let _hung_up = self.stream.shutdown().await;
            let mut rest = [0; 1024];
            while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        }
    }

    /// Writes these bytes repeatedly until the connection is closed.
    pub async fn flood(&mut self, bytes: &[u8]) {
        while self.stream.write_all(bytes).await.is_ok() {}
        std::future::pending().await
    }

    /// Answers this request and further ones on its connection with these bytes. Reports the
    /// further ones.
    pub async fn serve(self, bytes: String, again: mpsc::UnboundedSender<()>) {
        let mut stream = self.stream;
        loop {
            stream.write_all(bytes.as_bytes()).await.unwrap();
            let Some(next) = Self::read(stream).await else { return };
            stream = next.stream;
            let _the_test_is_over = again.send(());
        }
    }

    /// Takes one more request on this connection, and closes it without a response.
    pub async fn lose_the_next(self) {
        soon("a request", Self::read(self.stream)).await.unwrap();
    }

    /// Resets the connection.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Returns true if the other side has not closed the connection.
    pub async fn is_open(&self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Waits until the other side closes the connection.
    pub async fn let_go(mut self) {
        let mut rest = [0; 1024];
        soon("the connection to be dropped", async {
            while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        })
        .await;
    }
}
