//! The living processes that share the store.

use std::sync::{Mutex, PoisonError};

use rand::seq::IndexedRandom as _;

use super::ports::NodeId;

/// The processes that can take turns over, according to the last heartbeat.
#[derive(Debug, Default)]
pub(super) struct LivingPeers(Mutex<Vec<NodeId>>);

impl LivingPeers {
    pub(super) fn set(&self, nodes: Vec<NodeId>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// Returns one of them, at random.
    pub(super) fn any(&self) -> Option<NodeId> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.choose(&mut rand::rng()).copied()
    }
}
