//! The nodes that share a memory store: the network between them, and their leases.

use std::{fmt, num::NonZeroU64, sync::Arc};

use async_trait::async_trait;

use crate::session::{Lease, NodeId, Received};

/// The network between the nodes of a shared memory store. It may delay, reorder and lose what is
/// sent.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Sends a note or a message to another node.
    fn send(&self, from: NodeId, to: NodeId, sent: Received);

    /// Returns true if a node receives what is sent to it.
    fn is_reachable(&self, node: NodeId) -> bool;

    /// Waits for the next report to a node. Cancel safe.
    async fn receive(&self, node: NodeId) -> Received;
}

/// One of the nodes that share a store.
pub(super) struct Member {
    pub(super) node: NodeId,
    pub(super) network: Arc<dyn Network>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Member").field(&self.node).finish()
    }
}

/// The part of a session that only shared stores use.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The node that answers the waiting turns. `None` while no turn waits.
    pub(super) holder: Option<NodeId>,
    /// The number of the last grant.
    fence: Option<NonZeroU64>,
    /// The nodes that receive notes about changes.
    watchers: Vec<NodeId>,
}

impl Sharing {
    /// Makes a node the holder, under a new fence.
    pub(super) fn grant(&mut self, node: NodeId) {
        self.holder = Some(node);
        let next = |fence: NonZeroU64| fence.saturating_add(1);
        self.fence = Some(self.fence.map_or(NonZeroU64::MIN, next));
    }

    pub(super) fn watch(&mut self, node: NodeId) {
        if !self.watchers.contains(&node) {
            self.watchers.push(node);
        }
    }

    pub(super) fn unwatch(&mut self, node: NodeId) {
        self.watchers.retain(|watcher| *watcher != node);
    }

    pub(super) fn watchers(&self) -> impl Iterator<Item = NodeId> {
        self.watchers.iter().copied()
    }

    /// Returns the lease of the last grant.
    pub(super) fn newest_lease(&self) -> Option<Lease> {
        self.fence.map(Lease::new)
    }

    /// Returns the lease of a node, if it is the holder.
    pub(super) fn lease_of(&self, node: NodeId) -> Option<Lease> {
        self.fence.filter(|_| self.holder == Some(node)).map(Lease::new)
    }
}
