//! Messages to other processes, in batches.
//!
//! A process receives one batch at a time, and the next one [`INTERVAL`] after it, or as soon as
//! [`LARGE`] bytes wait. The deltas of a reply that wait for the next batch are merged in the queue
//! of their session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    model::SessionId,
    ports::{NodeId, PeerMessage, Peers},
};

/// Shortest time between the starts of two small batches to one process.
const INTERVAL: Duration = Duration::from_millis(10);

/// Size in bytes at which a batch is sent without waiting for the interval.
const LARGE: usize = 64 << 10;

/// Sessions whose owner was asked for its replies. A task repeats questions without an answer.
pub(super) struct Asked {
    added: UnboundedSender<SessionId>,
    taken: tokio::sync::Mutex<UnboundedReceiver<SessionId>>,
}

impl Asked {
    pub(super) fn new() -> Self {
        let (added, taken) = unbounded_channel();
        Self { added, taken: taken.into() }
    }

    pub(super) fn add(&self, session: SessionId) {
        // The task ends only when the gateway closes.
        let _sent = self.added.send(session);
    }

    /// Waits for the next session. Cancel safe.
    pub(super) async fn next(&self) -> SessionId {
        match self.taken.lock().await.recv().await {
            Some(session) => session,
            None => std::future::pending().await,
        }
    }
}

/// The messages to other processes that are not sent yet.
#[derive(Clone)]
pub(super) struct Outbox {
    peers: Arc<dyn Peers>,
    /// The next batch to each process that a task sends to.
    next: Arc<Mutex<HashMap<NodeId, Batch>>>,
}

type Messages = Vec<(SessionId, PeerMessage)>;

#[derive(Default)]
struct Batch {
    messages: Messages,
    size: usize,
    /// Cancelled when the messages are on their way.
    taken: CancellationToken,
    /// The size has reached [`LARGE`].
    is_large: Arc<Notify>,
}

impl Outbox {
    pub(super) fn new(peers: Arc<dyn Peers>) -> Self {
        Self { peers, next: Arc::default() }
    }

    /// Sends a message with the next batch.
    pub(super) fn post(&self, to: NodeId, session: SessionId, message: PeerMessage) {
        let _taken = self.add(to, session, message);
    }

    /// Sends a message with the next batch, and waits until that is on its way.
    pub(super) async fn send(&self, to: NodeId, session: SessionId, message: PeerMessage) {
        self.add(to, session, message).cancelled_owned().await;
    }

    /// Adds a message to the next batch. Returns the token that is cancelled when the batch is taken.
    fn add(&self, to: NodeId, session: SessionId, message: PeerMessage) -> CancellationToken {
        let mut next = self.next();
        let is_idle = !next.contains_key(&to);
        let batch = next.entry(to).or_default();
        batch.size += message.cost();
        batch.messages.push((session, message));
        if batch.size >= LARGE {
            batch.is_large.notify_one();
        }
        let taken = batch.taken.clone();
        drop(next);
        if is_idle {
            tokio::spawn(self.clone().send_batches(to));
        }
        taken
    }

    async fn send_batches(self, to: NodeId) {
        while let Some((messages, is_large)) = self.take(to) {
            let next_at = Instant::now() + INTERVAL;
            if let Err(error) = self.peers.send(to, messages).await {
                tracing::debug!(peer = %to, %error, "failed to send to another process");
            }
            // Early if the batch has become large meanwhile.
            let _elapsed = timeout_at(next_at, is_large.notified()).await;
        }
    }

    /// Takes the next batch. `None` if nothing waits: the task ends.
    fn take(&self, to: NodeId) -> Option<(Messages, Arc<Notify>)> {
        let mut next = self.next();
        let batch = next.get_mut(&to)?;
        if batch.messages.is_empty() {
            next.remove(&to);
            return None;
        }
        let Batch { messages, taken, .. } = std::mem::take(batch);
        taken.cancel();
        Some((messages, Arc::clone(&batch.is_large)))
    }

    fn next(&self) -> MutexGuard<'_, HashMap<NodeId, Batch>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
