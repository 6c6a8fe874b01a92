//! The replies of other processes, and other processes as subscribers.

use std::sync::Arc;

use super::{State, send_to};
use crate::session::{
    live::{
        event::{Event, EventFilter, ReplyStarted},
        remote_owner::{Begun, RemoteOwner},
        reply_draft::Mirrored,
        reply_in_progress::ReplySoFar,
        subscriber_queue::{QueueCapacity, SubscriberQueue},
    },
    model::{ErrorKind, ReplyPosition},
    ports::{NodeId, PeerMessage, RemoteReply},
};

/// The next step of the receiver of an owner's message.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Shown {
    /// None.
    Done,
    /// Read the log up to this number, then ask the owner again.
    Behind(u32),
    /// Ask the owner again, since content is missing.
    Gap,
    /// Tell the owner that no subscriber of this process receives the reply.
    Unwanted,
}

/// Another process that subscribes to the replies of this one.
pub(in crate::session) struct PeerSubscriber {
    pub(in crate::session) queue: Arc<SubscriberQueue>,
    pub(in crate::session) reply: Option<ReplySoFar>,
}

impl State {
    /// Takes note of the process that answers the waiting turns.
    pub(in crate::session::live) fn set_owner(&mut self, owner: NodeId) {
        match &mut self.remote {
            Some(remote) => remote.change(owner),
            None => self.remote = Some(Box::new(RemoteOwner::new(owner))),
        }
    }

    /// Returns the process to ask for its replies, and the question, if it has to be asked.
    pub(in crate::session::live) fn watch_request(&mut self) -> Option<(NodeId, PeerMessage)> {
        let is_of_use = self.ended.is_none() && !self.subscribers.is_empty() && !self.has_gap();
        if !is_of_use || !self.turns.waits_elsewhere() {
            return None;
        }
        let wants_content = self.wants_deltas();
        let remote = self.remote.as_mut()?;
        let from = remote.ask()?;
        Some((remote.node(), PeerMessage::Watch { wants_content, from }))
    }

    pub(in crate::session::live) fn watched(&mut self, by: NodeId) {
        if let Some(remote) = self.remote.as_mut().filter(|remote| remote.node() == by) {
            remote.answered_watch();
        }
    }

    pub(in crate::session::live) fn forget_unanswered_watch(&mut self) -> bool {
        let waits = self.turns.waits_elsewhere() && !self.subscribers.is_empty();
        let remote = self.remote.as_mut().filter(|_| waits);
        remote.is_some_and(|remote| remote.forget_unanswered_watch())
    }

    /// Returns true if another process produces the reply of a position, as far as this one knows,
    /// and its content up to there has not arrived.
    pub(in crate::session::live) fn waits_for_reply(&self, at: ReplyPosition) -> bool {
        let shown = self.shown_reply();
        let is_of_other = shown.is_some_and(|shown| shown.started.reply != at.reply);
        self.turns.waits_elsewhere()
            && !is_of_other
            && shown.is_none_or(|shown| shown.draft.end() < at.offset)
    }

    /// Shows the reply in progress of another process, unless it is out of date.
    pub(in crate::session::live) fn show_reply(
        &mut self,
        from: NodeId,
        reply: RemoteReply,
    ) -> Shown {
        if self.ended.is_some() {
            return Shown::Done;
        }
        match self.turns.lease() {
            Some(own) if own >= reply.lease => return Shown::Done,
            Some(own) => self.lose_lease(own),
            None => {}
        }
        if self.head_seq < reply.head_seq {
            if let Some(remote) = &mut self.remote {
                remote.forget_watch();
            }
            return Shown::Behind(reply.head_seq);
        }
        if !self.turns.is_elsewhere(reply.turn_seq) {
            // It is answered.
            return Shown::Done;
        }
        if !self.wants_deltas() {
            return self.unwanted();
        }
        self.set_owner(from);
        let Some(remote) = &mut self.remote else { return Shown::Done };
        if remote.is_outdated(reply.lease) {
            return Shown::Done;
        }
        match remote.begin(reply) {
            Begun::Started(started) => {
                self.broadcast(Event::ReplyStarted(Arc::new(started)));
                Shown::Done
            }
            Begun::Continued => Shown::Done,
            Begun::Gap => {
                remote.drop_reply();
                remote.forget_watch();
                Shown::Gap
            }
        }
    }

    /// Shows more of the reply in progress of another process.
    pub(in crate::session::live) fn show_content(&mut self, from: NodeId, event: Event) -> Shown {
        if self.ended.is_none() && !self.wants_deltas() {
            return self.unwanted();
        }
        let Self { remote, subscribers, .. } = self;
        let Some(remote) = remote.as_mut().filter(|remote| remote.node() == from) else {
            return Shown::Done;
        };
        match remote.extend(event) {
            Some(Mirrored::New(event)) => {
                send_to(subscribers, event);
                Shown::Done
            }
            Some(Mirrored::Known) | None => Shown::Done,
            Some(Mirrored::Gap) => {
                remote.forget_watch();
                Shown::Gap
            }
        }
    }

    /// The reply to a turn is in the log. Without a waiting turn there is no owner.
    pub(super) fn remote_answered(&mut self, turn_seq: u32) {
        if let Some(remote) = &mut self.remote {
            remote.answered(turn_seq);
            if !self.turns.waits_elsewhere() {
                self.remote = None;
            }
        }
    }

    fn unwanted(&mut self) -> Shown {
        if let Some(remote) = &mut self.remote {
            remote.drop_reply();
            remote.forget_watch();
        }
        Shown::Unwanted
    }

    /// Adds another process as a subscriber of the replies in progress.
    pub(in crate::session::live) fn subscribe_peer(
        &mut self,
        node: NodeId,
        filter: EventFilter,
        from: Option<ReplyPosition>,
        capacity: QueueCapacity,
    ) -> Option<PeerSubscriber> {
        self.unsubscribe_peer(node);
        if self.ended.is_some() || !self.turns.has_lease() {
            return None;
        }
        let local = self.reply.as_ref().and_then(|reply| reply.shown());
        let reply = local.filter(|_| filter.wants_progress()).map(|reply| {
            let from = from.filter(|at| reply.honors(*at));
            reply.after(from.map_or(0, |at| at.offset))
        });
        let queue = Arc::new(SubscriberQueue::of_peer(capacity, filter, node));
        self.subscribers.push(Arc::clone(&queue));
        Some(PeerSubscriber { queue, reply })
    }

    /// Removes another process.
    pub(in crate::session::live) fn unsubscribe_peer(&mut self, node: NodeId) {
        let queue = self.subscribers.iter().find(|it| it.peer() == Some(node)).map(Arc::clone);
        if let Some(queue) = queue {
            queue.close_now(ErrorKind::SessionExpired);
            self.unsubscribe(&queue);
        }
    }

    /// Removes all other processes: this one does not answer the turns any more.
    pub(super) fn close_peers(&mut self) {
        while let Some(node) = self.subscribers.iter().find_map(|it| it.peer()) {
            self.unsubscribe_peer(node);
        }
    }

    /// Returns a reply in progress of this process as another one needs to know it.
    pub(in crate::session::live) fn local_reply(
        &self,
        started: ReplyStarted,
    ) -> Option<RemoteReply> {
        let reply = self.reply.as_ref().filter(|it| it.started.reply == started.reply)?;
        let (turn_seq, lease, head_seq) = (reply.turn_seq, reply.lease, self.head_seq);
        Some(RemoteReply { started, turn_seq, lease, head_seq })
    }
}
