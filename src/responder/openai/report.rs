//! The log line of a reply.

use std::time::Duration;

use tokio::time::Instant;

use super::{failure::UpstreamError, response::ResponseStream, upstream::Upstream};
use crate::session::{Chunk, MessageId, SessionId, estimate_tokens};

/// The account of a reply. It is logged when it is dropped, at the end of the reply.
#[derive(Debug)]
pub(super) struct Report {
    session: SessionId,
    reply: MessageId,
    began: Instant,
    upstream: String,
    attempts: u32,
    /// Time to the first content.
    first_content: Option<Duration>,
    status: &'static str,
    input_tokens: u32,
    output_tokens: u32,
    estimated: bool,
}

impl Report {
    pub(super) fn new(session: SessionId, reply: MessageId, input_tokens: u32) -> Self {
        Self {
            session,
            reply,
            began: Instant::now(),
            upstream: String::new(),
            attempts: 0,
            first_content: None,
            // The default: the core dropped the reply.
            status: "cancelled",
            input_tokens,
            output_tokens: 0,
            estimated: true,
        }
    }

    pub(super) fn attempt(&mut self, upstream: &Upstream) -> u32 {
        upstream.name().clone_into(&mut self.upstream);
        self.attempts += 1;
        self.attempts
    }

    pub(super) fn failed_attempt(&self, upstream: &Upstream, failed: &UpstreamError) {
        let cause = failed.in_log(upstream.vocabulary());
        tracing::warn!(
            session = %self.session,
            reply = %self.reply,
            upstream = upstream.name(),
            attempt = self.attempts,
            code = failed.reason.code(),
            cause,
            retry_after_ms = failed.retry_after.map(milliseconds),
            "an upstream failed",
        );
    }

    pub(super) fn trimmed(&mut self, input_tokens: u32) {
        self.input_tokens = input_tokens;
    }

    pub(super) fn chunk(&mut self, chunk: &Chunk) {
        self.first_content.get_or_insert(self.began.elapsed());
        if let Chunk::Delta(piece) = chunk {
            let tokens = estimate_tokens(piece.text());
            self.output_tokens = self.output_tokens.saturating_add(tokens);
        }
    }

    /// Records the end of the response.
    pub(super) fn ended(
        &mut self,
        response_stream: &ResponseStream,
        failed: Option<&UpstreamError>,
    ) {
        self.status = failed.map_or("complete", |failed| failed.reason.code());
        if let Some(usage) = response_stream.usage() {
            self.input_tokens = usage.input_tokens;
            self.output_tokens = usage.output_tokens;
            self.estimated = usage.estimated;
        }
    }

    /// Records that no upstream has answered.
    pub(super) fn gave_up(&mut self, failed: &UpstreamError) {
        self.status = failed.reason.code();
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        tracing::info!(
            session = %self.session,
            reply = %self.reply,
            upstream = self.upstream,
            status = self.status,
            attempts = self.attempts,
            first_content_ms = self.first_content.map(milliseconds),
            total_ms = milliseconds(self.began.elapsed()),
            input_tokens = self.input_tokens,
            output_tokens = self.output_tokens,
            estimated = self.estimated,
            "upstream released",
        );
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
