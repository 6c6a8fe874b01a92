//! The inbox of this node: a connection that carries nothing but notes and messages.
//!
//! Redis counts all that it sends on a connection with a subscription against the limit of pub/sub
//! clients, so that commands have a connection of their own. A node that falls behind is cut off by
//! the server, connects again, and compares its sessions with the store.

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    keys::Keys,
    link::{Link, Route},
    peer_codec,
    server::Server,
};
use crate::session::{NodeId, Received};

/// Longest time without a probe. After it, the connection is replaced: after a failover it may lead to
/// a server to which no node publishes.
const SILENT: Duration = Duration::from_secs(3);

/// Wait before the next attempt to connect.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The notes and messages that have arrived.
#[derive(Debug)]
pub(super) struct Inbox {
    received: Mutex<UnboundedReceiver<Received>>,
    report: UnboundedSender<Received>,
    closing: CancellationToken,
}

impl Inbox {
    /// Starts to listen on each server. Reports an interruption whenever notes may have been lost.
    ///
    /// # Errors
    /// A server refuses the connection or the subscription.
    pub(super) async fn start(link: Arc<Link>, keys: Arc<Keys>, node: NodeId) -> RedisResult<Self> {
        let (report, received) = unbounded_channel();
        let closing = CancellationToken::new();
        let mut listeners = Listeners {
            link,
            keys,
            node,
            report: report.clone(),
            closing: closing.clone(),
            running: Vec::new(),
        };
        let changes = listeners.link.changes();
        // Connected before the first session is entered.
        let route = listeners.link.route();
        for server in &route.servers {
            let listener = listeners.of(&route, server);
            let connected = listener.connect().await?;
            listeners.run(listener, Some(connected));
        }
        tokio::spawn(closing.clone().run_until_cancelled_owned(listeners.follow(changes)));
        Ok(Self { received: Mutex::new(received), report, closing })
    }

    /// Returns an inbox that never receives anything, for the commands of the operator.
    pub(super) fn silent() -> Self {
        let (report, received) = unbounded_channel();
        Self { received: Mutex::new(received), report, closing: CancellationToken::new() }
    }

    /// Reports something that the store itself has noticed.
    pub(super) fn report(&self, received: Received) {
        let _told = self.report.send(received);
    }

    /// Waits for the next report. Cancel safe.
    pub(super) async fn next(&self) -> Received {
        match self.received.lock().await.recv().await {
            Some(received) => received,
            None => std::future::pending().await,
        }
    }

    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The listeners of all servers.
struct Listeners {
    link: Arc<Link>,
    keys: Arc<Keys>,
    node: NodeId,
    report: UnboundedSender<Received>,
    closing: CancellationToken,
    running: Vec<Running>,
}

/// A listener that runs. Dropping this ends it.
struct Running {
    server: Arc<Server>,
    channels: Vec<Vec<u8>>,
    _ends: DropGuard,
}

impl Listeners {
    /// Returns the listener of a server.
    fn of(&self, route: &Route, server: &Arc<Server>) -> Listener {
        let name = self.node.to_bytes();
        let channels = route.partitions(server).map(|it| self.keys.inbox(it, &name).name);
        Listener {
            link: Arc::clone(&self.link),
            server: Arc::clone(server),
            channels: channels.collect(),
            node: self.node,
            report: self.report.clone(),
        }
    }

    fn run(&mut self, listener: Listener, connected: Option<Connected>) {
        let ends = self.closing.child_token();
        self.running.push(Running {
            server: Arc::clone(&listener.server),
            channels: listener.channels.clone(),
            _ends: ends.clone().drop_guard(),
        });
        tokio::spawn(ends.run_until_cancelled_owned(listener.run(connected)));
    }

    /// Follows partitions to other servers.
    async fn follow(mut self, mut changes: tokio::sync::watch::Receiver<u64>) {
        while changes.changed().await.is_ok() {
            let route = self.link.route();
            let wanted: Vec<_> =
                route.servers.iter().map(|server| self.of(&route, server)).collect();
            let is_same = |running: &Running, wanted: &Listener| {
                Arc::ptr_eq(&running.server, &wanted.server) && running.channels == wanted.channels
            };
            self.running.retain(|running| wanted.iter().any(|wanted| is_same(running, wanted)));
            for listener in wanted {
                if !self.running.iter().any(|running| is_same(running, &listener)) {
                    self.run(listener, None);
                }
            }
        }
    }
}

/// A connection, and what arrives on it.
type Connected = (MultiplexedConnection, UnboundedReceiver<PushInfo>);

/// The inbox on one server.
struct Listener {
    link: Arc<Link>,
    server: Arc<Server>,
    channels: Vec<Vec<u8>>,
    node: NodeId,
    report: UnboundedSender<Received>,
}

impl Listener {
    async fn run(self, first: Option<Connected>) {
        let mut connected = first;
        loop {
            if let Some((_connection, mut pushed)) = connected {
                self.listen(&mut pushed).await;
                self.link.refresh(&self.link.route()).await;
                sleep(RETRY_DELAY).await;
            }
            connected = match self.connect().await {
                Ok(connected) => {
                    metrics::counter!("duologue_redis_inbox_reconnects_total").increment(1);
                    let was_emptied = self.link.was_emptied().await.unwrap_or(false);
                    let report =
                        if was_emptied { Received::Emptied } else { Received::Interrupted };
                    let _told = self.report.send(report);
                    Some(connected)
                }
                Err(error) => {
                    tracing::debug!(%error, server = ?self.server, "failed to connect the inbox");
                    self.link.refresh(&self.link.route()).await;
                    sleep(RETRY_DELAY).await;
                    None
                }
            };
        }
    }

    async fn connect(&self) -> RedisResult<Connected> {
        let (pushes, pushed) = unbounded_channel();
        let config = self.link.deployment().config().set_push_sender(pushes);
        let client = &self.server.client;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // One command for each channel: in a cluster their slots differ.
        let subscribed = self.channels.iter().map(|channel| async {
            let mut subscribe = Cmd::new();
            subscribe.arg("SSUBSCRIBE").arg(&channel[..]);
            subscribe.exec_async(&mut connection.clone()).await
        });
        try_join_all(subscribed).await?;
        Ok((connection, pushed))
    }

    /// Reports what arrives, until the connection ends or is silent for too long.
    async fn listen(&self, pushed: &mut UnboundedReceiver<PushInfo>) {
        loop {
            let push = match timeout(SILENT, pushed.recv()).await {
                Ok(Some(push)) => push,
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!("no probe has arrived in the inbox; connecting again");
                    return;
                }
            };
            match push.kind {
                PushKind::SMessage => self.take(&push.data),
                // The server has taken the channel away: its slot moves, or it is a replica now.
                PushKind::Disconnection | PushKind::SUnsubscribe => return,
                _ => {}
            }
        }
    }

    fn take(&self, data: &[Value]) {
        let [_, Value::BulkString(payload)] = data else { return };
        match peer_codec::received(self.node, payload) {
            Ok(all) => {
                for received in all {
                    if matches!(received, Received::Note(..)) {
                        metrics::counter!("duologue_notes_total").increment(1);
                    }
                    let _told = self.report.send(received);
                }
            }
            // Possibly from a later version. The comparison with the store makes up for it.
            Err(error) => {
                tracing::warn!(%error, cause = ?error, "a message of another node was ignored")
            }
        }
    }
}
