//! The limit of the setup: a server that answers every message and does nothing else.
//!
//! Its result is the most that two system calls per turn, the wake-ups of the operating system and
//! the load generator allow.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{REPLY, Result, frame};

/// Bytes read at once.
const INBOX: usize = 4 << 10;

/// Serves until the process ends.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A failed connection ends; its client reports it.
        tokio::spawn(answer(stream));
    }
}

/// One connection: a token for a `POST`, else a WebSocket.
async fn answer(mut stream: TcpStream) -> Result<()> {
    let mut inbox = vec![0; INBOX];
    let count = stream.read(&mut inbox).await?;
    if inbox[..count].starts_with(b"POST ") {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"token\":\"any\"}").await?;
        return Ok(());
    }
    stream.write_all(b"HTTP/1.1 101 Any\r\n\r\n").await?;

    let mut unread = 0;
    let mut out = Vec::new();
    loop {
        let count = stream.read(&mut inbox[unread..]).await?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &inbox[..unread + count];
        while let Some((last, length)) = frame::measure_masked(rest) {
            if last {
                out.extend(frame::reply_head(REPLY.len())?);
                out.extend(REPLY.as_bytes());
            }
            rest = &rest[length..];
        }
        let done = unread + count - rest.len();
        inbox.copy_within(done..unread + count, 0);
        unread = unread + count - done;
        stream.write_all(&out).await?;
        out.clear();
    }
}
