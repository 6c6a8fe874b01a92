//! Runs the responder for one turn and publishes what it produces.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    cancel::{CancelReason, CancelSignal},
    checkpointer::Checkpointer,
    prompt,
};
use crate::session::{
    core::Core,
    live::{Extended, Turn, registry::SessionHandle},
    metrics::Metrics,
    model::{Error, MessageId},
    panic::{self, Panic, caught},
    ports::{Chunk, Chunks, Outcome},
};

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
    has_content: bool,
    /// The responder has delivered all of the text, with this finish reason.
    finished: Option<Option<Arc<str>>>,
}

/// Counts a reply as running until it is dropped.
struct Running<'a> {
    metrics: &'a Metrics,
    started: Instant,
}

impl<'a> Running<'a> {
    fn start(metrics: &'a Metrics) -> Self {
        metrics.reply_started();
        Self { metrics, started: Instant::now() }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.reply_ended(self.started.elapsed());
    }
}

/// Turns a panic of the responder into a failed reply.
fn panic_outcome(panic: &Panic) -> ReplyEnding {
    tracing::error!(cause = panic::cause(panic), "the responder panicked");
    ReplyEnding::Finished(Outcome::failed("internal", "The responder failed"))
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
        let mut run = Self {
            core,
            session,
            turn,
            id,
            running: Running::start(&core.metrics),
            checkpointer: Checkpointer::new(core, session, turn),
            chunks: stream::empty().boxed(),
            input_tokens: None,
            has_content: false,
            finished: None,
        };
        let producing = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                reason = cancel.cancelled() => ReplyEnding::Cancelled(reason),
                ending = run.run() => ending,
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
        Produced { ending, input_tokens: run.input_tokens }
    }

    async fn run(&mut self) -> ReplyEnding {
        let prompt = prompt::build(self.core, self.session, self.turn, self.id);
        let prompt = match caught(prompt).await {
            Ok(prompt) => prompt,
            Err(error) => return self.without_history(&error),
        };
        if self.turn.attempt > 1 {
            // Keeps the partial text of the earlier attempt until this one produces text, and
            // counts this attempt before it can end the process.
            self.checkpointer.write_now(Arc::clone(&self.turn.partial)).await;
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
                Poll::Ready(Some(Chunk::Delta(_) | Chunk::ContextTrimmed { .. })) => {
                    self.checkpointer.poll(cx);
                }
                // The whole reply is committed next.
                Poll::Ready(Some(Chunk::Finished { .. } | Chunk::End(_)) | None) => {}
            }
            chunk
        })
        .await
    }

    fn take(&mut self, chunk: Option<Chunk>) -> Option<ReplyEnding> {
        match chunk {
            Some(Chunk::Delta(text)) => self.extend(text),
            Some(Chunk::ContextTrimmed { input_tokens }) => {
                self.input_tokens = Some(input_tokens);
                self.session.announce_reply(true);
                None
            }
            Some(Chunk::Finished { finish_reason }) => {
                self.finished = Some(finish_reason);
                None
            }
            Some(Chunk::End(outcome)) => Some(ReplyEnding::Finished(outcome)),
            None => {
                let (code, message) = ("responder_truncated", "The reply ended too early");
                Some(ReplyEnding::Finished(Outcome::failed(code, message)))
            }
        }
    }

    fn extend(&mut self, text: String) -> Option<ReplyEnding> {
        if !std::mem::replace(&mut self.has_content, true) {
            self.core.metrics.first_delta(self.running.started.elapsed());
        }
        self.finished = None;
        self.checkpointer.grew(text.len());
        match self.session.extend_reply(text, self.core.settings.max_reply_size) {
            Extended::Whole => None,
            Extended::TooLong => Some(ReplyEnding::TooLong),
            Extended::NoReply => Some(self.lost_reply()),
        }
    }

    /// Text that no subscriber received must not look like a part of the reply.
    fn lost_reply(&self) -> ReplyEnding {
        tracing::error!(session = %self.session.session().id, reply = %self.id, "text arrived for a reply that has ended");
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
