//! The socket of a connection: TCP, or a Unix socket.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};
use tokio_util::either::Either;

/// A connected socket.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// Waits for bytes, and copies the first ones without taking them. Returns their number, 0 at the
/// end of the stream.
pub(super) async fn peek(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    match socket {
        Either::Left(stream) => stream.peek(buffer).await,
        // Tokio has no `peek` for Unix sockets.
        Either::Right(stream) => {
            let peek = || Ok(recv(stream, &mut *buffer, RecvFlags::PEEK)?.0);
            stream.async_io(Interest::READABLE, peek).await
        }
    }
}
