//! Connects to the bot: TCP, TLS, HTTP/2.
//!
//! tonic's own channel is not used. It reports a failed connection to one call and retries for the
//! next, so that calls that arrive together fail one after another. It also cannot limit how long
//! sent data may stay unacknowledged.

use std::{error::Error, sync::Arc, time::Duration};

use http::Uri;
use hyper::{
    client::conn::http2::{Builder, SendRequest},
    rt::{Read, Write},
};
use hyper_util::{
    client::legacy::connect::HttpConnector,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, crypto, pki_types::ServerName},
};
use tonic::body::Body;
use tower::ServiceExt as _;

use super::{failure::UpstreamError, settings::Settings};
use crate::responder::upstream::{Reason, tls_roots};

/// h2 counts small unread frames against a budget that grows with the window, and closes the
/// connection when it is used up.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Silence after which the system probes an idle connection. A host that has disappeared sends
/// nothing.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Interval of the probes.
const TCP_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of the probes.
const TCP_KEEP_ALIVE_RETRIES: u32 = 3;

/// Longest time that sent data may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482). While data
/// is unacknowledged, Linux does not probe but retransmits, for about 15 minutes by default. As
/// long as the probes take.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(35);

/// Longest time to answer a PING.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The protocol id of HTTP/2 (RFC 7301; RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";

/// Sends requests over one connection.
pub(super) type Sender = SendRequest<Body>;

pub(super) struct Connector {
    uri: Uri,
    timeout: Duration,
    tcp: HttpConnector,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    http2: Builder<TokioExecutor>,
}

impl Connector {
    /// Prepares the TLS settings, without a connection.
    ///
    /// # Errors
    /// One sentence for the operator: the certificates cannot be used.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let timeout = settings.connect_timeout;
        Ok(Self {
            uri: settings.endpoint.uri().clone(),
            timeout,
            tcp: tcp(timeout),
            tls: settings.endpoint.is_tls().then(|| tls(settings)).transpose()?,
            http2: http2(settings.keep_alive),
        })
    }

    /// Opens a connection within the connect timeout.
    pub(super) async fn connect(&self) -> Result<Sender, UpstreamError> {
        match timeout(self.timeout, self.attempt()).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(UpstreamError::of_connecting(&*error)),
            Err(_) => Err(UpstreamError::transient(Reason::ConnectTimeout, "the time is up")),
        }
    }

    async fn attempt(&self) -> Result<Sender, Box<dyn Error + Send + Sync>> {
        let stream = self.reach().await?;
        let Some((tls, name)) = &self.tls else {
            return self.handshake(TokioIo::new(stream)).await;
        };
        let stream = tls.connect(name.clone(), stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err("the bot does not speak HTTP/2".into());
        }
        self.handshake(TokioIo::new(stream)).await
    }

    async fn reach(&self) -> Result<TcpStream, Box<dyn Error + Send + Sync>> {
        Ok(self.tcp.clone().oneshot(self.uri.clone()).await?.into_inner())
    }

    async fn handshake<T>(&self, stream: T) -> Result<Sender, Box<dyn Error + Send + Sync>>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let (sender, connection) = self.http2.handshake(stream).await?;
        tokio::spawn(async {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "the connection to the bot is lost");
            }
        });
        Ok(sender)
    }
}

fn tcp(timeout: Duration) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // hyper divides the time among the addresses of a host, so that the first cannot use it up.
    tcp.set_connect_timeout(Some(timeout));
    tcp.set_keepalive(Some(TCP_KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(TCP_KEEP_ALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(TCP_KEEP_ALIVE_RETRIES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    tcp
}

fn tls(settings: &Settings) -> Result<(TlsConnector, ServerName<'static>), String> {
    let roots = match &settings.ca_cert {
        Some(path) => tls_roots::roots(path).map_err(|line| format!("--bot-ca-cert {line}"))?,
        None => tls_roots::of_system()?,
    };
    let host = settings.endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| "--bot-endpoint: no certificate can name such a host")?;
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS to the bot cannot be set up: {error}"))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn http2(keep_alive: Duration) -> Builder<TokioExecutor> {
    let mut http2 = Builder::new(TokioExecutor::new());
    http2.timer(TokioTimer::new()).initial_connection_window_size(CONNECTION_WINDOW);
    if !keep_alive.is_zero() {
        http2.keep_alive_interval(keep_alive).keep_alive_timeout(keep_alive.min(PING_TIMEOUT));
    }
    http2
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use socket2::SockRef;

    use super::*;
    use crate::responder::grpc::Endpoint;

    #[tokio::test]
    async fn what_the_bot_does_not_acknowledge_is_not_sent_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let settings = Settings::new(Endpoint::parse(&endpoint).unwrap());
        let stream = Connector::new(&settings).unwrap().reach().await.unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
        let (idle, again) = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
        let probes = TCP_KEEP_ALIVE_INTERVAL * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(idle.unwrap() + probes, TCP_USER_TIMEOUT, "{again:?}");
    }
}
