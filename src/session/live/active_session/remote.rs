//! The replies of other processes, and other processes as subscribers.

use super::ActiveSession;
use crate::session::{
    live::{
        event::{Event, EventFilter, ReplyStarted},
        state::{PeerSubscriber, Shown},
        subscriber_queue::QueueCapacity,
    },
    model::ReplyPosition,
    ports::{NodeId, PeerMessage, RemoteReply},
};

impl ActiveSession {
    /// Takes note of the process that answers the waiting turns.
    pub(in crate::session) fn set_owner(&self, owner: NodeId) {
        self.state().set_owner(owner);
    }

    /// Returns the process to ask for its replies and the question, if subscribers need them and it
    /// was not asked.
    pub(in crate::session) fn watch_request(&self) -> Option<(NodeId, PeerMessage)> {
        self.state().watch_request()
    }

    /// Takes note that a process sends its replies from now on.
    pub(in crate::session) fn watched(&self, by: NodeId) {
        self.state().watched(by);
    }

    /// Permits to ask again if the process has not answered. Returns true if it has not.
    pub(in crate::session) fn forget_unanswered_watch(&self) -> bool {
        self.state().forget_unanswered_watch()
    }

    /// Returns true if another process produces the reply of a position, and its content up to
    /// there has not arrived.
    pub(in crate::session) fn waits_for_reply(&self, at: &ReplyPosition) -> bool {
        self.state().waits_for_reply(*at)
    }

    /// Shows the reply in progress of another process.
    pub(in crate::session) fn show_reply(&self, from: NodeId, reply: RemoteReply) -> Shown {
        self.state().show_reply(from, reply)
    }

    /// Shows more of the reply in progress of another process.
    pub(in crate::session) fn show_content(&self, from: NodeId, event: Event) -> Shown {
        self.state().show_content(from, event)
    }

    /// Adds another process as a subscriber of the replies in progress. `None` if this process does
    /// not answer the turns.
    pub(in crate::session) fn subscribe_peer(
        &self,
        node: NodeId,
        filter: EventFilter,
        from: Option<ReplyPosition>,
        capacity: QueueCapacity,
    ) -> Option<PeerSubscriber> {
        self.state().subscribe_peer(node, filter, from, capacity)
    }

    /// Removes another process.
    pub(in crate::session) fn unsubscribe_peer(&self, node: NodeId) {
        self.state().unsubscribe_peer(node);
    }

    /// Returns a reply in progress of this process as another one needs to know it. `None` if it
    /// has ended.
    pub(in crate::session) fn local_reply(&self, started: ReplyStarted) -> Option<RemoteReply> {
        self.state().local_reply(started)
    }
}
