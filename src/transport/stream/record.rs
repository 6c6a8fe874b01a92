//! The account of one stream: its metrics, and two lines in the log for every stream that is
//! opened with a token.
//!
//! The lines hold the protocol, the codec, the session, the close code, the seconds and the number
//! of messages. They hold no token, no text and no URI.

use metrics::{counter, gauge};
use tokio::time::Instant;

use super::outbound::Outbound;
use crate::{
    session::{ErrorKind, SessionId},
    telemetry::PEER,
    transport::{codec::Codec, status},
};

/// A protocol that carries streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Protocol {
    WebSocket,
    Grpc,
    Sse,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Grpc => "grpc",
            Self::Sse => "sse",
        }
    }

    /// The code of a stream that ends well: RFC 6455, section 7.4.1; gRPC's OK.
    const fn ok_code(self) -> u16 {
        match self {
            Self::WebSocket | Self::Sse => 1000,
            Self::Grpc => 0,
        }
    }

    fn error_code(self, kind: ErrorKind) -> u16 {
        let row = status::row(kind);
        match self {
            Self::WebSocket | Self::Sse => row.close,
            Self::Grpc => row.grpc as u16,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(in crate::transport) enum Close {
    /// The client disconnected without a close code, or cancelled.
    Lost,
    /// A code of the protocol, and the gateway's own name for it.
    Code(u16, &'static str),
}

/// Counts the items of a stream. Writes the second line when it is dropped.
#[derive(Debug)]
pub(in crate::transport) struct StreamRecord {
    protocol: Protocol,
    codec: &'static str,
    session: Option<SessionId>,
    opened: Instant,
    received: u32,
    sent: u32,
    close: Close,
}

impl StreamRecord {
    pub(in crate::transport) fn new(protocol: Protocol, codec: &'static str) -> Self {
        gauge!("duologue_streams", "protocol" => protocol.name(), "codec" => codec).increment(1);
        let opened = Instant::now();
        Self { protocol, codec, session: None, opened, received: 0, sent: 0, close: Close::Lost }
    }

    /// The stream was opened on a session. Writes the first line.
    pub(super) fn attached(&mut self, session: SessionId, address: Option<String>) {
        let Self { protocol, codec, .. } = *self;
        let protocol = protocol.name();
        if self.session.replace(session).is_none() {
            tracing::info!(protocol, codec, %session, address, "stream opened");
        }
    }

    /// Counts an item that the stream delivers: messages of this client that were accepted or
    /// refused, and events. Heartbeats and answers to pings do not count.
    pub(super) fn count(&mut self, item: &Outbound) {
        match item {
            Outbound::Accepted(_) => self.received = self.received.saturating_add(1),
            Outbound::Refused { error, .. } => {
                status::count_refusal(error.kind());
                self.received = self.received.saturating_add(1);
            }
            // Plain mode writes answers instead of events.
            Outbound::Event(_) if self.codec == Codec::Plain.name() => {}
            Outbound::Event(_) => self.sent = self.sent.saturating_add(1),
            Outbound::End(Ok(())) => {
                self.close = Close::Code(self.protocol.ok_code(), "ok");
            }
            Outbound::End(Err(error)) => self.failed(error.kind()),
            Outbound::Opened(_) | Outbound::Pong | Outbound::Heartbeat => {}
        }
    }

    /// Counts an answer of plain mode.
    pub(in crate::transport) fn answered(&mut self) {
        self.sent = self.sent.saturating_add(1);
    }

    /// The stream ends with an error.
    pub(in crate::transport) fn failed(&mut self, kind: ErrorKind) {
        status::count_refusal(kind);
        self.close = Close::Code(self.protocol.error_code(kind), kind.code());
    }

    /// The client ended the stream.
    pub(in crate::transport) fn closed_by_client(&mut self, close: Close) {
        self.close = close;
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        let Self { codec, received, sent, .. } = *self;
        let protocol = self.protocol.name();
        let (code, reason) = match self.close {
            Close::Lost => (None, "lost"),
            Close::Code(code, reason) => (Some(code), reason),
        };
        gauge!("duologue_streams", "protocol" => protocol, "codec" => codec).decrement(1);
        counter!("duologue_streams_closed_total", "protocol" => protocol, "reason" => reason)
            .increment(1);
        let seconds = self.opened.elapsed().as_millis() as f64 / 1000.0;
        match self.session {
            Some(session) => tracing::info!(
                protocol, codec, %session, code, reason, seconds, received, sent, "stream closed"
            ),
            // It needed no token to get here.
            None => tracing::info!(
                target: PEER, protocol, codec, code, reason, seconds, "stream closed unopened"
            ),
        }
    }
}
