//! Two lines in the log for every stream that is opened with a token, and its metrics.
//!
//! They hold what an operator asks for (protocol, codec, session, close code,
//! seconds, messages) and nothing that is secret: no token, no text, no URI.

use metrics::{counter, gauge};
use tokio::time::Instant;

use crate::{
    session::{ErrorKind, SessionId},
    telemetry::PEER,
    transport::status,
};

/// Counts what passes; writes the second line when it is dropped.
#[derive(Debug)]
pub(in crate::transport) struct StreamRecord {
    protocol: &'static str,
    codec: &'static str,
    session: Option<SessionId>,
    opened: Instant,
    received: u32,
    sent: u32,
    close: Close,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) enum Close {
    /// The client went away without a word, or cancelled.
    Lost,
    /// With a code of its protocol, and the gateway's own word for it.
    Code(u16, &'static str),
}

impl StreamRecord {
    pub(in crate::transport) fn open(protocol: &'static str, codec: &'static str) -> Self {
        gauge!("duologue_streams", "protocol" => protocol, "codec" => codec).increment(1);
        let opened = Instant::now();
        Self { protocol, codec, session: None, opened, received: 0, sent: 0, close: Close::Lost }
    }

    pub(in crate::transport) fn attached(&mut self, session: SessionId) {
        let Self { protocol, codec, .. } = *self;
        if self.session.replace(session).is_none() {
            tracing::info!(protocol, codec, %session, "stream opened");
        }
    }

    pub(in crate::transport) fn received(&mut self) {
        self.received = self.received.saturating_add(1);
    }

    /// A message that is refused; the stream goes on.
    pub(in crate::transport) fn refused(&mut self, why: ErrorKind) {
        status::told(why);
        self.received();
    }

    pub(in crate::transport) fn sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
    }

    pub(in crate::transport) fn closes(&mut self, close: Close) {
        self.close = close;
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        let Self { protocol, codec, received, sent, .. } = *self;
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
