//! One answer of an upstream, from its head to its end.
//!
//! It is whole only if the upstream said why it ended: `[DONE]` alone proves nothing, and
//! neither does a connection that closes in good order.

use std::{sync::Arc, time::Duration};

use reqwest::Response;
use tokio::time::{Instant, timeout};

use super::{
    deadline_timer::DeadlineTimer,
    failure::UpstreamError,
    sse::Framer,
    wire::{self, Piece, WireEvent},
};
use crate::{
    responder::upstream::{Reason, limiter::Permit},
    session::Usage,
};

/// After its reason, an answer may still tell what it cost. That is worth so much.
const USAGE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection may take to come to the end of a body that is over, to be used
/// again.
const REUSE_PATIENCE: Duration = Duration::from_secs(1);

/// What an answer has to keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Longest silence.
    pub(super) chunk_timeout: Duration,
    /// When the first text must be there.
    pub(super) first_content: Instant,
    /// When the reply must be over.
    pub(super) total: Instant,
    /// `[DONE]` without a reason is an end, too.
    pub(super) accept_missing_finish_reason: bool,
}

/// An answer under way. Dropping it drops the connection.
#[derive(Debug)]
pub(super) struct ResponseStream {
    /// `None` once the body is over.
    response: Option<Response>,
    framer: Framer,
    limits: Limits,
    timer: DeadlineTimer,
    /// Since when nothing has come that counts.
    silent_since: Instant,
    has_content: bool,
    has_piece: bool,
    finish_reason: Option<Arc<str>>,
    /// When it came.
    ended_at: Option<Instant>,
    /// One that came before the last text: the answer may end in the middle all the same.
    early_reason: Option<Arc<str>>,
    usage: Option<Usage>,
    /// Its place among those that the upstream serves.
    _permit: Permit,
}

impl ResponseStream {
    pub(super) fn new(response: Response, limits: Limits, permit: Permit) -> Self {
        Self {
            response: Some(response),
            framer: Framer::default(),
            limits,
            timer: DeadlineTimer::at(limits.first_content),
            silent_since: Instant::now(),
            has_content: false,
            has_piece: false,
            finish_reason: None,
            ended_at: None,
            early_reason: None,
            usage: None,
            _permit: permit,
        }
    }

    /// Why it ended.
    pub(super) fn finish_reason(&self) -> Option<Arc<str>> {
        self.finish_reason.clone()
    }

    /// What it cost, if the upstream has said.
    pub(super) const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// More text, which is never empty; `None` at the end of an answer that is whole.
    pub(super) async fn next(&mut self) -> Result<Option<String>, UpstreamError> {
        // Whoever asks may have been busy with something else: that was not the upstream's
        // silence.
        self.silent_since = Instant::now();
        loop {
            let said = match self.event() {
                Ok(said) => said,
                // All that mattered was said before.
                Err(_) if self.finish_reason.is_some() => return Ok(None),
                Err(failed) => return Err(failed),
            };
            match said {
                Some(WireEvent::Piece(piece)) => {
                    if let Some(text) = self.take(piece) {
                        return Ok(Some(text));
                    }
                }
                Some(WireEvent::Nothing) => {}
                Some(WireEvent::Error(body)) => {
                    return Err(UpstreamError::of_upstream(None, &body));
                }
                Some(WireEvent::Done) => {
                    self.let_finish();
                    self.finish_reason = self.finish_reason.take().or(self.early_reason.take());
                    let accepted = self.limits.accept_missing_finish_reason;
                    return self
                        .ended(accepted && self.has_piece, "[DONE] without a finish_reason");
                }
                None if self.response.is_none() => {
                    return self.ended(false, "the body ended without a finish_reason");
                }
                None => match self.read().await {
                    Ok(()) => {}
                    Err(_) if self.finish_reason.is_some() => return Ok(None),
                    Err(failed) => return Err(failed),
                },
            }
        }
    }

    fn event(&mut self) -> Result<Option<WireEvent>, UpstreamError> {
        let (event, is_whole) = match self.framer.next() {
            Ok(None) if self.response.is_none() => (self.framer.finish(), false),
            Ok(event) => (event, true),
            Err(_) => return Err(UpstreamError::new(Reason::Protocol, "an event is too long")),
        };
        let Some(event) = event else { return Ok(None) };
        let said = wire::read(&event).map_err(|error| {
            // Not the error's own words, which quote what it found.
            let (kind, column) = (error.classify(), error.column());
            let cause = format_args!("an event is not as expected: {kind:?} error at {column}");
            UpstreamError::new(if is_whole { Reason::Protocol } else { Reason::Truncated }, cause)
        });
        self.has_piece |= matches!(said, Ok(WireEvent::Piece(_)));
        said.map(Some)
    }

    fn take(&mut self, piece: Piece) -> Option<String> {
        if piece.advances() {
            self.silent_since = Instant::now();
        }
        self.usage = piece.usage.or(self.usage);
        if !piece.text.is_empty() {
            self.has_content = true;
            self.early_reason = self.finish_reason.take().or(self.early_reason.take());
            self.ended_at = None;
        }
        if let Some(reason) = piece.finish_reason {
            self.finish_reason = Some(reason);
            self.ended_at.get_or_insert_with(Instant::now);
        }
        (!piece.text.is_empty()).then_some(piece.text)
    }

    fn ended(&self, accepted: bool, otherwise: &str) -> Result<Option<String>, UpstreamError> {
        if self.finish_reason.is_some() || accepted {
            return Ok(None);
        }
        let mut failed = UpstreamError::new(Reason::Truncated, otherwise);
        // How some servers say that a prompt is too long.
        failed.is_empty = !self.has_piece;
        Err(failed)
    }

    /// Reads more of the body, or its end.
    async fn read(&mut self) -> Result<(), UpstreamError> {
        // A body that is always ready must let a stop be heard.
        tokio::task::coop::consume_budget().await;
        let Some(response) = &mut self.response else { return Ok(()) };
        let silence = (self.silent_since + self.limits.chunk_timeout, Reason::ChunkTimeout);
        let next = match self.ended_at {
            Some(ended_at) => (ended_at + USAGE_PATIENCE, Reason::ChunkTimeout),
            None if self.has_content => silence,
            None => (self.limits.first_content, Reason::FirstContentTimeout),
        };
        let total = (self.limits.total, Reason::TotalTimeout);
        let (limit, reason) = silence.min_by_time(next).min_by_time(total);
        match self.timer.within(limit, response.chunk()).await {
            Some(Ok(Some(bytes))) => {
                self.framer.push(&bytes);
                // Before the first text, any byte is a sign of life; later only more of
                // the answer is.
                if !self.has_content && self.finish_reason.is_none() {
                    self.silent_since = Instant::now();
                }
                Ok(())
            }
            Some(Ok(None)) => {
                self.response = None;
                Ok(())
            }
            Some(Err(error)) => Err(UpstreamError::of_client(error, Reason::Truncated)),
            None => Err(UpstreamError::new(reason, "the body stalled")),
        }
    }

    /// Lets the connection come to its body's end, so that it can be used again.
    fn let_finish(&mut self) {
        if let Some(mut response) = self.response.take() {
            tokio::spawn(async move {
                let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
                timeout(REUSE_PATIENCE, rest).await
            });
        }
    }
}

/// The earlier of two limits.
trait Earliest {
    fn min_by_time(self, other: Self) -> Self;
}

impl Earliest for (Instant, Reason) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}
