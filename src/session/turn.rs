//! Runs the turns of a session, one at a time, until none waits.
//!
//! A task exists per session whose turns have to wait for something, not per session.
//! Whatever happens to the responder (it fails, stalls and is stopped, stops short,
//! panics), the turn ends with one terminal message in the log.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::{
    Entry, ErrorKind, MessageId, Outcome, Status, Usage,
    active_session::{CancelReason, CancelSignal, Published, Turn, Work},
    estimate_tokens,
    gateway::{Gateway, spawn_eager},
    panic::caught,
    registry::SessionHandle,
    reply_run::{Ending, Produced},
};

/// How often a turn is tried. What dies with its process twice may be what kills it.
pub const MAX_ATTEMPTS: u32 = 2;

/// The waits between tries of what has to succeed in the end: ever longer.
struct Retries {
    wait: Duration,
}

impl Retries {
    const LONGEST: Duration = Duration::from_secs(30);

    const fn start() -> Self {
        Self { wait: Duration::from_secs(1) }
    }

    async fn wait(&mut self) {
        sleep(self.wait).await;
        self.wait = Self::LONGEST.min(2 * self.wait);
    }
}

impl Gateway {
    /// Runs the session's turns if nobody does: here as far as nothing has to be waited
    /// for, then in a task.
    pub(super) fn run_turns(&self, handle: &SessionHandle, published: Published) {
        match published {
            Published::Done => {}
            Published::RunTurns => {
                let (gateway, handle, working) =
                    (self.clone(), handle.clone(), self.tasks().token());
                // Ready at once, or to be polled again by the task: nobody needs waking.
                let _task = spawn_eager(async move {
                    let _working = working;
                    gateway.work(&handle).await;
                });
            }
        }
    }

    async fn work(&self, handle: &SessionHandle) {
        loop {
            match handle.next_work() {
                Work::CatchUp => self.catch_up_with_retries(handle).await,
                Work::Turn(turn, id, cut) => {
                    let answer = self.answer(handle, turn, id, &cut).map(Ok);
                    // What can panic is caught where its turn can still be answered. Should
                    // anything else, those who wait are told, rather than wait for ever.
                    if let Err(error) = caught(answer).await {
                        self.abandon(handle, error);
                    }
                }
                Work::Nothing => return,
            }
        }
    }

    /// Reads the log until everything is known here, however often it cannot be read. The
    /// next reply must not begin before the one before it is told.
    async fn catch_up_with_retries(&self, handle: &SessionHandle) {
        let mut retries = Retries::start();
        while handle.has_gap() {
            match caught(self.catch_up(handle)).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::SessionExpired => {
                    return self.end_gone(handle);
                }
                Err(error) => {
                    tracing::warn!(session = %handle.session().id, %error, cause = ?error, "the log is read again");
                }
            }
            retries.wait().await;
        }
    }

    async fn answer(&self, handle: &SessionHandle, turn: Turn, id: MessageId, cut: &CancelSignal) {
        if turn.attempt > MAX_ATTEMPTS {
            return self.give_up(handle, turn, id).await;
        }
        let Produced { ending, input_tokens } = self.produce(handle, &turn, id, cut).await;
        let Some((status, finish_reason, usage)) = terminal(close_to_stops(handle, ending)) else {
            return;
        };
        handle.announce_reply(false);
        let text = handle.reply_text();
        let usage = usage.or_else(|| {
            let output_tokens = estimate_tokens(&text);
            input_tokens.map(|input_tokens| Usage { input_tokens, output_tokens, estimated: true })
        });
        tracing::debug!(session = %handle.session().id, reply = %id, status = status.as_str(), "reply ended");
        if let Status::Failed(failure) = &status {
            tracing::warn!(session = %handle.session().id, reply = %id, code = %failure.code, "reply failed");
        }
        let entry =
            Entry::Reply { id, text, in_reply_to: turn.message.id, status, finish_reason, usage };
        self.commit_reply(handle, entry).await;
    }

    /// Commits a terminal message and publishes it. A store that has no room may have
    /// some later; until then the turn waits, rather than lose what was said. One that
    /// fails otherwise is asked again, too, ever more seldom: the entry is appended once,
    /// however often it is tried. Only the end of the session, or of the process, ends it.
    async fn commit_reply(&self, handle: &SessionHandle, entry: Entry) {
        let (mut retries, mut told) = (Retries::start(), false);
        loop {
            let id = handle.session().id;
            let append = self.store().append(id, entry.clone(), self.append_limits());
            match caught(append).await {
                Ok(appended) => {
                    self.core.metrics.reply(&appended.message.role);
                    return self.run_turns(handle, handle.publish(appended.message));
                }
                Err(error) if error.kind() == ErrorKind::StoreFull => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(session = %id, "a reply waits for room in the store");
                    }
                    retries = Retries::start();
                }
                Err(error) if error.kind() == ErrorKind::Internal => {
                    tracing::warn!(session = %id, cause = ?error, "a reply is committed again");
                }
                Err(error) => return self.abandon(handle, error),
            }
            retries.wait().await;
        }
    }

    /// Commits a turn as interrupted: it died twice with its process.
    async fn give_up(&self, handle: &SessionHandle, turn: Turn, id: MessageId) {
        let ending = close_to_stops(handle, Ending::CancelReason(CancelReason::Interrupt));
        let Some((status, finish_reason, _)) = terminal(ending) else { return };
        tracing::warn!(session = %handle.session().id, "a turn that was tried twice is given up");
        // What it read died with it; the message it surely did.
        let usage = Usage {
            input_tokens: estimate_tokens(&turn.message.text),
            output_tokens: estimate_tokens(&turn.partial),
            estimated: true,
        };
        let (text, in_reply_to, usage) = (turn.partial, turn.message.id, Some(usage));
        let entry = Entry::Reply { id, text, in_reply_to, status, finish_reason, usage };
        self.commit_reply(handle, entry).await;
    }

    /// The log took no terminal message: those who watch must come back to a log that
    /// tells the truth, rather than wait.
    fn abandon(&self, handle: &SessionHandle, error: super::Error) {
        let (id, kind) = (handle.session().id, error.kind());
        if kind == ErrorKind::SessionExpired {
            tracing::debug!(session = %id, "a session ended before its reply was committed");
            return self.end_gone(handle);
        }
        tracing::error!(session = %id, %error, cause = ?error, "a reply could not be committed");
        handle.end(kind);
    }

    /// Ends a session that the store has no more: before its deadline somebody has taken
    /// it away.
    fn end_gone(&self, handle: &SessionHandle) {
        let early = handle.expires_at() > self.clock().now();
        handle.end(if early { ErrorKind::SessionRevoked } else { ErrorKind::SessionExpired });
    }
}

/// Ends the reply: from here on a stop comes too late. One that came in the last moment has
/// been promised.
fn close_to_stops(handle: &SessionHandle, ending: Ending) -> Ending {
    match handle.end_reply() {
        Some(cut @ (CancelReason::Stop | CancelReason::Ended)) => Ending::CancelReason(cut),
        Some(CancelReason::Interrupt) | None => ending,
    }
}

type Terminal = (Status, Option<Arc<str>>, Option<Usage>);

/// What the terminal message says; `None` if there is no log left to say it in.
fn terminal(ending: Ending) -> Option<Terminal> {
    Some(match ending {
        Ending::Finished(Outcome { failure, finish_reason, usage }) => {
            (failure.map_or(Status::Complete, Status::Failed), finish_reason, usage)
        }
        Ending::CancelReason(CancelReason::Stop) => (Status::Stopped, None, None),
        Ending::CancelReason(CancelReason::Interrupt) => (Status::Interrupted, None, None),
        Ending::CancelReason(CancelReason::Ended) => return None,
        Ending::TooLong => (Status::Interrupted, Some("max_reply_size".into()), None),
    })
}
