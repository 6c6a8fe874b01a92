//! A limit for peers that do not read.
//!
//! It sits below TLS. Above TLS, a write ends once the bytes are encrypted, and a flush ends once
//! all of them are sent, which takes long for a slow peer. Only the socket shows whether the peer
//! reads at all.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::socket::Socket;

/// A socket whose writes fail if the peer reads nothing for a while. An idle socket has no timer.
pub(super) struct WriteTimeout {
    socket: Socket,
    write_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    pub(super) const fn new(socket: Socket, write_timeout: Duration) -> Self {
        Self { socket, write_timeout, deadline: None }
    }

    /// Returns the result of a write. A pending write fails at the deadline.
    fn within<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let write_timeout = self.write_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.within(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.within(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    // Flush and shutdown of a socket do not wait: the kernel does the rest.

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
        time::{Instant, timeout},
    };
    use tokio_rustls::{
        TlsAcceptor, TlsConnector, client,
        rustls::{
            ClientConfig, RootCertStore, ServerConfig,
            crypto::aws_lc_rs::default_provider,
            pki_types::{PrivateKeyDer, ServerName},
        },
        server,
    };

    use tokio_util::either::Either;

    use super::*;

    type Error = Box<dyn std::error::Error>;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Both ends of a connection that has shaken hands.
    async fn connected()
    -> Result<(server::TlsStream<WriteTimeout>, client::TlsStream<TcpStream>), Error> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["x".to_owned()])?;
        let secret = PrivateKeyDer::try_from(signing_key.serialize_der())?;
        let provider = Arc::new(default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], secret)?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let trusting = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (accepted, peer) =
            tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr()?));
        let (accepted, peer) = (WriteTimeout::new(Either::Left(accepted?.0), PATIENCE), peer?);
        let (acceptor, connector) =
            (TlsAcceptor::from(Arc::new(config)), TlsConnector::from(Arc::new(trusting)));
        let shaken = tokio::try_join!(
            acceptor.accept(accepted),
            connector.connect(ServerName::try_from("x")?, peer)
        );
        Ok(shaken?)
    }

    #[tokio::test(start_paused = true)]
    async fn what_tls_has_taken_and_the_peer_has_not_is_no_progress() -> Result<(), Error> {
        let (mut stream, _peer) = connected().await?;
        let mut taken = Instant::now();
        let cut = loop {
            // TLS has room for many of these when the socket has none.
            let written = async {
                stream.write_all(&[0; 1024]).await?;
                stream.flush().await
            };
            match timeout(PATIENCE / 2, written).await {
                Ok(Ok(())) => taken = Instant::now(),
                Ok(Err(error)) => break error,
                Err(_still_waiting) => {}
            }
        };
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
        assert!(taken.elapsed() < 4 * PATIENCE, "{:?}", taken.elapsed());
        Ok(())
    }
}
