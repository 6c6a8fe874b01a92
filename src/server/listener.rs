//! Sockets: listen, accept, and refuse with an answer.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{session::Caller, telemetry::PEER};

pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 4096;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts a connection, and returns it with the address of its peer. Returns `None` after a
/// failure, which it logs.
pub(super) async fn accept(listener: &TcpListener) -> Option<(TcpStream, Caller)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Otherwise Nagle's algorithm delays the second small frame of a turn until the peer
            // acknowledges the first: by 40 ms.
            stream.set_nodelay(true).ok()?;
            Some((stream, Caller::of_address(peer.ip().to_canonical())))
        }
        Err(error) => {
            // Probably no file descriptor is left: other connections must end first.
            tracing::error!(target: PEER, %error, "failed to accept a connection");
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

pub(super) async fn answer_and_close(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut sink = [0; 1024];
    // A client would ignore an answer before its request, and a close with unread bytes would reset
    // the connection before the answer is read.
    let _whatever_it_asks = stream.read(&mut sink).await?;
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}
