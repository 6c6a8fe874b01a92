//! Runs the turns of a session, one at a time, until none waits.
//!
//! A task exists per session that has turns, not per session. Whatever happens to the
//! responder (it fails, stalls and is stopped, stops short, panics), the turn ends
//! with one terminal message in the log.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Appended, Checkpoint, Chunk, Chunks, Entry, ErrorKind, Failure, Message, MessageId, Outcome,
    Page, Prompt, Result, Status, Unfinished,
    gateway::Gateway,
    live::{Cut, CutSwitch, Published, Turn},
    registry::LiveRef,
};

/// Progress of a reply is kept when it is this much further, in bytes …
const NOTE_SIZE: usize = 4096;

/// … or, if there is any, this long after the last time.
const NOTE_INTERVAL: Duration = Duration::from_secs(2);

/// How far the kept progress of a reply is behind.
struct Notes {
    seq: u32,
    attempt: u32,
    /// Bytes that were noted …
    taken: usize,
    /// … and that came since.
    behind: usize,
    due: Instant,
}

impl Notes {
    fn start(turn: &Turn) -> Self {
        let due = Instant::now() + NOTE_INTERVAL;
        Self { seq: turn.message.seq, attempt: turn.attempt, taken: 0, behind: 0, due }
    }

    /// The more there is, the more must be new: each time the whole text is written.
    fn are_due(&self) -> bool {
        self.behind >= NOTE_SIZE.max(self.taken / 4)
    }

    fn taken(&mut self) {
        self.taken += self.behind;
        self.behind = 0;
        self.due = Instant::now() + NOTE_INTERVAL;
    }
}

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
        match self.commit_reply(live, entry).await {
            Ok(appended) => self.run_turns(live, live.publish(appended.message)),
            Err(error) => self.abandon(live, error),
        }
    }

    /// Commits a terminal message. A store that has no room may have some later; until
    /// then the turn waits, rather than lose what was said. One that fails otherwise is
    /// asked again, too: the entry is appended once, however often it is tried.
    async fn commit_reply(&self, live: &LiveRef, entry: Entry) -> Result<Appended> {
        const RETRY: Duration = Duration::from_secs(1);
        const MAX_FAILURES: u32 = 60;
        let mut failures = 0;
        loop {
            match self.store().append(live.session().id, entry.clone(), self.terms()).await {
                Err(error) if error.kind() == ErrorKind::StoreFull => {}
                Err(error) if error.kind() == ErrorKind::Internal && failures < MAX_FAILURES => {
                    tracing::warn!(session = %live.session().id, cause = ?error, "a reply is committed again");
                    failures += 1;
                }
                decided => return decided,
            }
            sleep(RETRY).await;
        }
    }

    /// Commits a turn as interrupted: it died twice with its process.
    pub(super) async fn give_up(&self, live: &LiveRef, turn: Unfinished) -> Result<()> {
        let entry = Entry::Reply {
            id: MessageId::generate(),
            text: turn.text.into(),
            in_reply_to: turn.message.id,
            status: Status::Interrupted,
            finish_reason: None,
            usage: None,
        };
        let appended = self.store().append(live.session().id, entry, self.terms()).await?;
        self.run_turns(live, live.publish(appended.message));
        Ok(())
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
            let mut notes = Notes::start(turn);
            if turn.attempt > 1 {
                self.note(live, &notes).await;
            }
            let mut chunks = self.chunks(prompt);
            loop {
                let chunk = tokio::select! {
                    chunk = chunks.next() => chunk,
                    () = sleep_until(notes.due), if notes.behind > 0 => {
                        self.note(live, &notes).await;
                        notes.taken();
                        continue;
                    }
                };
                match chunk {
                    Some(Chunk::Delta(text)) => {
                        notes.behind += text.len();
                        if !live.extend_reply(text, self.settings().max_reply_size) {
                            return Ending::TooLong;
                        }
                        // A responder that is always ready must let those read who
                        // watch it.
                        tokio::task::coop::consume_budget().await;
                        if notes.are_due() {
                            self.note(live, &notes).await;
                            notes.taken();
                        }
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

    /// Keeps what a reply has produced, for the next process. Failing at it is no reason
    /// to end the reply.
    async fn note(&self, live: &LiveRef, notes: &Notes) {
        let at = Checkpoint { seq: notes.seq, attempt: notes.attempt, text: live.reply_text() };
        let noted = self.store().checkpoint(live.session().id, self.clock().now(), at).await;
        if let Err(error) = noted {
            tracing::warn!(session = %live.session().id, %error, "a reply's progress was not noted");
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
