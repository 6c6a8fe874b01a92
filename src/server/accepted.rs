//! A connection between its acceptance and its service: serve it, or reject it with an answer.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use tokio::{sync::Semaphore, time::timeout};

use super::{listener::answer_and_close, socket::Socket};
use crate::session::Caller;

/// The requests that a connection may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    Everything,
    /// Only connections for probes are left.
    Probes,
}

/// A connection that was accepted and is not served yet.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) caller: Caller,
    pub(super) rejections: Arc<Semaphore>,
}

impl Accepted {
    /// Rejects the connection with an HTTP/1.1 response. Other protocols see a close, and so do all
    /// clients with TLS, since a handshake costs too much here. Beyond a number of rejections at a
    /// time, connections are closed without an answer.
    pub(super) fn reject(self, answer: &'static [u8]) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let Self { mut socket, rejections, .. } = self;
        counter!("duologue_connections_refused_total").increment(1);
        if let Ok(permit) = rejections.try_acquire_owned() {
            tokio::spawn(async move {
                let _told_or_not = timeout(PATIENCE, answer_and_close(&mut socket, answer)).await;
                drop(permit);
            });
        }
    }
}

pub(super) const NO_CONNECTION: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    retry-after: 5\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\
    referrer-policy: no-referrer\r\nconnection: close\r\ncontent-length: 47\r\n\r\n\
    {\"detail\":\"The gateway has no connection left\"}";

pub(super) const TOO_MANY_OF_ADDRESS: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n\
    retry-after: 1\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\
    referrer-policy: no-referrer\r\nconnection: close\r\ncontent-length: 50\r\n\r\n\
    {\"detail\":\"This address has too many connections\"}";
