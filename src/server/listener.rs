//! Listening sockets: bind, accept, and refuse with an answer.

use std::{
    fs,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::unix::{fs::FileTypeExt as _, net::UnixStream as BlockingUnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket as BlockingSocket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
    time::sleep,
};
use tokio_util::either::Either;

use super::{listen_addr::ListenAddr, socket::Socket};
use crate::{
    session::{Caller, PeerAddress},
    telemetry::PEER,
};

const BACKLOG: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    /// The path is that of the socket file, which is removed when the socket closes.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds the address. Must be called on a runtime.
    ///
    /// # Errors
    /// The address is in use, or it is not of this machine.
    pub(super) fn bind(addr: &ListenAddr) -> io::Result<Self> {
        match addr {
            ListenAddr::Tcp(addr) => bind_tcp(*addr).map(Self::Tcp),
            ListenAddr::Unix(path) => {
                let listener = bind_unix(path)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// Returns the listen address, with the actual port if 0 was configured.
    pub(super) fn local_addr(&self) -> io::Result<ListenAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Self::Unix(_, path) => Ok(ListenAddr::Unix(path.clone())),
        }
    }

    /// Accepts a connection, and returns it with the address of its peer. Returns `None` after a
    /// failure, which it logs.
    pub(super) async fn accept(&self) -> Option<(Socket, Caller)> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                (Either::Left(stream), PeerAddress::Ip(peer.ip().to_canonical()))
            }),
            Self::Unix(listener, _) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| (Either::Right(stream), PeerAddress::UnixSocket))
            }
        };
        match accepted {
            Ok((socket, peer)) => {
                if let Either::Left(stream) = &socket {
                    // Otherwise Nagle's algorithm delays the second small frame of a turn until the
                    // peer acknowledges the first: by 40 ms.
                    stream.set_nodelay(true).ok()?;
                }
                Some((socket, Caller::of_address(peer)))
            }
            Err(error) => {
                // Probably no file descriptor is left: other connections must end first.
                tracing::error!(target: PEER, %error, "failed to accept a connection");
                sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = BlockingSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = BlockingSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let addr = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&addr) {
        if error.kind() != ErrorKind::AddrInUse {
            return Err(error);
        }
        remove_stale(path)?;
        socket.bind(&addr)?;
    }
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Removes the socket file of a process that was killed. Fails if a process listens on it.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("the file exists and is not a socket"));
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
    }
}

/// Removes the file while the socket still listens. Afterwards another process may bind the path.
impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && let Err(error) = fs::remove_file(&*path)
        {
            tracing::debug!(%error, path = %path.display(), "failed to remove the socket");
        }
    }
}

pub(super) async fn answer_and_close(socket: &mut Socket, answer: &[u8]) -> io::Result<()> {
    let mut sink = [0; 1024];
    // A client would ignore an answer before its request, and a close with unread bytes would reset
    // the connection before the answer is read.
    let _whatever_it_asks = socket.read(&mut sink).await?;
    socket.write_all(answer).await?;
    socket.shutdown().await?;
    while socket.read(&mut sink).await? > 0 {}
    Ok(())
}
