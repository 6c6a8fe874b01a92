//! Runs the turns of a session, one at a time, until none waits.
//!
//! A task exists per session whose turns have to wait for something, not per session.
//! Whatever happens to the responder (it fails, stalls and is stopped, stops short,
//! panics), the turn ends with one terminal message in the log.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Checkpoint, Chunk, Entry, ErrorKind, History, Message, MessageId, Outcome, Page, Prompt, Reply,
    Result, Status, Usage, estimate_tokens,
    gateway::{Gateway, start},
    live::{Cut, CutSwitch, Published, Turn},
    metrics::Metrics,
    registry::LiveRef,
};

/// How often a turn is tried. What dies with its process twice may be what kills it.
pub const MAX_ATTEMPTS: u32 = 2;

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

impl Notes {
    fn start(turn: &Turn, now: Instant) -> Self {
        let due = now + NOTE_INTERVAL;
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

/// A reply that ended, and what the prompt it was made from weighs.
struct Produced {
    ending: Ending,
    input_tokens: Option<u32>,
}

impl Gateway {
    /// Runs the session's turns if nobody does: here as far as nothing has to be waited
    /// for, then in a task.
    pub(super) fn run_turns(&self, live: &LiveRef, published: Published) {
        match published {
            Published::Done => {}
            Published::RunTurns => {
                let (gateway, live, working) = (self.clone(), live.clone(), self.tasks().token());
                // Ready at once, or to be polled again by the task: nobody needs waking.
                let _task = start(async move {
                    let _working = working;
                    while let Some((turn, id, cut)) = live.begin_reply() {
                        gateway.answer(&live, turn, id, &cut).await;
                    }
                });
            }
        }
    }

    async fn answer(&self, live: &LiveRef, turn: Turn, id: MessageId, cut: &CutSwitch) {
        if turn.attempt > MAX_ATTEMPTS {
            return self.give_up(live, turn, id).await;
        }
        let Produced { ending, input_tokens } = self.produce(live, &turn, id, cut).await;
        // A stop that came in the last moment has been promised.
        let ending = match live.end_reply() {
            Some(cut @ (Cut::Stop | Cut::Ended)) => Ending::Cut(cut),
            Some(Cut::Interrupt) | None => ending,
        };
        let Some((status, finish_reason, usage)) = terminal(ending) else {
            return;
        };
        live.announce_reply(false);
        let text = live.reply_text();
        let usage = usage.or_else(|| {
            let output_tokens = estimate_tokens(&text);
            input_tokens.map(|input_tokens| Usage { input_tokens, output_tokens, estimated: true })
        });
        tracing::debug!(session = %live.session().id, reply = %id, status = status.as_str(), "reply ended");
        if let Status::Failed(failure) = &status {
            tracing::warn!(session = %live.session().id, reply = %id, code = %failure.code, "reply failed");
        }
        let entry =
            Entry::Reply { id, text, in_reply_to: turn.message.id, status, finish_reason, usage };
        self.commit_reply(live, entry).await;
    }

    /// Commits a terminal message and publishes it. A store that has no room may have
    /// some later; until then the turn waits, rather than lose what was said. One that
    /// fails otherwise is asked again, too, ever more seldom: the entry is appended once,
    /// however often it is tried. Only the end of the session, or of the process, ends it.
    async fn commit_reply(&self, live: &LiveRef, entry: Entry) {
        const RETRY: Duration = Duration::from_secs(1);
        const RARE_RETRY: Duration = Duration::from_secs(30);
        let mut wait = RETRY;
        loop {
            let id = live.session().id;
            match self.store().append(id, entry.clone(), self.terms()).await {
                Ok(appended) => {
                    self.core.metrics.reply(&appended.message.role);
                    self.run_turns(live, live.publish(appended.message));
                    // A message committed just before may still be on its way here. The next
                    // reply must not begin before this one is told.
                    if live.lacks_messages() {
                        self.catch_up(live).await;
                    }
                    return;
                }
                Err(error) if error.kind() == ErrorKind::StoreFull => wait = RETRY,
                Err(error) if error.kind() == ErrorKind::Internal => {
                    tracing::warn!(session = %id, cause = ?error, "a reply is committed again");
                }
                Err(error) => return self.abandon(live, error),
            }
            sleep(wait).await;
            wait = RARE_RETRY.min(2 * wait);
        }
    }

    /// Commits a turn as interrupted: it died twice with its process.
    async fn give_up(&self, live: &LiveRef, turn: Turn, id: MessageId) {
        tracing::warn!(session = %live.session().id, "a turn that was tried twice is given up");
        // What it read died with it; the message it surely did.
        let usage = Usage {
            input_tokens: estimate_tokens(&turn.message.text),
            output_tokens: estimate_tokens(&turn.kept),
            estimated: true,
        };
        let entry = Entry::Reply {
            id,
            text: turn.kept,
            in_reply_to: turn.message.id,
            status: Status::Interrupted,
            finish_reason: None,
            usage: Some(usage),
        };
        self.commit_reply(live, entry).await;
    }

    /// Feeds the reply to those who watch until it ends, however it does. The
    /// responder's stream is gone when this returns, and its upstream with it.
    async fn produce(
        &self,
        live: &LiveRef,
        turn: &Turn,
        id: MessageId,
        cut: &CutSwitch,
    ) -> Produced {
        let running = Running::start(&self.core.metrics);
        let mut input = None;
        let input_tokens = &mut input;
        let reply = async {
            let prompt = match self.prompt(live, turn, id).await {
                Ok(prompt) => prompt,
                Err(error) => {
                    tracing::error!(session = %live.session().id, %error, cause = ?error, "history could not be read");
                    let failure = Outcome::failed("internal", "The history could not be read");
                    return Ending::Finished(failure);
                }
            };
            let mut notes = Notes::start(turn, running.started);
            if turn.attempt > 1 {
                // What was seen of the attempt before is kept until this one says something.
                self.note(live, &notes, Arc::clone(&turn.kept)).await;
            }
            let reply = self.respond(prompt);
            *input_tokens = reply.input_tokens;
            live.announce_reply(reply.context_trimmed);
            let mut chunks = reply.chunks;
            loop {
                let chunk = tokio::select! {
                    biased;
                    chunk = chunks.next() => chunk,
                    () = sleep_until(notes.due), if notes.behind > 0 => {
                        self.note(live, &notes, live.reply_text()).await;
                        notes.taken();
                        continue;
                    }
                };
                match chunk {
                    Some(Chunk::Delta(text)) => {
                        if notes.taken + notes.behind == 0 {
                            self.core.metrics.first_delta(running.started.elapsed());
                        }
                        notes.behind += text.len();
                        if !live.extend_reply(text, self.settings().max_reply_size) {
                            return Ending::TooLong;
                        }
                        // A responder that is always ready must let those read who
                        // watch it.
                        tokio::task::coop::consume_budget().await;
                        if notes.are_due() {
                            self.note(live, &notes, live.reply_text()).await;
                            notes.taken();
                        }
                    }
                    Some(Chunk::ContextTrimmed { input_tokens: trimmed }) => {
                        *input_tokens = Some(trimmed);
                        live.announce_reply(true);
                    }
                    Some(Chunk::End(outcome)) => return Ending::Finished(outcome),
                    None => {
                        let (code, message) = ("responder_truncated", "The reply ended too early");
                        return Ending::Finished(Outcome::failed(code, message));
                    }
                }
            }
        };
        let ending = tokio::select! {
            biased;
            why = cut.thrown() => Ending::Cut(why),
            ending = reply => ending,
        };
        Produced { ending, input_tokens: input }
    }

    /// Keeps what a reply has produced, for the next process. Failing at it is no reason
    /// to end the reply.
    async fn note(&self, live: &LiveRef, notes: &Notes, text: Arc<str>) {
        let at = Checkpoint { seq: notes.seq, attempt: notes.attempt, text };
        let noted = self.store().checkpoint(live.session().id, self.clock().now(), at).await;
        if let Err(error) = noted {
            tracing::warn!(session = %live.session().id, %error, "a reply's progress was not noted");
        }
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

    async fn prompt(&self, live: &LiveRef, turn: &Turn, reply: MessageId) -> Result<Prompt> {
        let session = live.session();
        Ok(Prompt {
            session: session.id,
            name: session.name.clone(),
            reply,
            attempt: turn.attempt,
            history: self.history(live, &turn.message).await?,
            message: Arc::clone(&turn.message),
        })
    }

    async fn history(&self, live: &LiveRef, message: &Message) -> Result<Vec<Arc<Message>>> {
        let History { messages, size } = self.responder().history();
        if messages == 0 || message.seq == 1 {
            return Ok(Vec::new());
        }
        // Messages that wait behind this one stand before the replies to those ahead of
        // it: the page has to reach over them.
        let settings = self.settings();
        let waiting = settings.max_queued_turns;
        let page = Page {
            after: None,
            until: u32::MAX,
            limit: messages.saturating_add(waiting),
            max_size: size.saturating_add(waiting as usize * settings.max_message_size),
        };
        let now = self.clock().now();
        let mut log = self.store().read(live.session().id, now, page).await?.messages;
        log.retain(|other| other.seq < message.seq || other.in_reply_to().is_some());
        let mut left = size;
        let fits = log.iter().rev().take(messages as usize).take_while(|other| {
            let room = left.checked_sub(other.text.len());
            left = room.unwrap_or(0);
            room.is_some()
        });
        let fits = fits.count();
        Ok(log.split_off(log.len() - fits))
    }

    /// The log took no terminal message: those who watch must come back to a log that
    /// tells the truth, rather than wait.
    fn abandon(&self, live: &LiveRef, error: super::Error) {
        let kind = error.kind();
        tracing::error!(session = %live.session().id, %error, cause = ?error, "a reply could not be committed");
        live.end(kind);
    }
}

type Terminal = (Status, Option<Arc<str>>, Option<Usage>);

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
