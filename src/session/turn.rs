//! Runs the turns of a session, one at a time, until none waits.
//!
//! A task exists per session that has turns, not per session. Whatever happens to the
//! responder (it fails, stalls and is stopped, stops short, panics), the turn ends
//! with one terminal message in the log.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};

use super::{
    Chunk, Chunks, Entry, Failure, Message, MessageId, Outcome, Page, Prompt, Result, Status,
    gateway::Gateway,
    live::{Cut, CutSwitch, Published, Turn},
    registry::LiveRef,
};

/// How a reply ended, before it is committed.
enum Ending {
    Finished(Outcome),
    Cut(Cut),
    TooLong,
}

impl Gateway {
    /// Starts a task for the session's turns if there is none.
    pub(super) fn run_turns(&self, live: &LiveRef, published: Published) {
        match published {
            Published::Done => {}
            Published::RunTurns => {
                let (gateway, live) = (self.clone(), live.clone());
                self.tasks().spawn(async move {
                    while let Some((turn, id, cut)) = live.begin_reply() {
                        gateway.answer(&live, turn, id, &cut).await;
                    }
                });
            }
        }
    }

    async fn answer(&self, live: &LiveRef, turn: Turn, id: MessageId, cut: &CutSwitch) {
        let ending = self.produce(live, &turn, cut).await;
        let Some((status, finish_reason, usage)) = terminal(ending) else {
            return;
        };
        tracing::debug!(session = %live.session().id, reply = %id, status = status.as_str(), "reply ended");
        if let Status::Failed(failure) = &status {
            tracing::warn!(session = %live.session().id, reply = %id, code = %failure.code, "reply failed");
        }
        let entry = Entry::Reply {
            id,
            text: live.reply_text(),
            in_reply_to: turn.message.id,
            status,
            finish_reason,
            usage,
        };
        match self.store().append(live.session().id, entry, self.terms()).await {
            Ok(appended) => self.run_turns(live, live.publish(appended.message)),
            Err(error) => self.abandon(live, error),
        }
    }

    /// Feeds the reply to those who watch until it ends, however it does. The
    /// responder's stream is gone when this returns, and its upstream with it.
    async fn produce(&self, live: &LiveRef, turn: &Turn, cut: &CutSwitch) -> Ending {
        let reply = async {
            let prompt = match self.prompt(live, turn).await {
                Ok(prompt) => prompt,
                Err(error) => {
                    tracing::error!(session = %live.session().id, %error, cause = ?error, "history could not be read");
                    return Ending::Finished(failed("internal", "The history could not be read"));
                }
            };
            let mut chunks = self.chunks(prompt);
            loop {
                match chunks.next().await {
                    Some(Chunk::Delta(text)) if text.is_empty() => {}
                    Some(Chunk::Delta(text)) => {
                        if live.extend_reply(text) > self.settings().max_reply_size {
                            return Ending::TooLong;
                        }
                        // A responder that is always ready must let those read who
                        // watch it.
                        tokio::task::coop::consume_budget().await;
                    }
                    Some(Chunk::End(outcome)) => return Ending::Finished(outcome),
                    None => {
                        let failure = failed("responder_truncated", "The reply ended too early");
                        return Ending::Finished(failure);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            why = cut.thrown() => Ending::Cut(why),
            ending = reply => ending,
        }
    }

    /// The responder's stream; its panic is a failed reply, not the end of the task.
    fn chunks(&self, prompt: Prompt) -> Chunks {
        let crashed = |cause: Box<dyn Any + Send>| {
            let cause = cause.downcast_ref::<&str>().copied().unwrap_or("unknown");
            tracing::error!(cause, "the responder panicked");
            Chunk::End(failed("internal", "The responder failed"))
        };
        match catch_unwind(AssertUnwindSafe(|| self.responder().respond(prompt))) {
            Ok(chunks) => AssertUnwindSafe(chunks)
                .catch_unwind()
                .map(move |chunk| chunk.unwrap_or_else(crashed))
                .boxed(),
            Err(cause) => stream::iter([crashed(cause)]).boxed(),
        }
    }

    async fn prompt(&self, live: &LiveRef, turn: &Turn) -> Result<Prompt> {
        let session = live.session();
        Ok(Prompt {
            session: session.id,
            name: session.name.clone(),
            history: self.history(live, &turn.message).await?,
            message: Arc::clone(&turn.message),
        })
    }

    async fn history(&self, live: &LiveRef, message: &Message) -> Result<Vec<Arc<Message>>> {
        let wanted = self.responder().history();
        if wanted == 0 || message.seq == 1 {
            return Ok(Vec::new());
        }
        let settings = self.settings();
        let page = Page {
            after: None,
            until: message.seq - 1,
            limit: wanted.min(settings.max_page_messages),
            max_size: settings.max_page_size,
        };
        let now = self.clock().now();
        Ok(self.store().read(live.session().id, now, page).await?.messages)
    }

    /// The log took no terminal message: those who watch must come back to a log that
    /// tells the truth, rather than wait.
    fn abandon(&self, live: &LiveRef, error: super::Error) {
        let kind = error.kind();
        tracing::error!(session = %live.session().id, %error, cause = ?error, "a reply could not be committed");
        live.end(kind);
    }
}

type Terminal = (Status, Option<Arc<str>>, Option<super::Usage>);

/// What the terminal message says; `None` if there is no log left to say it in.
fn terminal(ending: Ending) -> Option<Terminal> {
    Some(match ending {
        Ending::Finished(Outcome { failure, finish_reason, usage }) => {
            (failure.map_or(Status::Complete, Status::Failed), finish_reason, usage)
        }
        Ending::Cut(Cut::Stop) => (Status::Stopped, None, None),
        Ending::Cut(Cut::Interrupt) => (Status::Interrupted, None, None),
        Ending::Cut(Cut::Ended) => return None,
        Ending::TooLong => (Status::Interrupted, Some("max_reply_size".into()), None),
    })
}

fn failed(code: &str, message: &str) -> Outcome {
    let failure = Failure { code: code.into(), message: message.into() };
    Outcome { failure: Some(failure), finish_reason: None, usage: None }
}
