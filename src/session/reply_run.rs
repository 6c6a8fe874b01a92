//! Produces one reply: asks the responder, and feeds what it says to those who watch.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    Chunk, Chunks, Error, MessageId, Outcome,
    active_session::{CancelReason, CancelSignal, Extended, Turn},
    checkpointer::Checkpointer,
    gateway::Gateway,
    metrics::Metrics,
    panic::{self, Panic, caught},
    registry::SessionHandle,
};

/// How a reply ended, before it is committed.
pub(super) enum Ending {
    Finished(Outcome),
    CancelReason(CancelReason),
    TooLong,
}

/// A reply that ended, and what the prompt it was made from weighs.
pub(super) struct Produced {
    pub(super) ending: Ending,
    pub(super) input_tokens: Option<u32>,
}

/// One reply in progress.
struct ReplyRun<'a> {
    gateway: &'a Gateway,
    handle: &'a SessionHandle,
    turn: &'a Turn,
    id: MessageId,
    running: Running<'a>,
    checkpointer: Checkpointer<'a>,
    /// Empty until the responder is asked. It outlives what is caught: a stream that
    /// panicked and is dropped while the panic unwinds might panic again, which is the end
    /// of the process.
    chunks: Chunks,
    input_tokens: Option<u32>,
    has_content: bool,
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

impl Gateway {
    /// Feeds the reply to those who watch until it ends, however it does. The
    /// responder's stream is gone when this returns, and its upstream with it.
    pub(super) async fn produce(
        &self,
        handle: &SessionHandle,
        turn: &Turn,
        id: MessageId,
        cut: &CancelSignal,
    ) -> Produced {
        let mut run = ReplyRun {
            gateway: self,
            handle,
            turn,
            id,
            running: Running::start(&self.core.metrics),
            checkpointer: Checkpointer::new(self, handle, turn),
            chunks: stream::empty().boxed(),
            input_tokens: None,
            has_content: false,
        };
        let producing = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                why = cut.cancelled() => Ending::CancelReason(why),
                ending = run.run() => ending,
            }
        });
        let ending = producing.catch_unwind().await.unwrap_or_else(|panic| panic_outcome(&panic));
        run.drop_chunks();
        Produced { ending, input_tokens: run.input_tokens }
    }
}

/// The responder's panic is a failed reply, not the end of the task.
fn panic_outcome(panic: &Panic) -> Ending {
    tracing::error!(cause = panic::cause(panic), "the responder panicked");
    Ending::Finished(Outcome::failed("internal", "The responder failed"))
}

impl ReplyRun<'_> {
    async fn run(&mut self) -> Ending {
        let prompt = self.gateway.prompt(self.handle, self.turn, self.id);
        let prompt = match caught(prompt).await {
            Ok(prompt) => prompt,
            Err(error) => return self.without_history(&error),
        };
        if self.turn.attempt > 1 {
            // What was seen of the attempt before is kept until this one says something.
            // And this attempt is counted before it can kill the process.
            self.checkpointer.keep(Arc::clone(&self.turn.partial)).await;
        }
        let reply = self.gateway.responder().respond(prompt);
        self.chunks = reply.chunks;
        self.input_tokens = reply.input_tokens;
        self.handle.announce_reply(reply.context_trimmed);
        loop {
            let chunk = self.next().await;
            if let Some(ending) = self.take(chunk) {
                return ending;
            }
            // A responder that is always ready must let those read who watch it.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// The next piece. Meanwhile, what there is already is kept.
    async fn next(&mut self) -> Option<Chunk> {
        poll_fn(|cx| {
            let chunk = self.chunks.poll_next_unpin(cx);
            match &chunk {
                Poll::Pending => self.checkpointer.poll_idle(cx),
                Poll::Ready(Some(Chunk::Delta(_) | Chunk::ContextTrimmed { .. })) => {
                    self.checkpointer.poll(cx);
                }
                // The whole reply is kept next.
                Poll::Ready(Some(Chunk::End(_)) | None) => {}
            }
            chunk
        })
        .await
    }

    fn take(&mut self, chunk: Option<Chunk>) -> Option<Ending> {
        match chunk {
            Some(Chunk::Delta(text)) => self.extend(text),
            Some(Chunk::ContextTrimmed { input_tokens }) => {
                self.input_tokens = Some(input_tokens);
                self.handle.announce_reply(true);
                None
            }
            Some(Chunk::End(outcome)) => Some(Ending::Finished(outcome)),
            None => {
                let (code, message) = ("responder_truncated", "The reply ended too early");
                Some(Ending::Finished(Outcome::failed(code, message)))
            }
        }
    }

    fn extend(&mut self, text: String) -> Option<Ending> {
        if !std::mem::replace(&mut self.has_content, true) {
            self.gateway.core.metrics.first_delta(self.running.started.elapsed());
        }
        self.checkpointer.grew(text.len());
        match self.handle.extend_reply(text, self.gateway.settings().max_reply_size) {
            Extended::Whole => None,
            Extended::TooLong => Some(Ending::TooLong),
            Extended::NoReply => Some(self.lost_reply()),
        }
    }

    /// A piece that nobody is told must not look like one that was said.
    fn lost_reply(&self) -> Ending {
        tracing::error!(session = %self.handle.session().id, reply = %self.id, "a reply goes on that has ended");
        Ending::Finished(Outcome::failed("internal", "The reply was lost"))
    }

    /// Drops the responder's stream. One that panics at it has said what it had to say.
    fn drop_chunks(&mut self) {
        let chunks = std::mem::replace(&mut self.chunks, stream::empty().boxed());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(chunks))) {
            panic_outcome(&panic);
        }
    }

    fn without_history(&self, error: &Error) -> Ending {
        tracing::error!(session = %self.handle.session().id, %error, cause = ?error, "history could not be read");
        Ending::Finished(Outcome::failed("internal", "The history could not be read"))
    }
}
