//! Sends the heartbeats of this process, and takes over the turns of processes that have ended.
//!
//! If a process is declared dead by mistake, a reply is attempted twice and one attempt is committed:
//! each write of an owner carries its lease, and the store refuses an old one.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::compare_and_report;
use crate::session::{
    core::Core,
    ports::{NodeId, Peer},
    turn::recovery,
};

/// Interval of the heartbeats.
const INTERVAL: Duration = Duration::from_millis(500);

/// A process without a heartbeat for this long is declared dead.
const SILENT: Duration = Duration::from_millis(2500);

/// The same for a process that has no connection to the store.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// Longest time for the answer to a prompt heartbeat.
const PROMPT: Duration = Duration::from_millis(750);

/// Number of prompt heartbeats in a row before this process declares others dead. If its own
/// heartbeats are late, the store is slow, and the others may be alive.
const PROMPT_HEARTBEATS: u32 = 3;

/// After this long without a heartbeat, others may have taken over the turns of this process.
const ABSENT: Duration = Duration::from_secs(2);

/// The processes whose turns are being taken over.
type Ending = Arc<Mutex<HashSet<NodeId>>>;

pub(super) async fn run(core: Arc<Core>) {
    let ending = Ending::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut prompt = 0;
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        let is_draining = core.draining.is_cancelled();
        let peers = match core.peers.heartbeat(is_draining).await {
            Ok(peers) => peers,
            Err(error) => {
                if prompt > 0 {
                    tracing::warn!(%error, cause = ?error, "failed to send a heartbeat");
                }
                prompt = 0;
                continue;
            }
        };
        let now = Instant::now();
        if now - last > ABSENT {
            tracing::warn!(
                absent_ms = (now - last).as_millis(),
                "no heartbeat for some seconds; comparing the turns of this process with the store"
            );
            tokio::spawn(compare_own(Arc::clone(&core)));
        }
        last = now;
        prompt = if now - sent <= PROMPT { prompt + 1 } else { 0 };
        judge(&core, &ending, &peers, prompt >= PROMPT_HEARTBEATS);
    }
}

/// Stores the list of living processes, and takes over the turns of dead ones.
fn judge(core: &Arc<Core>, ending: &Ending, peers: &[Peer], is_fit: bool) {
    let others = peers.iter().filter(|peer| Some(peer.node) != core.peers.node());
    let (ended, alive): (Vec<_>, Vec<_>) = others.partition(|peer| has_ended(peer));
    core.metrics.set_peers(alive.len());
    core.quota.set_processes(alive.len() + 1);
    let takes_turns = |peer: &&&Peer| !peer.is_draining && peer.silent_for < UNREACHABLE;
    core.living.set(alive.iter().filter(takes_turns).map(|peer| peer.node).collect());
    if !is_fit || core.draining.is_cancelled() {
        return;
    }
    for peer in ended {
        let node = peer.node;
        if ending.lock().unwrap_or_else(PoisonError::into_inner).insert(node) {
            tokio::spawn(take_over(Arc::clone(core), Arc::clone(ending), node));
        }
    }
}

const fn has_ended(peer: &Peer) -> bool {
    let limit = if peer.is_reachable { SILENT } else { UNREACHABLE };
    peer.silent_for.as_millis() >= limit.as_millis()
}

async fn take_over(core: Arc<Core>, ending: Ending, node: NodeId) {
    tracing::info!(peer = %node, "a process is dead; taking over its turns");
    let taken = match recovery::resume_all(&core, Some(node)).await {
        Ok(()) => core.peers.forget(node).await,
        Err(error) => Err(error),
    };
    if let Err(error) = taken {
        // The next heartbeat tries again.
        tracing::error!(peer = %node, %error, cause = ?error, "failed to take over the turns of a process");
    }
    ending.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
}

/// Compares the sessions whose turns this process answers with the store.
async fn compare_own(core: Arc<Core>) {
    for session in core.registry.all() {
        if session.has_lease() {
            compare_and_report(&core, &session).await;
        }
    }
}
