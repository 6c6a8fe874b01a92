//! Writes the partial content of a reply to the store, for the process that may have to take its
//! turn over.
//!
//! A store can be slow: an fsync, or half a minute while another program holds the file. The
//! reply therefore never waits for a checkpoint. One checkpoint is written at a time, and content
//! that arrives meanwhile goes into the next one. A checkpoint that is still being written when
//! the reply ends is dropped: finished or not, it has no effect on an answered turn (see
//! [`Turns::checkpoint`](crate::session::Turns::checkpoint)).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::session::{
    core::Core,
    live::{Turn, registry::SessionHandle},
    model::{Content, Result},
    panic::caught,
    ports::{Checkpoint, Checkpointed, Lease},
};

/// New bytes after which a checkpoint is due.
const SIZE: usize = 4096;

/// Time after the first new byte at which a checkpoint is due.
const INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Checkpointer<'a> {
    core: &'a Core,
    session: &'a SessionHandle,
    seq: u32,
    lease: Lease,
    attempt: u32,
    /// Bytes of the last checkpoint.
    partial: usize,
    /// Bytes that arrived since.
    behind: usize,
    /// Deadline of the next checkpoint, if `behind` is not zero.
    due: Instant,
    /// Set to `due` or earlier: moving a timer with each checkpoint costs more than one early
    /// wake-up. `None` until the responder is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
    writing: Option<BoxFuture<'a, Result<Checkpointed>>>,
}

impl<'a> Checkpointer<'a> {
    pub(super) fn new(
        core: &'a Core,
        session: &'a SessionHandle,
        turn: &Turn,
        started: Instant,
    ) -> Self {
        Self {
            core,
            session,
            seq: turn.message.seq,
            lease: turn.lease,
            attempt: turn.attempt,
            partial: 0,
            behind: 0,
            due: started,
            timer: None,
            writing: None,
        }
    }

    /// Writes a checkpoint and waits for it.
    pub(super) async fn write_now(&mut self, content: Content) {
        let written = self.write(content).await;
        self.report(&written);
    }

    /// Counts new bytes of the reply.
    pub(super) fn grew(&mut self, bytes: usize) {
        if self.behind == 0 {
            self.due = Instant::now() + INTERVAL;
        }
        self.behind += bytes;
    }

    /// Drives the checkpoint that is being written, and begins one if enough bytes are new.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.poll_writing(cx).is_ready() && self.is_large() {
            self.begin(cx);
        }
    }

    /// Like [`Self::poll`], while the responder is idle: also begins one that is due by time.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) {
        if self.poll_writing(cx).is_ready() && (self.is_large() || self.is_late(cx)) {
            self.begin(cx);
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) {
        self.partial += self.behind;
        self.behind = 0;
        self.writing = Some(self.write(self.session.reply_content()));
        // A store that does not wait is done after this poll.
        let _written = self.poll_writing(cx);
    }

    fn write(&self, content: Content) -> BoxFuture<'a, Result<Checkpointed>> {
        let at = Checkpoint { seq: self.seq, attempt: self.attempt, content };
        let (session, now) = (self.session.session().id, self.core.clock.now());
        caught(self.core.turns.checkpoint(session, self.lease, at, now)).boxed()
    }

    /// Ready if no checkpoint is being written.
    fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(writing) = &mut self.writing {
            let written = ready!(writing.as_mut().poll(cx));
            self.writing = None;
            self.report(&written);
        }
        Poll::Ready(())
    }

    /// A failed checkpoint does not end the reply.
    fn report(&self, written: &Result<Checkpointed>) {
        match written {
            Ok(Checkpointed::Done) => {}
            Ok(Checkpointed::LeaseLost) => self.session.lose_lease(self.lease),
            Err(error) => {
                tracing::warn!(session = %self.session.session().id, %error, "failed to write a checkpoint");
            }
        }
    }

    /// Returns true if enough bytes are new. The limit grows with the content, since each checkpoint
    /// writes all of it.
    fn is_large(&self) -> bool {
        self.behind >= SIZE.max(self.partial / 4)
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.behind == 0 {
            return false;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(self.due)));
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= self.due {
                return true;
            }
            timer.as_mut().reset(self.due);
        }
        false
    }
}
