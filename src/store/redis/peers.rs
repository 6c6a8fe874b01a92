//! The other nodes.

use std::{sync::PoisonError, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use metrics::counter;
use redis::Value;
use tokio::time::{Instant, sleep};

use super::{
    FIRST_TERM, RedisStore,
    link::Batch,
    peer_codec,
    session_record::SessionRecord,
    sessions::take_session,
    value::{bytes, items, number},
};
use crate::session::{
    Entered, Epoch, Known, MessageId, NodeId, Peer, PeerMessage, Peers, Received, Result,
    SessionId, Timestamp, WaitingTurn,
};

/// Longest time that a node waits, after a restart of the server, for the nodes that watch a session to
/// enter it again. Afterwards it gives the log another epoch.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Wait before a session is entered that another node knows.
const SETTLE_DELAY: Duration = Duration::from_millis(50);

/// A node without a heartbeat for this long sweeps no partition.
const SWEEPER_LIFE: Duration = Duration::from_millis(2500);

/// Most calls at the same time.
const MAX_CONCURRENT: usize = 64;

impl RedisStore {
    /// Publishes to the inbox of a node.
    async fn publish(&self, to: NodeId, partition: u8, payload: &[u8]) -> Result<()> {
        let channel = self.keys.inbox(partition, &to.to_bytes());
        self.link.command("SPUBLISH", &channel, &[payload]).await
    }

    /// Publishes to the inbox of this node on each server, and asks each one whether it was emptied.
    async fn probe(&self) -> Result<()> {
        let route = self.link.route();
        let mut batch = Batch::default();
        for partition in route.servers.iter().filter_map(|server| route.partitions(server).next()) {
            let channel = self.keys.inbox(partition, &self.node.to_bytes());
            batch.cmd("SPUBLISH", &channel).arg(&[peer_codec::PROBE][..]);
        }
        self.link.batch::<u64>(&batch).await?;
        if self.link.was_emptied().await? {
            self.inbox.report(Received::Emptied);
            let secret = self.keys.global("secret");
            self.link.command::<()>("SET", &secret, &[&self.secret, b"NX"]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Peers for RedisStore {
    fn node(&self) -> Option<NodeId> {
        Some(self.node)
    }

    async fn enter(&self, id: SessionId, now: Timestamp, known: Option<Known>) -> Result<Entered> {
        let epoch = known.as_ref().map(|known| known.epoch.clone());
        let epoch = epoch.as_ref().map_or("", |epoch| epoch.as_str());
        let seq = known.as_ref().map(|known| known.seq.to_string()).unwrap_or_default();
        let message = known.and_then(|known| known.message);
        let message = message.as_ref().map_or(&[][..], |message| message.as_bytes());
        let fresh = Epoch::generate();
        let deadline = Instant::now() + SETTLE_TIME;
        let answer = loop {
            let is_last = Instant::now() >= deadline;
            let (fresh, last) = (fresh.as_str().as_bytes(), if is_last { b"1" } else { b"0" });
            let arguments = [epoch.as_bytes(), seq.as_bytes(), message, fresh, last];
            let answer = items(self.on(&self.scripts.enter, id, now, arguments).await?)?;
            if answer.len() != 1 {
                break answer;
            }
            sleep(SETTLE_DELAY).await;
        };
        let mut answer = answer.into_iter();
        let SessionRecord { session, owner, newest_lease, earlier, .. } =
            take_session(id, &mut answer)?;
        let head_seq = number(answer.next().unwrap_or(Value::Nil))?;
        let head_seq = u32::try_from(head_seq).unwrap_or(u32::MAX);
        let head = bytes(answer.next().unwrap_or(Value::Nil))?;
        let head = head[..].try_into().ok().map(MessageId::from_bytes);
        let mut turns = items(answer.next().unwrap_or(Value::Nil))?.into_iter();
        let mut waiting = Vec::new();
        while let (Some(seq), Some(message)) = (turns.next(), turns.next()) {
            let seq = u32::try_from(number(seq)?).unwrap_or(u32::MAX);
            let message = bytes(message)?;
            if let Ok(message) = message[..].try_into() {
                waiting.push(WaitingTurn { seq, id: MessageId::from_bytes(message) });
            }
        }
        let lost = number(answer.next().unwrap_or(Value::Nil))?;
        let lost = u32::try_from(lost).unwrap_or(u32::MAX);
        self.set_term(id, bytes(answer.next().unwrap_or(Value::Nil))?);
        let lease = newest_lease.filter(|_| owner == Some(self.node));
        let owner = owner.filter(|owner| *owner != self.node);
        Ok(Entered { session, head_seq, head, waiting, owner, lease, newest_lease, earlier, lost })
    }

    async fn leave(&self, sessions: Vec<SessionId>) -> Result<()> {
        for id in &sessions {
            self.set_term(*id, FIRST_TERM.to_vec());
        }
        let left = stream::iter(sessions)
            .map(|id| self.on(&self.scripts.leave, id, Timestamp::default(), []))
            .buffer_unordered(MAX_CONCURRENT);
        left.try_for_each(|_| std::future::ready(Ok(()))).await
    }

    async fn heartbeat(&self, is_draining: bool) -> Result<Vec<Peer>> {
        let (nodes, draining) = (self.keys.global("nodes"), self.keys.global("draining"));
        let me = self.node.to_bytes();
        let channel = self.keys.inbox(0, b"");
        let answer = self
            .link
            .call(&self.scripts.heartbeat, &[nodes, draining], |_| {
                let is_draining = if is_draining { b"1" } else { b"0" };
                vec![me.to_vec(), is_draining.to_vec(), channel.name.clone()]
            })
            .await?;
        self.probe().await?;
        let mut answer = items(answer)?.into_iter();
        let mut peers = Vec::new();
        while let (Some(node), Some(silent), Some(listeners), Some(drains)) =
            (answer.next(), answer.next(), answer.next(), answer.next())
        {
            if let Ok(node) = bytes(node)?[..].try_into() {
                peers.push(Peer {
                    node: NodeId::from_bytes(node),
                    silent_for: Duration::from_millis(number(silent)?),
                    is_reachable: number(listeners)? > 0,
                    is_draining: number(drains)? > 0,
                });
            }
        }
        let mut living: Vec<_> = peers
            .iter()
            .filter(|peer| peer.silent_for < SWEEPER_LIFE)
            .map(|peer| peer.node)
            .collect();
        living.sort_unstable();
        if let Some(rank) = living.iter().position(|node| *node == self.node) {
            *self.rank.lock().unwrap_or_else(PoisonError::into_inner) = (rank, living.len());
        }
        Ok(peers)
    }

    async fn forget(&self, node: NodeId) -> Result<()> {
        let node = node.to_bytes();
        self.link.command::<()>("ZREM", &self.keys.global("nodes"), &[&node]).await?;
        self.link.command("SREM", &self.keys.global("draining"), &[&node]).await
    }

    async fn send(&self, to: NodeId, messages: Vec<(SessionId, PeerMessage)>) -> Result<()> {
        counter!("duologue_peer_messages_total").increment(messages.len() as u64);
        let payload = peer_codec::write(self.node, messages)?;
        counter!("duologue_peer_bytes_total").increment(payload.len() as u64);
        // The pairs of nodes are spread over the partitions, and so over the servers of a cluster.
        let [.., mine] = self.node.to_bytes();
        let [.., theirs] = to.to_bytes();
        self.publish(to, mine ^ theirs, &payload).await
    }

    async fn receive(&self) -> Received {
        self.inbox.next().await
    }
}
