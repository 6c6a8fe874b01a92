//! Produces one reply: asks the responder, and feeds what it says to those who watch.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    Chunk, Chunks, Error, MessageId, Outcome, Prompt, Reply,
    checkpointer::Checkpointer,
    gateway::Gateway,
    live::{Cut, CutSwitch, Extended, Turn},
    metrics::Metrics,
    registry::LiveRef,
};

/// How a reply ended, before it is committed.
pub(super) enum Ending {
    Finished(Outcome),
    Cut(Cut),
    TooLong,
}

/// A reply that ended, and what the prompt it was made from weighs.
pub(super) struct Produced {
    pub(super) ending: Ending,
    pub(super) input_tokens: Option<u32>,
}

/// One reply in progress.
struct Production<'a> {
    gateway: &'a Gateway,
    live: &'a LiveRef,
    turn: &'a Turn,
    id: MessageId,
    running: Running<'a>,
    checkpointer: Checkpointer<'a>,
    input_tokens: Option<u32>,
    spoke: bool,
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
        live: &LiveRef,
        turn: &Turn,
        id: MessageId,
        cut: &CutSwitch,
    ) -> Produced {
        let mut production = Production {
            gateway: self,
            live,
            turn,
            id,
            running: Running::start(&self.core.metrics),
            checkpointer: Checkpointer::new(self, live, turn),
            input_tokens: None,
            spoke: false,
        };
        let ending = tokio::select! {
            biased;
            why = cut.thrown() => Ending::Cut(why),
            ending = production.run() => ending,
        };
        Produced { ending, input_tokens: production.input_tokens }
    }

    /// The responder's reply; its panic is a failed reply, not the end of the task.
    fn respond(&self, prompt: Prompt) -> Reply {
        let crashed = |cause: Box<dyn Any + Send>| {
            // A message that was put together may hold what a text held: that of a slice
            // out of bounds quotes it. The hook has logged the place.
            let cause = cause.downcast_ref::<&str>().copied().unwrap_or("not shown");
            tracing::error!(cause, "the responder panicked");
            Chunk::End(Outcome::failed("internal", "The responder failed"))
        };
        match catch_unwind(AssertUnwindSafe(|| self.responder().respond(prompt))) {
            Ok(reply) => {
                let chunks = AssertUnwindSafe(reply.chunks).catch_unwind();
                let chunks = chunks.map(move |chunk| chunk.unwrap_or_else(crashed)).boxed();
                Reply { chunks, ..reply }
            }
            Err(cause) => {
                let chunks = stream::iter([crashed(cause)]).boxed();
                Reply { chunks, context_trimmed: false, input_tokens: None }
            }
        }
    }
}

impl Production<'_> {
    async fn run(&mut self) -> Ending {
        let prompt = match self.gateway.prompt(self.live, self.turn, self.id).await {
            Ok(prompt) => prompt,
            Err(error) => return self.without_history(&error),
        };
        if self.turn.attempt > 1 {
            // What was seen of the attempt before is kept until this one says something.
            // And this attempt is counted before it can kill the process.
            self.checkpointer.keep(Arc::clone(&self.turn.kept)).await;
        }
        let Reply { mut chunks, context_trimmed, input_tokens } = self.gateway.respond(prompt);
        self.input_tokens = input_tokens;
        self.live.announce_reply(context_trimmed);
        loop {
            let chunk = self.next(&mut chunks).await;
            if let Some(ending) = self.take(chunk) {
                return ending;
            }
            // A responder that is always ready must let those read who watch it.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// The next piece. Meanwhile, what there is already is kept.
    async fn next(&mut self, chunks: &mut Chunks) -> Option<Chunk> {
        poll_fn(|cx| {
            let chunk = chunks.poll_next_unpin(cx);
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
                self.live.announce_reply(true);
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
        if !std::mem::replace(&mut self.spoke, true) {
            self.gateway.core.metrics.first_delta(self.running.started.elapsed());
        }
        self.checkpointer.grew(text.len());
        match self.live.extend_reply(text, self.gateway.settings().max_reply_size) {
            Extended::Whole => None,
            Extended::TooLong => Some(Ending::TooLong),
            Extended::NoReply => Some(self.nowhere()),
        }
    }

    /// A piece that nobody is told must not look like one that was said.
    fn nowhere(&self) -> Ending {
        tracing::error!(session = %self.live.session().id, reply = %self.id, "a reply goes on that has ended");
        Ending::Finished(Outcome::failed("internal", "The reply was lost"))
    }

    fn without_history(&self, error: &Error) -> Ending {
        tracing::error!(session = %self.live.session().id, %error, cause = ?error, "history could not be read");
        Ending::Finished(Outcome::failed("internal", "The history could not be read"))
    }
}
