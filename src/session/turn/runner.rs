//! Runs the turns of a session, one at a time, until none is queued.
//!
//! A task exists only for sessions whose turns must wait for something. Each turn ends with
//! one terminal message in the log, whatever the responder does: fail, stall, end early or
//! panic.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::{
    cancel::{CancelReason, CancelSignal},
    enter::enter_again,
    reply_run::{Produced, ReplyEnding, ReplyRun},
};
use crate::session::{
    core::Core,
    eager_task::spawn_eager,
    live::{Published, Turn, Work, registry::SessionHandle},
    model::{
        Content, Error, ErrorKind, Message, MessageId, Metadata, ReplyFields, Result, Status,
        Usage, estimate_tokens,
    },
    panic::caught,
    ports::{Answered, Lease, NewReply, Outcome, Page},
};

/// Attempts of a turn. A turn whose process died twice may be the cause of it.
pub const MAX_ATTEMPTS: u32 = 2;

/// Growing waits between attempts of an operation that must succeed in the end.
struct RetryDelay {
    next: Duration,
}

impl RetryDelay {
    const LONGEST: Duration = Duration::from_secs(30);

    const fn new() -> Self {
        Self { next: Duration::from_secs(1) }
    }

    async fn wait(&mut self) {
        sleep(self.next).await;
        self.next = Self::LONGEST.min(2 * self.next);
    }
}

/// Runs the turns of one session.
pub(in crate::session) struct TurnRunner {
    core: Arc<Core>,
    session: SessionHandle,
}

impl TurnRunner {
    /// Starts a runner if `published` asks for one. It runs in place until it has to wait,
    /// then in a task.
    pub(in crate::session) fn start(
        core: &Arc<Core>,
        session: &SessionHandle,
        published: Published,
    ) {
        match published {
            Published::Done => {}
            Published::RunTurns => {
                let runner = Self { core: Arc::clone(core), session: session.clone() };
                let token = core.tasks.token();
                let _task = spawn_eager(async move {
                    let _token = token;
                    runner.run().await;
                });
            }
        }
    }

    /// Publishes what the log holds and this process has not published: an append whose answer
    /// was lost leaves a gap that everything behind it waits for. Returns false if nothing was
    /// missing.
    pub(in crate::session) async fn catch_up(
        core: &Arc<Core>,
        session: &SessionHandle,
    ) -> Result<bool> {
        let page = Page {
            after: Some(session.head_seq()),
            until: u32::MAX,
            limit: core.settings.max_page_messages,
            max_size: core.settings.max_page_size,
        };
        let announced = session.announced_seq();
        let snapshot = core.store.read(session.session().id, core.clock.now(), page).await?;
        let found = !snapshot.messages.is_empty();
        for message in snapshot.messages {
            Self::start(core, session, session.publish(message));
        }
        if !snapshot.has_more {
            session.forget_announced(announced);
        }
        core.ask_owner(session);
        Ok(found)
    }

    async fn run(&self) {
        loop {
            match self.session.next_work() {
                Work::CatchUp => self.catch_up_with_retries().await,
                Work::Turn(turn, id, cancel) => {
                    let answer = self.answer(turn, id, &cancel).map(Ok);
                    // Panics are caught where the turn can still be answered. If another one
                    // gets here, subscribers get an error instead of waiting forever.
                    if let Err(error) = caught(answer).await {
                        self.abandon(error);
                    }
                }
                Work::HandOver(lease) => self.hand_over(lease).await,
                Work::Nothing => return,
            }
        }
    }

    /// Hands the waiting turns over to another process. Runs them here if none takes them.
    async fn hand_over(&self, lease: Lease) {
        let id = self.session.session().id;
        let handed_over = match self.core.living_peer() {
            Some(to) => self.core.turns.hand_over(id, lease, to, self.core.clock.now()).await,
            None => Ok(false),
        };
        match handed_over {
            Ok(true) => self.session.lose_lease(lease),
            Ok(false) => self.session.keep_turns(),
            Err(error) => {
                tracing::warn!(session = %id, %error, "failed to hand turns over to another process");
                self.session.keep_turns();
            }
        }
    }

    /// Reads the log until this process has published all of it, however often the read fails.
    /// The next reply must not begin before the one before it is published.
    async fn catch_up_with_retries(&self) {
        let mut delay = RetryDelay::new();
        while self.session.has_gap() {
            match caught(Self::catch_up(&self.core, &self.session)).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::SessionExpired => {
                    return self.core.end_gone(&self.session);
                }
                Err(error) => {
                    tracing::warn!(session = %self.session.session().id, %error, cause = ?error, "failed to read the log; retrying");
                }
            }
            delay.wait().await;
        }
    }

    async fn answer(&self, turn: Turn, id: MessageId, cancel: &CancelSignal) {
        let lease = turn.lease;
        let reply = if turn.attempt > MAX_ATTEMPTS {
            self.given_up(turn, id)
        } else {
            let produced = ReplyRun::produce(&self.core, &self.session, &turn, id, cancel).await;
            self.terminal_reply(&turn.message, id, produced)
        };
        if let Some(reply) = reply {
            self.commit_reply(lease, reply).await;
        }
    }

    /// Returns the terminal message of a reply that ended. `None` if the session has no log any
    /// more.
    fn terminal_reply(
        &self,
        asked: &Message,
        id: MessageId,
        produced: Produced,
    ) -> Option<NewReply> {
        let Produced { ending, input_tokens, first_content_ms, duration_ms } = produced;
        let (status, outcome) = terminal(self.end_reply(ending))?;
        self.session.announce_reply(false);
        let content = self.session.finish_content(status == Status::Complete);
        let usage = outcome.usage.or_else(|| {
            input_tokens.map(|input_tokens| Usage::estimate(input_tokens, tokens(&content)))
        });
        let session = self.session.session().id;
        tracing::debug!(%session, reply = %id, status = status.as_str(), "reply ended");
        if let Status::Failed(failure) = &status {
            tracing::warn!(%session, reply = %id, code = %failure.code, "reply failed");
        }
        let fields = ReplyFields {
            finish_reason: outcome.finish_reason,
            usage,
            model: outcome.model,
            first_content_ms,
            duration_ms: Some(duration_ms),
            provider_data: outcome.provider_data,
            ..ReplyFields::new(asked.id, asked.seq, status)
        };
        Some(NewReply { id, content, metadata: outcome.metadata, fields })
    }

    /// Returns the terminal message of a turn whose process died in each of its attempts.
    fn given_up(&self, turn: Turn, id: MessageId) -> Option<NewReply> {
        let ending = self.end_reply(ReplyEnding::Cancelled(CancelReason::Interrupt));
        let (status, _) = terminal(ending)?;
        tracing::warn!(session = %self.session.session().id, "a turn reached its last attempt; committed as interrupted");
        // The prompts of the attempts are not known any more; they contained the message.
        let usage = Usage::estimate(tokens(&turn.message.content), tokens(&turn.partial));
        let fields = ReplyFields {
            usage: Some(usage),
            ..ReplyFields::new(turn.message.id, turn.message.seq, status)
        };
        Some(NewReply { id, content: turn.partial, metadata: Metadata::default(), fields })
    }

    /// Commits a terminal message and publishes it. Retries until the store accepts it: the
    /// entry is appended once, however often it is tried. Only the end of the session, of the lease
    /// or of the process ends the wait.
    async fn commit_reply(&self, lease: Lease, mut reply: NewReply) {
        let (mut delay, mut reported) = (RetryDelay::new(), false);
        let id = self.session.session().id;
        loop {
            let now = self.core.clock.now();
            let answer = self.core.turns.answer(id, lease, reply.clone(), now);
            match caught(answer).await {
                Ok(Answered::Kept(appended)) => {
                    self.core.metrics.reply(&appended.message.role);
                    let published = self.session.publish_answer(lease, appended);
                    return Self::start(&self.core, &self.session, published);
                }
                Ok(Answered::Stopped) => {
                    reply.fields.status = Status::Stopped;
                    continue;
                }
                Ok(Answered::LeaseLost) => return self.session.lose_lease(lease),
                Err(error) if error.is_store_restarted() => {
                    match caught(enter_again(&self.core, &self.session)).await {
                        Ok(Some(_)) => continue,
                        Ok(None) => return,
                        Err(error) => {
                            tracing::warn!(session = %id, cause = ?error, "failed to enter a session again");
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::StoreFull => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::warn!(session = %id, "the store is full; a reply waits to be committed");
                    }
                    delay = RetryDelay::new();
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Internal | ErrorKind::StoreUnavailable
                    ) =>
                {
                    tracing::warn!(session = %id, cause = ?error, "failed to commit a reply; retrying");
                }
                Err(error) => return self.abandon(error),
            }
            delay.wait().await;
        }
    }

    /// The log accepted no terminal message: ends the streams, so that clients reconnect and
    /// read the log instead of waiting.
    fn abandon(&self, error: Error) {
        let (id, kind) = (self.session.session().id, error.kind());
        if kind == ErrorKind::SessionExpired {
            tracing::debug!(session = %id, "session ended before its reply was committed");
            return self.core.end_gone(&self.session);
        }
        tracing::error!(session = %id, %error, cause = ?error, "failed to commit a reply");
        self.session.end(kind);
    }

    /// Makes the text of the reply final. A stop that came until now has been promised to a
    /// client, and takes precedence.
    fn end_reply(&self, ending: ReplyEnding) -> ReplyEnding {
        match self.session.end_reply() {
            Some(reason @ (CancelReason::Stop | CancelReason::Ended | CancelReason::LeaseLost)) => {
                ReplyEnding::Cancelled(reason)
            }
            Some(CancelReason::Interrupt) | None => ending,
        }
    }
}

/// Returns the status and the outcome of the terminal message. `None` if the session has no log any
/// more, or if another process answers the turn.
fn terminal(ending: ReplyEnding) -> Option<(Status, Outcome)> {
    let nothing = Outcome::default;
    Some(match ending {
        ReplyEnding::Finished(mut outcome) => {
            (outcome.failure.take().map_or(Status::Complete, Status::Failed), outcome)
        }
        ReplyEnding::Cancelled(CancelReason::Stop) => (Status::Stopped, nothing()),
        ReplyEnding::Cancelled(CancelReason::Interrupt) => (Status::Interrupted, nothing()),
        ReplyEnding::Cancelled(CancelReason::Ended | CancelReason::LeaseLost) => return None,
        ReplyEnding::TooLong => {
            let finish_reason = Some("max_reply_size".into());
            (Status::Interrupted, Outcome { finish_reason, ..nothing() })
        }
    })
}

/// Estimates the tokens of a content: its text, and reasoning and tool calls, which are written as
/// well.
fn tokens(content: &Content) -> u32 {
    match content.parts() {
        [] => estimate_tokens(content.text()),
        parts => {
            let texts = parts.iter().filter_map(|part| part.content.growing_text());
            texts.map(|text| estimate_tokens(text)).fold(0, u32::saturating_add)
        }
    }
}
