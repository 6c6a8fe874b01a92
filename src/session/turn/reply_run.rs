//! Runs the responder for one turn and publishes what it produces.

use std::{
    future::{pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::{Instant, sleep};

use super::{
    cancel::{CancelReason, CancelSignal},
    checkpointer::Checkpointer,
    prompt,
};
use crate::session::{
    core::Core,
    live::{Extended, ReplyLimits, Turn, registry::SessionHandle},
    metrics::Metrics,
    model::{Error, MessageId, Part, json},
    panic::{self, Panic, caught},
    ports::{Chunk, Chunks, Outcome, Piece},
};

/// Most bytes of provider data of one part or of the message.
const MAX_PROVIDER_DATA: usize = 256 << 10;

/// Most bytes of provider data of one reply.
const MAX_REPLY_PROVIDER_DATA: usize = 1 << 20;

/// The end of a reply that is not committed yet.
pub(super) enum ReplyEnding {
    Finished(Outcome),
    Cancelled(CancelReason),
    TooLong,
}

/// A reply that ended, and the estimated size of its prompt.
pub(super) struct Produced {
    pub(super) ending: ReplyEnding,
    pub(super) input_tokens: Option<u32>,
    /// Time from the start to the first content, in milliseconds.
    pub(super) first_content_ms: Option<u32>,
    /// Time from the start to the end, in milliseconds.
    pub(super) duration_ms: u32,
}

pub(super) struct ReplyRun<'a> {
    core: &'a Core,
    session: &'a SessionHandle,
    turn: &'a Turn,
    id: MessageId,
    running: Running<'a>,
    checkpointer: Checkpointer<'a>,
    /// Empty until the responder is called. Outlives the caught future: a stream that panics
    /// when it is dropped during an unwind would abort the process.
    chunks: Chunks,
    input_tokens: Option<u32>,
    first_content_ms: Option<u32>,
    /// The responder has delivered all of the content, with this finish reason.
    finished: Option<Option<Arc<str>>>,
    /// Bytes of provider data that the reply may still have.
    provider_room: usize,
}

/// Counts a reply as running until it is dropped.
struct Running<'a> {
    metrics: &'a Metrics,
    started: Instant,
    /// `None` while it runs.
    duration: Option<Duration>,
}

impl<'a> Running<'a> {
    fn start(metrics: &'a Metrics) -> Self {
        metrics.reply_started();
        Self { metrics, started: Instant::now(), duration: None }
    }

    /// Returns the time from the start to the end, which is now.
    fn end(&mut self) -> Duration {
        *self.duration.insert(self.started.elapsed())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.reply_ended(self.duration.unwrap_or_else(|| self.started.elapsed()));
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Turns a panic of the responder into a failed reply.
fn panic_outcome(panic: &Panic) -> ReplyEnding {
    tracing::error!(cause = panic::cause(panic), "the responder panicked");
    ReplyEnding::Finished(Outcome::failed("internal", "The responder failed"))
}

/// Waits until a reply has not been watched for as long as the settings have it.
async fn abandoned(core: &Core, session: &SessionHandle, started: Instant) {
    let Some(limit) = core.settings.abandon_after else { return pending().await };
    loop {
        let wait = match session.unwatched_since() {
            Some(since) => (since.max(started) + limit).saturating_duration_since(Instant::now()),
            None => limit,
        };
        if wait.is_zero() {
            tracing::info!(session = %session.session().id, "reply stopped: no subscriber within --abandon-after");
            return;
        }
        sleep(wait).await;
    }
}

impl<'a> ReplyRun<'a> {
    /// Publishes the reply until it ends. The responder's stream is dropped when this returns,
    /// and with it the upstream request.
    pub(super) async fn produce(
        core: &'a Core,
        session: &'a SessionHandle,
        turn: &'a Turn,
        id: MessageId,
        cancel: &CancelSignal,
    ) -> Produced {
        let running = Running::start(&core.metrics);
        let started = running.started;
        let mut run = Self {
            core,
            session,
            turn,
            id,
            checkpointer: Checkpointer::new(core, session, turn, running.started),
            running,
            chunks: stream::empty().boxed(),
            input_tokens: None,
            first_content_ms: None,
            finished: None,
            provider_room: MAX_REPLY_PROVIDER_DATA,
        };
        let producing = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                reason = cancel.cancelled() => ReplyEnding::Cancelled(reason),
                ending = run.run() => ending,
                () = abandoned(core, session, started) => ReplyEnding::Cancelled(CancelReason::Stop),
            }
        });
        let ending = producing.catch_unwind().await.unwrap_or_else(|panic| panic_outcome(&panic));
        let is_interrupted = matches!(ending, ReplyEnding::Cancelled(CancelReason::Interrupt));
        let ending = match run.finished.take().filter(|_| is_interrupted) {
            // Only the usage is missing.
            Some(finish_reason) => ReplyEnding::Finished(Outcome::complete(finish_reason, None)),
            None => ending,
        };
        run.drop_chunks();
        Produced {
            ending,
            input_tokens: run.input_tokens,
            first_content_ms: run.first_content_ms,
            duration_ms: millis(run.running.end()),
        }
    }

    async fn run(&mut self) -> ReplyEnding {
        let prompt = prompt::build(self.core, self.session, self.turn, self.id);
        let prompt = match caught(prompt).await {
            Ok(prompt) => prompt,
            Err(error) => return self.without_history(&error),
        };
        if self.turn.attempt > 1 {
            // Keeps the content of the earlier attempt until this one produces some, and counts
            // this attempt before it can end the process.
            self.checkpointer.write_now(self.turn.partial.clone()).await;
        }
        let reply = self.core.responder.respond(prompt);
        self.chunks = reply.chunks;
        self.input_tokens = reply.input_tokens;
        self.session.announce_reply(reply.context_trimmed);
        loop {
            let chunk = self.next().await;
            if let Some(ending) = self.take(chunk) {
                return ending;
            }
            // A responder that is always ready must not starve its subscribers.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Returns the next chunk, and writes checkpoints while it waits.
    async fn next(&mut self) -> Option<Chunk> {
        poll_fn(|cx| {
            let chunk = self.chunks.poll_next_unpin(cx);
            match &chunk {
                Poll::Pending => self.checkpointer.poll_idle(cx),
                Poll::Ready(Some(
                    Chunk::Delta(_)
                    | Chunk::Part(_)
                    | Chunk::PartEnd { .. }
                    | Chunk::ContextTrimmed { .. },
                )) => self.checkpointer.poll(cx),
                // The whole reply is committed next.
                Poll::Ready(Some(Chunk::Finished { .. } | Chunk::End(_)) | None) => {}
            }
            chunk
        })
        .await
    }

    fn take(&mut self, chunk: Option<Chunk>) -> Option<ReplyEnding> {
        match chunk {
            Some(Chunk::Delta(piece)) => self.extend(piece),
            Some(Chunk::Part(part)) => self.push(part),
            Some(Chunk::PartEnd { citations, provider_data }) => {
                let provider_data = self.admitted(provider_data);
                let extended = self.session.end_part(citations, provider_data, self.limits());
                self.ending_of(extended)
            }
            Some(Chunk::ContextTrimmed { input_tokens }) => {
                self.input_tokens = input_tokens.or(self.input_tokens);
                self.session.announce_reply(true);
                None
            }
            Some(Chunk::Finished { finish_reason }) => {
                self.finished = Some(finish_reason);
                None
            }
            Some(Chunk::End(mut outcome)) => {
                outcome.provider_data = self.admitted(outcome.provider_data);
                Some(ReplyEnding::Finished(outcome))
            }
            None => {
                let (code, message) = ("responder_truncated", "The reply ended too early");
                Some(ReplyEnding::Finished(Outcome::failed(code, message)))
            }
        }
    }

    fn extend(&mut self, piece: Piece) -> Option<ReplyEnding> {
        self.has_content(piece.text().len());
        let extended = self.session.extend_reply(piece, self.limits());
        self.ending_of(extended)
    }

    fn push(&mut self, part: Part) -> Option<ReplyEnding> {
        let max_file = self.core.settings.messages.content.max_inline_file_size;
        let mut part = match part.checked_of_reply(max_file) {
            Ok(part) => part,
            Err(error) => return Some(self.invalid(&error.to_string())),
        };
        part.provider_data = self.admitted(part.provider_data);
        self.has_content(part.size());
        let extended = self.session.push_part(part, self.limits());
        self.ending_of(extended)
    }

    fn has_content(&mut self, size: usize) {
        if self.first_content_ms.is_none() {
            let elapsed = self.running.started.elapsed();
            self.core.metrics.first_delta(elapsed);
            self.first_content_ms = Some(millis(elapsed));
        }
        self.finished = None;
        self.checkpointer.grew(size);
    }

    fn limits(&self) -> ReplyLimits {
        let settings = &self.core.settings;
        ReplyLimits {
            max_size: settings.max_reply_size,
            max_text_size: settings.max_reply_text_size,
        }
    }

    fn ending_of(&self, extended: Extended) -> Option<ReplyEnding> {
        match extended {
            Extended::Whole => None,
            Extended::TooLong => Some(ReplyEnding::TooLong),
            Extended::Invalid => Some(self.invalid("a tool call is repeated or continued")),
            Extended::NoReply => Some(self.lost_reply()),
        }
    }

    /// Returns provider data within the limits. Larger data is dropped: the conversation can
    /// continue without it.
    fn admitted(&mut self, data: Option<Arc<str>>) -> Option<Arc<str>> {
        let data = data?;
        let fits = data.len() <= MAX_PROVIDER_DATA.min(self.provider_room);
        if !fits || !json::is_object(&data) {
            metrics::counter!("duologue_provider_data_dropped_total").increment(1);
            let (session, reply) = (self.session.session().id, self.id);
            tracing::warn!(%session, %reply, size = data.len(), "provider data dropped: too large, or not a JSON object");
            return None;
        }
        self.provider_room -= data.len();
        Some(data)
    }

    fn invalid(&self, problem: &str) -> ReplyEnding {
        let (session, reply) = (self.session.session().id, self.id);
        tracing::error!(%session, %reply, problem, "the responder produced an invalid part");
        ReplyEnding::Finished(Outcome::failed("upstream_protocol", "The responder failed"))
    }

    /// Content that no subscriber received must not look like a part of the reply.
    fn lost_reply(&self) -> ReplyEnding {
        tracing::error!(session = %self.session.session().id, reply = %self.id, "content arrived for a reply that has ended");
        ReplyEnding::Finished(Outcome::failed("internal", "The reply was lost"))
    }

    /// Drops the responder's stream. A panic in its destructor does not change the outcome.
    fn drop_chunks(&mut self) {
        let chunks = std::mem::replace(&mut self.chunks, stream::empty().boxed());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(chunks))) {
            panic_outcome(&panic);
        }
    }

    fn without_history(&self, error: &Error) -> ReplyEnding {
        tracing::error!(session = %self.session.session().id, %error, cause = ?error, "failed to read the history");
        ReplyEnding::Finished(Outcome::failed("internal", "The history could not be read"))
    }
}
