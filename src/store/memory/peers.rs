//! The nodes that watch a session of a shared memory store.

use async_trait::async_trait;

use super::{MemoryStore, row::SessionRow, sharing::Member};
use crate::session::{Entered, Note, Peers, Received, Result, SessionId, Timestamp};

impl MemoryStore {
    /// Sends a note to the nodes that watch a session, except this one.
    pub(super) fn tell_watchers(&self, row: &SessionRow, note: &Note) {
        let (Some(Member { node, network }), Some(sharing)) = (&self.member, &row.sharing) else {
            return;
        };
        for watcher in sharing.watchers().filter(|watcher| watcher != node) {
            network.send(*node, watcher, row.session.id, note.clone());
        }
    }
}

#[async_trait]
impl Peers for MemoryStore {
    fn is_shared(&self) -> bool {
        self.member.is_some()
    }

    async fn enter(&self, id: SessionId, now: Timestamp) -> Result<Entered> {
        let mut tables = self.tables();
        let row = tables.row(id, now)?;
        if let Some(Member { node, .. }) = &self.member {
            row.sharing.get_or_insert_default().watch(*node);
        }
        let lease = self.lease(row);
        let (session, head_seq) = (row.session.clone(), row.head_seq());
        Ok(Entered { session, head_seq, waiting: row.waiting_turns(), lease })
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

    async fn receive(&self) -> Received {
        match &self.member {
            Some(member) => member.network.receive(member.node).await,
            None => std::future::pending().await,
        }
    }
}
