//! The nodes that watch a session of a shared memory store.

use async_trait::async_trait;
use tokio::time::Instant;

use super::{MemoryStore, row::SessionRow, sharing::Member};
use crate::session::{
    Entered, Known, NodeId, Note, Peer, PeerMessage, Peers, Received, Result, SessionId, Timestamp,
};

impl MemoryStore {
    /// Returns the node that answers the waiting turns, if it is another one.
    fn other_owner(&self, row: &SessionRow) -> Option<NodeId> {
        let member = self.member.as_ref()?;
        row.owner().filter(|owner| *owner != member.node)
    }

    /// Sends a note to the nodes that watch a session and to its owner, except this one.
    pub(super) fn tell_watchers(&self, row: &SessionRow, note: &Note) {
        let (Some(Member { node, network }), Some(sharing)) = (&self.member, &row.sharing) else {
            return;
        };
        let owner = row.owner().filter(|owner| sharing.watchers().all(|watcher| watcher != *owner));
        for watcher in sharing.watchers().chain(owner).filter(|watcher| watcher != node) {
            let mut note = note.clone();
            match &mut note {
                Note::Appended { owner, .. } => {
                    owner.take_if(|owner| *owner == watcher);
                }
                Note::OwnerChanged(owner) if *owner == watcher => continue,
                _ => {}
            }
            network.send(*node, watcher, Received::Note(row.session.id, note));
        }
    }
}

#[async_trait]
impl Peers for MemoryStore {
    fn node(&self) -> Option<NodeId> {
        self.member.as_ref().map(|member| member.node)
    }

    async fn heartbeat(&self, is_draining: bool) -> Result<Vec<Peer>> {
        let Some(Member { node, network }) = &self.member else { return Ok(Vec::new()) };
        let mut tables = self.tables();
        let now = Instant::now();
        tables.heartbeats.insert(*node, (now, is_draining));
        let peers = tables.heartbeats.iter().map(|(node, (at, is_draining))| Peer {
            node: *node,
            silent_for: now - *at,
            is_reachable: network.is_reachable(*node),
            is_draining: *is_draining,
        });
        Ok(peers.collect())
    }

    async fn forget(&self, node: NodeId) -> Result<()> {
        self.tables().heartbeats.remove(&node);
        Ok(())
    }

    async fn enter(&self, id: SessionId, now: Timestamp, _: Option<Known>) -> Result<Entered> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        if let Some(Member { node, .. }) = &self.member {
            row.sharing.get_or_insert_default().watch(*node);
        }
        let lease = self.lease(row);
        let newest_lease = row.sharing.as_ref().and_then(|sharing| sharing.newest_lease());
        let (session, head_seq) = (row.session.clone(), row.head_seq());
        let owner = self.other_owner(row);
        let waiting = row.waiting_turns();
        let head = row.head_id();
        let (earlier, lost) = (None, 0);
        Ok(Entered { session, head_seq, head, waiting, owner, lease, newest_lease, earlier, lost })
    }

    async fn leave(&self, sessions: Vec<SessionId>) -> Result<()> {
        let Some(member) = &self.member else { return Ok(()) };
        let mut tables = self.tables();
        for id in sessions {
            if let Some(row) = tables.sessions.get_mut(&id)
                && let Some(sharing) = &mut row.sharing
            {
                sharing.unwatch(member.node);
            }
        }
        Ok(())
    }

    async fn send(&self, to: NodeId, messages: Vec<(SessionId, PeerMessage)>) -> Result<()> {
        if let Some(Member { node, network }) = &self.member {
            for (session, message) in messages {
                network.send(*node, to, Received::Message(*node, session, message));
            }
        }
        Ok(())
    }

    async fn receive(&self) -> Received {
        match &self.member {
            Some(member) => member.network.receive(member.node).await,
            None => std::future::pending().await,
        }
    }
}
