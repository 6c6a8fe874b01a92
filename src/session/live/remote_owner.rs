//! The process that answers the turns of a session, and its reply in progress: pure, without locks
//! or I/O.

use super::{
    event::{Event, ReplyStarted},
    reply_draft::{Mirrored, ReplyDraft},
    reply_in_progress::ShownReply,
};
use crate::session::{
    model::ReplyPosition,
    ports::{Lease, NodeId, RemoteReply},
};

/// Another process that answers the turns.
#[derive(Debug)]
pub(super) struct RemoteOwner {
    node: NodeId,
    watch: Watch,
    reply: Option<RemoteDraft>,
}

/// The state of the question for the owner's replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    NotAsked,
    Asked,
    /// The owner sends its replies.
    Answered,
}

/// The reply in progress of the owner, as far as it has arrived.
#[derive(Debug)]
struct RemoteDraft {
    started: ReplyStarted,
    turn_seq: u32,
    lease: Lease,
    draft: ReplyDraft,
}

impl RemoteOwner {
    pub(super) const fn new(node: NodeId) -> Self {
        Self { node, watch: Watch::NotAsked, reply: None }
    }

    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    /// Another process has taken the turns over. The reply that is shown stays until the new owner
    /// begins another one.
    pub(super) fn change(&mut self, node: NodeId) {
        if self.node != node {
            (self.node, self.watch) = (node, Watch::NotAsked);
        }
    }

    /// Marks the owner as asked, and returns the position up to which the reply has arrived. Returns
    /// `None` if the owner was asked before.
    pub(super) fn ask(&mut self) -> Option<Option<ReplyPosition>> {
        if self.watch != Watch::NotAsked {
            return None;
        }
        self.watch = Watch::Asked;
        let at = |reply: &RemoteDraft| ReplyPosition {
            reply: reply.started.reply,
            offset: reply.draft.end(),
        };
        Some(self.reply.as_ref().map(at))
    }

    pub(super) fn answered_watch(&mut self) {
        self.watch = Watch::Answered;
    }

    /// The owner has to be asked again.
    pub(super) const fn forget_watch(&mut self) {
        self.watch = Watch::NotAsked;
    }

    /// As [`Self::forget_watch`], unless the owner has answered. Returns true if it has not.
    pub(super) fn forget_unanswered_watch(&mut self) -> bool {
        let is_unanswered = self.watch != Watch::Answered;
        if is_unanswered {
            self.watch = Watch::NotAsked;
        }
        is_unanswered
    }

    /// The reply to a turn is in the log.
    pub(super) fn answered(&mut self, turn_seq: u32) {
        self.reply.take_if(|reply| reply.turn_seq <= turn_seq);
    }

    /// Returns true if a reply of this lease is out of date.
    pub(super) fn is_outdated(&self, lease: Lease) -> bool {
        self.reply.as_ref().is_some_and(|reply| reply.lease > lease)
    }

    /// Begins a reply, or continues the one that is shown.
    pub(super) fn begin(&mut self, remote: RemoteReply) -> Begun {
        let RemoteReply { started, turn_seq, lease, .. } = remote;
        let offset = started.offset;
        let shown = self.reply.as_ref().filter(|it| it.started.reply == started.reply);
        if offset > 0 {
            return match shown {
                Some(shown) if offset <= shown.draft.end() => Begun::Continued,
                Some(_) | None => Begun::Gap,
            };
        }
        let draft = ReplyDraft::new(started.reply);
        self.reply = Some(RemoteDraft { started: started.clone(), turn_seq, lease, draft });
        Begun::Started(started)
    }

    /// Adds content to the reply. Returns `None` if it is of another one.
    pub(super) fn extend(&mut self, event: Event) -> Option<Mirrored> {
        let (reply, _) = event.reply_end()?;
        let shown = self.reply.as_mut().filter(|it| it.started.reply == reply)?;
        Some(shown.draft.mirror(event))
    }

    /// Discards the reply, since no subscriber of this process receives it.
    pub(super) fn drop_reply(&mut self) {
        self.reply = None;
    }

    pub(super) fn shown(&self) -> Option<ShownReply<'_>> {
        let RemoteDraft { started, draft, .. } = self.reply.as_ref()?;
        Some(ShownReply { started, draft })
    }
}

/// The result of [`RemoteOwner::begin`].
pub(super) enum Begun {
    Started(ReplyStarted),
    Continued,
    /// Content before it has not arrived.
    Gap,
}
