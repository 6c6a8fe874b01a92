//! One streamed response of an upstream, from its head to its end.
//!
//! A response is complete only if it has a finish reason. Neither `[DONE]` nor an orderly end of
//! the connection is enough.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use reqwest::Response;
use tokio::time::{Instant, timeout};

use super::{
    assembly::{Assembly, Brought},
    body::Body,
    deadline_timer::DeadlineTimer,
    failure::UpstreamError,
    wire::{self, WireEvent, WirePiece},
};
use crate::{
    responder::upstream::{Reason, limiter::Permit},
    session::{Chunk, Usage},
};

/// Longest wait for the usage after the finish reason.
const USAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for the rest of a complete body, so that the connection can be reused.
const REUSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Finish reasons by which servers report a failure: vLLM, SGLang (`abort`), OpenRouter (`error`),
/// DeepSeek (`insufficient_system_resource`), GLM (`network_error`) and others.
const FAILURES: [&str; 10] = [
    "abort",
    "aborted",
    "cancelled",
    "canceled",
    "error",
    "failed",
    "insufficient_system_resource",
    "internal_error",
    "network_error",
    "server_error",
];

/// Time limits of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseLimits {
    pub(super) chunk_timeout: Duration,
    /// Deadline of the first content.
    pub(super) first_content: Instant,
    /// Deadline of the reply.
    pub(super) total: Instant,
    /// `[DONE]` without a finish reason completes the reply.
    pub(super) accept_missing_finish_reason: bool,
}

/// The next step of a response.
#[derive(Debug)]
pub(super) enum Step {
    /// More of the reply.
    Chunk(Chunk),
    /// The finish reason is known. Usage may follow, and with some servers more content.
    Finished,
    End,
}

/// A response in progress. Dropping it drops the connection.
#[derive(Debug)]
pub(super) struct ResponseStream {
    /// `None` once the body is over.
    response: Option<Response>,
    body: Body,
    limits: ResponseLimits,
    timer: DeadlineTimer,
    /// Time of the last event that counts as progress.
    silent_since: Instant,
    /// Content for the client has arrived: reasoning counts.
    has_content: bool,
    /// Text or tool calls have arrived.
    has_answer: bool,
    has_piece: bool,
    /// Content arrived that is not understood: an empty reply would hide it.
    ignored: bool,
    /// The choice that the reply is made of, once one has content.
    choice: Option<u32>,
    finish_reason: Option<Arc<str>>,
    /// Time of the finish reason.
    ended_at: Option<Instant>,
    /// A `Step::Finished` is due.
    announce_finish: bool,
    /// A finish reason that was followed by content: the reply may still break off.
    early_reason: Option<Arc<str>>,
    /// Chunks that wait to be returned.
    pending: VecDeque<Chunk>,
    /// The response has ended as it should.
    is_over: bool,
    assembly: Assembly,
    model: Option<Arc<str>>,
    usage: Option<Usage>,
    /// The permit of the upstream's limiter.
    _permit: Permit,
}

impl ResponseStream {
    /// Creates the stream of a response of the upstream of this name.
    pub(super) fn new(
        response: Response,
        upstream: &Arc<str>,
        limits: ResponseLimits,
        permit: Permit,
    ) -> Self {
        Self {
            response: Some(response),
            body: Body::default(),
            limits,
            timer: DeadlineTimer::at(limits.first_content),
            silent_since: Instant::now(),
            has_content: false,
            has_answer: false,
            has_piece: false,
            ignored: false,
            choice: None,
            finish_reason: None,
            ended_at: None,
            announce_finish: false,
            early_reason: None,
            pending: VecDeque::new(),
            is_over: false,
            assembly: Assembly::new(upstream),
            model: None,
            usage: None,
            _permit: permit,
        }
    }

    /// Returns the finish reason. `None` while the reply may break off.
    pub(super) fn finish_reason(&self) -> Option<Arc<str>> {
        let reason = self.finish_reason.as_ref();
        let is_known = reason.is_some() || self.is_over;
        is_known.then(|| self.assembly.finish_reason(reason)).flatten()
    }

    /// Returns the model, as the upstream names it.
    pub(super) fn model(&self) -> Option<Arc<str>> {
        self.model.clone()
    }

    /// Returns the data that the upstream wants back with the reply.
    pub(super) fn provider_data(&self) -> Option<Arc<str>> {
        self.assembly.provider_data()
    }

    /// Returns the usage, if the upstream reported it.
    pub(super) const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Returns the next step.
    ///
    /// # Errors
    /// The reply is not complete: the upstream reported a failure, broke off, or timed out.
    pub(super) async fn next(&mut self) -> Result<Step, UpstreamError> {
        // Time that the caller spent elsewhere is not the upstream's silence.
        self.silent_since = Instant::now();
        loop {
            if let Some(chunk) = self.pending.pop_front() {
                return Ok(Step::Chunk(chunk));
            }
            if self.is_over {
                return Ok(Step::End);
            }
            if std::mem::take(&mut self.announce_finish) {
                return Ok(Step::Finished);
            }
            let event = match self.event() {
                Ok(event) => event,
                // Everything that matters has arrived.
                Err(_) if self.is_finished() => return Ok(Step::End),
                Err(failed) => return Err(failed),
            };
            match event {
                Some(WireEvent::Piece(piece)) => self.take(piece)?,
                Some(WireEvent::KeepAlive) => {}
                Some(WireEvent::Unknown) => self.ignored = true,
                Some(WireEvent::Error(body)) => {
                    return Err(UpstreamError::of_upstream(None, &body));
                }
                Some(WireEvent::Done) => {
                    self.release_connection();
                    self.finish_reason = self.finish_reason.take().or(self.early_reason.take());
                    let accepted = self.limits.accept_missing_finish_reason;
                    self.end(accepted && self.has_piece, "[DONE] without a finish_reason")?;
                }
                None if self.response.is_none() => {
                    self.end(false, "the body ended without a finish_reason")?;
                }
                None => match self.read().await {
                    Ok(()) => {}
                    Err(_) if self.is_finished() => return Ok(Step::End),
                    // A reason without content may be premature, until the time for content is
                    // over.
                    Err(failed)
                        if failed.reason == Reason::FirstContentTimeout
                            && self.finish_reason.is_some() =>
                    {
                        self.end(false, "")?;
                    }
                    Err(failed) => return Err(failed),
                },
            }
        }
    }

    /// Returns true if the reply has an answer and a finish reason.
    const fn is_finished(&self) -> bool {
        self.has_answer && self.finish_reason.is_some()
    }

    fn event(&mut self) -> Result<Option<WireEvent>, UpstreamError> {
        let is_over = self.response.is_none();
        let (event, is_whole) = match self.body.next(is_over) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(None),
            Err(problem) => return Err(UpstreamError::new(Reason::Protocol, problem)),
        };
        let read = wire::read(&event, self.choice).map_err(|error| {
            // Not the error's own words, which quote the input.
            let (kind, column) = (error.classify(), error.column());
            let cause = format_args!("an event is not as expected: {kind:?} error at {column}");
            UpstreamError::new(if is_whole { Reason::Protocol } else { Reason::Truncated }, cause)
        });
        self.has_piece |= matches!(read, Ok(WireEvent::Piece(_)));
        read.map(Some)
    }

    fn take(&mut self, mut piece: WirePiece) -> Result<(), UpstreamError> {
        if piece.advances() {
            self.silent_since = Instant::now();
            self.choice = self.choice.or(piece.choice);
        }
        self.usage = piece.usage.or(self.usage);
        self.model = self.model.take().or(piece.model.take());
        self.ignored |= piece.ignored;
        let reason = piece.finish_reason.take();
        self.take_content(piece)?;
        if let Some(reason) = reason {
            if FAILURES.contains(&reason.as_ref()) {
                // The reason is one of the list above, and safe to log.
                let cause = format_args!("finish_reason {reason}");
                return Err(UpstreamError::new(Reason::Failed, cause));
            }
            self.end_parts()?;
            self.announce_finish = self.has_answer && self.finish_reason.is_none();
            self.finish_reason = Some(reason);
            self.ended_at.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Converts the content of a piece to chunks.
    fn take_content(&mut self, piece: WirePiece) -> Result<(), UpstreamError> {
        let mut chunks = Vec::new();
        match self.assembly.take(piece, &mut chunks)? {
            Brought::Nothing => {}
            Brought::Reasoning => self.has_content = true,
            Brought::Answer => {
                (self.has_content, self.has_answer) = (true, true);
                self.early_reason = self.finish_reason.take().or(self.early_reason.take());
                self.ended_at = None;
            }
        }
        self.pending.extend(chunks);
        Ok(())
    }

    fn end_parts(&mut self) -> Result<(), UpstreamError> {
        let mut chunks = Vec::new();
        self.assembly.end(&mut chunks)?;
        self.pending.extend(chunks);
        Ok(())
    }

    /// Ends the response, or fails if it is not complete.
    fn end(&mut self, accepted: bool, otherwise: &str) -> Result<(), UpstreamError> {
        if self.finish_reason.is_none() && !accepted {
            if !self.has_piece && self.ignored {
                return Err(UpstreamError::new(Reason::Protocol, "not a chat completion"));
            }
            let mut failed = UpstreamError::new(Reason::Truncated, otherwise);
            // Some servers refuse a prompt that is too long with an empty response.
            failed.is_empty = !self.has_piece;
            return Err(failed);
        }
        if !self.has_answer && self.ignored {
            let cause = "the response has no text, and content that is not understood";
            return Err(UpstreamError::new(Reason::Protocol, cause));
        }
        self.end_parts()?;
        self.is_over = true;
        Ok(())
    }

    /// Reads more of the body, or its end.
    async fn read(&mut self) -> Result<(), UpstreamError> {
        // A body that is always ready must not starve a stop.
        tokio::task::coop::consume_budget().await;
        let (limit, reason) = self.deadline();
        let Some(response) = &mut self.response else { return Ok(()) };
        match self.timer.within(limit, response.chunk()).await {
            Some(Ok(Some(bytes))) => {
                self.body.push(&bytes);
                // Before the first content any byte is progress, later only more of the reply is.
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

    fn deadline(&self) -> (Instant, Reason) {
        let silence = (self.silent_since + self.limits.chunk_timeout, Reason::ChunkTimeout);
        let first_content = (self.limits.first_content, Reason::FirstContentTimeout);
        let total = (self.limits.total, Reason::TotalTimeout);
        match self.ended_at {
            Some(ended_at) if self.has_answer => {
                silence.min_by_time((ended_at + USAGE_TIMEOUT, Reason::ChunkTimeout))
            }
            // A reason without an answer may be premature.
            Some(_) => first_content.min_by_time(total),
            None if self.has_content => silence.min_by_time(total),
            None => silence.min_by_time(first_content).min_by_time(total),
        }
    }

    /// Reads the rest of the body in the background, so that the connection can be reused.
    fn release_connection(&mut self) {
        if let Some(mut response) = self.response.take() {
            tokio::spawn(async move {
                let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
                timeout(REUSE_TIMEOUT, rest).await
            });
        }
    }
}

/// Selects the earlier of two deadlines.
trait DeadlineExt {
    fn min_by_time(self, other: Self) -> Self;
}

impl DeadlineExt for (Instant, Reason) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}
