//! Keeps the progress of one reply, for the process that may have to take its turn over.
//!
//! A store may take its time: an fsync, or half a minute while another program holds its
//! file. So a checkpoint is made beside the reply and never awaited by it, one at a time;
//! what comes meanwhile goes into the next. One that is still under way when the reply has
//! ended is let go of: done or not, it changes nothing about a turn that is answered (see
//! [`Store::checkpoint`](super::Store::checkpoint)).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Checkpoint, Result, active_session::Turn, gateway::Gateway, panic::caught,
    registry::SessionHandle,
};

/// Progress is kept when it is this much further, in bytes …
const SIZE: usize = 4096;

/// … or, if there is any, this long after its first piece.
const INTERVAL: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Checkpointer<'a> {
    gateway: &'a Gateway,
    handle: &'a SessionHandle,
    seq: u32,
    attempt: u32,
    /// Bytes in the last checkpoint …
    partial: usize,
    /// … and those that came since.
    behind: usize,
    /// If there are any, they are kept at this time at the latest.
    due: Instant,
    /// Set for `due` or for a time before it: moving a timer with every checkpoint costs
    /// more than one that goes off too early. `None` until the reply makes somebody wait.
    timer: Option<Pin<Box<Sleep>>>,
    writing: Option<BoxFuture<'a, Result<()>>>,
}

impl<'a> Checkpointer<'a> {
    pub(super) fn new(gateway: &'a Gateway, handle: &'a SessionHandle, turn: &Turn) -> Self {
        Self {
            gateway,
            handle,
            seq: turn.message.seq,
            attempt: turn.attempt,
            partial: 0,
            behind: 0,
            due: Instant::now(),
            timer: None,
            writing: None,
        }
    }

    /// Keeps a text, and waits until it is kept.
    pub(super) async fn keep(&mut self, text: Arc<str>) {
        let written = self.write(text).await;
        self.report(&written);
    }

    /// The reply is longer by so many bytes.
    pub(super) fn grew(&mut self, bytes: usize) {
        if self.behind == 0 {
            self.due = Instant::now() + INTERVAL;
        }
        self.behind += bytes;
    }

    /// Goes on with the checkpoint that is being made, and begins one that is large enough.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.poll_writing(cx).is_ready() && self.is_large() {
            self.begin(cx);
        }
    }

    /// As [`Self::poll`], while the reply says nothing: also begins one whose time has come.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) {
        if self.poll_writing(cx).is_ready() && (self.is_large() || self.is_late(cx)) {
            self.begin(cx);
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) {
        self.partial += self.behind;
        self.behind = 0;
        self.writing = Some(self.write(self.handle.reply_text()));
        // One that needs no waiting is over at once.
        let _written = self.poll_writing(cx);
    }

    fn write(&self, text: Arc<str>) -> BoxFuture<'a, Result<()>> {
        let at = Checkpoint { seq: self.seq, attempt: self.attempt, text };
        let (session, now) = (self.handle.session().id, self.gateway.clock().now());
        caught(self.gateway.store().checkpoint(session, now, at)).boxed()
    }

    /// Ready if none is being made.
    fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(writing) = &mut self.writing {
            let written = ready!(writing.as_mut().poll(cx));
            self.writing = None;
            self.report(&written);
        }
        Poll::Ready(())
    }

    /// Failing at it is no reason to end the reply.
    fn report(&self, written: &Result<()>) {
        if let Err(error) = written {
            tracing::warn!(session = %self.handle.session().id, %error, "a reply's progress was not noted");
        }
    }

    /// The more there is, the more must be new: each time the whole text is written.
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
