//! The part of HTTP/1.1 that a token and a WebSocket need.

use std::net::SocketAddr;

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::Result;

/// Longest response head that is read.
const MAX_HEAD: usize = 16 << 10;

/// Opens a connection without Nagle's algorithm.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Starts a session and returns its token.
pub(crate) async fn create_session(address: SocketAddr) -> Result<String> {
    #[derive(Deserialize)]
    struct Created {
        token: String,
    }

    let mut stream = connect(address).await?;
    let request = format!(
        "POST /token?name=Ada HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    stream.read_to_end(&mut answer).await?;
    let body = end_of_head(&answer).ok_or("the answer has no end of the head")?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("no token: {}", String::from_utf8_lossy(&answer)).into());
    }
    let created: Created = serde_json::from_slice(&answer[body..])?;
    Ok(created.token)
}

/// Opens a WebSocket on `/chat`. Also returns what the server sent behind its answer.
pub(crate) async fn upgrade(
    address: SocketAddr,
    token: &str,
    subprotocol: Option<&str>,
) -> Result<(TcpStream, Vec<u8>)> {
    let mut stream = connect(address).await?;
    let subprotocol =
        subprotocol.map_or_else(String::new, |name| format!("sec-websocket-protocol: {name}\r\n"));
    let request = format!(
        "GET /chat?token={token} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{subprotocol}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    let frames = loop {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > MAX_HEAD {
            return Err("the answer has no end of the head".into());
        }
        if let Some(frames) = end_of_head(&answer) {
            break frames;
        }
    };
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("no WebSocket: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok((stream, answer.split_off(frames)))
}

/// Returns the start of the body.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}
