//! The reply in progress of a session: pure, without locks or I/O.

use std::sync::Arc;

use super::{
    event::ReplyStarted,
    reply_draft::{DraftEvents, ReplyDraft},
    turn_queue::Turn,
};
use crate::session::{
    model::{MessageId, ReplyPosition},
    ports::Lease,
    turn::cancel::{CancelReason, CancelSignal},
};

#[derive(Debug)]
pub(super) struct ReplyInProgress {
    pub(super) started: ReplyStarted,
    /// Number of the user message.
    pub(super) turn_seq: u32,
    /// The lease under which it is answered.
    pub(super) lease: Lease,
    pub(super) draft: ReplyDraft,
    /// Subscribers have been sent `ReplyStarted`.
    announced: bool,
    /// The content is final and is being committed.
    ended: bool,
    pub(super) cancel: Arc<CancelSignal>,
}

/// The reply in progress, as a new subscriber receives it.
#[derive(Debug)]
pub(in crate::session) struct ReplySoFar {
    /// `None` once it has been delivered.
    pub(in crate::session) started: Option<ReplyStarted>,
    /// The content after the offset of `started`.
    pub(in crate::session) events: DraftEvents,
}

impl ReplyInProgress {
    pub(super) fn new(turn: &Turn) -> Self {
        let started = ReplyStarted {
            reply: MessageId::generate(),
            in_reply_to: turn.message.id,
            attempt: turn.attempt,
            offset: 0,
            context_trimmed: false,
        };
        let cancel = Arc::new(CancelSignal::default());
        if turn.stopped {
            cancel.cancel(CancelReason::Stop);
        }
        Self {
            turn_seq: turn.message.seq,
            lease: turn.lease,
            draft: ReplyDraft::new(started.reply),
            started,
            announced: false,
            ended: false,
            cancel,
        }
    }

    /// Returns true if the reply has to be announced: for the first time, or because its context
    /// turns out to be trimmed.
    pub(super) const fn announce(&mut self, context_trimmed: bool) -> bool {
        let is_news = !self.announced || (context_trimmed && !self.started.context_trimmed);
        self.announced = true;
        self.started.context_trimmed |= context_trimmed;
        is_news
    }

    /// Stops the reply. Returns false if it is being committed.
    pub(super) fn stop(&self) -> bool {
        if !self.ended {
            self.cancel.cancel(CancelReason::Stop);
        }
        !self.ended
    }

    /// Makes the content final. Returns the reason of an earlier cancellation.
    pub(super) fn end(&mut self) -> Option<CancelReason> {
        self.ended = true;
        self.cancel.reason()
    }

    /// The turn is answered. Drops the upstream request if another process has answered it.
    pub(super) fn answered(&self) {
        if !self.ended {
            self.cancel.cancel(CancelReason::LeaseLost);
        }
    }

    /// Returns the reply as subscribers have received it. `None` before it is announced.
    pub(super) fn shown(&self) -> Option<ShownReply<'_>> {
        self.announced.then_some(ShownReply { started: &self.started, draft: &self.draft })
    }
}

/// A reply in progress that subscribers know of.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShownReply<'a> {
    pub(super) started: &'a ReplyStarted,
    pub(super) draft: &'a ReplyDraft,
}

impl ShownReply<'_> {
    /// Returns true if a subscriber can continue from a position.
    pub(super) fn honors(self, at: ReplyPosition) -> bool {
        at.reply == self.started.reply && self.draft.is_boundary(at.offset)
    }

    /// Returns what a subscriber still needs, after an offset.
    pub(super) fn after(self, offset: u32) -> ReplySoFar {
        ReplySoFar {
            started: Some(ReplyStarted { offset, ..self.started.clone() }),
            events: self.draft.events_after(offset),
        }
    }
}
