//! Traits that the core needs implemented: where sessions are stored, which process answers their
//! turns, what produces replies, and who callers are.

mod authenticator;
mod peers;
mod responder;
mod store;
mod turns;

use std::{fmt, sync::Arc};

pub use authenticator::{Authenticator, NoCredentials};
pub use peers::{
    Entered, Known, Note, Peer, PeerMessage, Peers, Received, RemoteReply, WaitingTurn,
};
pub use responder::{Chunk, Chunks, History, Outcome, Piece, Prompt, Reply, Responder};
pub use store::{
    FoundSession, Head, ListCursor, ListedSession, NewSession, Origin, Page, Share, ShareOf,
    Snapshot, Store, Swept,
};
pub use turns::{
    Answered, AppendLimits, Appended, Checkpoint, Checkpointed, Lease, NewReply, NewTurn, NodeId,
    Question, Turns, Unfinished,
};

/// The ports of one store.
#[derive(Clone)]
pub struct Storage {
    /// The sessions.
    pub store: Arc<dyn Store>,
    /// Their turns.
    pub turns: Arc<dyn Turns>,
    /// The other processes that use the store.
    pub peers: Arc<dyn Peers>,
}

impl Storage {
    /// Returns the ports of a store that only this process uses.
    #[must_use]
    pub fn unshared<S: Store + Turns>(store: Arc<S>) -> Self {
        let peers = Arc::new(peers::Alone::new(Arc::clone(&store) as Arc<dyn Store>));
        Self { turns: Arc::clone(&store) as Arc<dyn Turns>, store, peers }
    }

    /// Returns the ports of a store that several processes use.
    #[must_use]
    pub fn shared<S: Store + Turns + Peers>(store: Arc<S>) -> Self {
        let turns = Arc::clone(&store) as Arc<dyn Turns>;
        Self { turns, peers: Arc::clone(&store) as Arc<dyn Peers>, store }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").finish_non_exhaustive()
    }
}
