//! Settings of the port.

use std::{net::SocketAddr, time::Duration};

use super::{
    client_address::{ForwardedHeader, TrustedProxies},
    listen_addr::ListenAddr,
    tls::TlsFiles,
};

/// Limits and deadlines of the port.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Listen address.
    pub addr: ListenAddr,
    /// Networks of trusted proxies, which name their clients.
    pub trusted_proxies: TrustedProxies,
    /// The header in which they do.
    pub forwarded_header: ForwardedHeader,
    /// Certificate and key. `None`: no TLS.
    pub tls: Option<TlsFiles>,
    /// Listen address of metrics and probes. `None`: no such port.
    pub ops_addr: Option<SocketAddr>,
    /// `/readyz` of that port answers 200 while a part, such as the store, does not work. Otherwise
    /// 503.
    pub ready_while_degraded: bool,
    /// Most concurrent connections. Further ones are rejected.
    pub max_connections: usize,
    /// Most concurrent HTTP/2 streams of a connection.
    pub max_connection_streams: u32,
    /// Longest time for the TLS handshake, then for the first request, and for the head of any
    /// request.
    pub head_timeout: Duration,
    /// Longest time that a connection may be idle.
    pub idle_timeout: Duration,
    /// Interval of PINGs on a quiet HTTP/2 connection, and longest time for the answer.
    pub keep_alive: Duration,
    /// Longest time that a peer may read nothing of the data that waits for it.
    pub write_timeout: Duration,
    /// Longest time that a shutdown waits for replies.
    pub drain_timeout: Duration,
    /// Most bytes of pages that wait to be read, over all connections.
    pub max_waiting_size: usize,
    /// The same for one connection.
    pub max_connection_waiting_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addr: ListenAddr::Tcp(SocketAddr::from(([0, 0, 0, 0], 3500))),
            trusted_proxies: TrustedProxies::default(),
            forwarded_header: ForwardedHeader::default(),
            tls: None,
            ops_addr: Some(SocketAddr::from(([127, 0, 0, 1], 3501))),
            ready_while_degraded: true,
            max_connections: 20_000,
            max_connection_streams: 256,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            keep_alive: Duration::from_secs(25),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            max_waiting_size: 256 << 20,
            max_connection_waiting_size: 16 << 20,
        }
    }
}
