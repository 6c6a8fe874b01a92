//! Deadlines and limits of the port.

use std::{net::SocketAddr, time::Duration};

use super::tls::TlsFiles;

/// Limits and deadlines of the port.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub addr: SocketAddr,
    /// HTTPS, if there is a certificate.
    pub tls: Option<TlsFiles>,
    /// Where metrics and probes are, if anywhere.
    pub ops_addr: Option<SocketAddr>,
    /// Connections at a time; those beyond are refused.
    pub max_connections: usize,
    /// HTTP/2 streams at a time on one connection.
    pub max_connection_streams: u32,
    /// How long a new connection may take to shake hands, if there is a certificate,
    /// and then to make its first request; and any request its head.
    pub head_timeout: Duration,
    /// How long a connection may have nothing in progress.
    pub idle_timeout: Duration,
    /// How often a quiet HTTP/2 connection is pinged, and how long the answer may take.
    pub keep_alive: Duration,
    /// How long a peer may take nothing of what it is sent.
    pub write_timeout: Duration,
    /// How long a shutdown waits for replies.
    pub drain_timeout: Duration,
    /// Bytes of pages that wait to be read, of all connections.
    pub max_waiting_size: usize,
    /// The same of one connection.
    pub max_connection_waiting_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([0, 0, 0, 0], 3500)),
            tls: None,
            ops_addr: Some(SocketAddr::from(([127, 0, 0, 1], 3501))),
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
