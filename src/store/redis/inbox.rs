//! The inbox of this node: a connection that carries nothing but notes and messages.
//!
//! Redis counts all that it sends on a connection with a subscription against the limit of pub/sub
//! clients, so that commands have a connection of their own. A node that falls behind is cut off by
//! the server, connects again, and compares its sessions with the store.

use std::time::Duration;

use redis::{Client, Cmd, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{keys::Keys, link::Link, peer_codec};
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
    closing: CancellationToken,
}

impl Inbox {
    /// Starts to listen. Reports an interruption whenever notes may have been lost.
    ///
    /// # Errors
    /// The server refuses the connection or the subscription.
    pub(super) async fn start(
        client: Client,
        keys: &Keys,
        node: NodeId,
    ) -> redis::RedisResult<Self> {
        let (report, received) = unbounded_channel();
        let closing = CancellationToken::new();
        let channels = (0..=u8::MAX).map(|partition| keys.inbox(partition, &node.to_bytes()));
        let listener = Listener { client, channels: channels.collect(), node, report };
        // Connected before the first session is entered.
        let connected = listener.connect().await?;
        tokio::spawn(closing.clone().run_until_cancelled_owned(listener.run(connected)));
        Ok(Self { received: Mutex::new(received), closing })
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

/// A connection, and what arrives on it.
type Connected = (MultiplexedConnection, UnboundedReceiver<PushInfo>);

struct Listener {
    client: Client,
    channels: Vec<Vec<u8>>,
    node: NodeId,
    report: UnboundedSender<Received>,
}

impl Listener {
    async fn run(self, first: Connected) {
        let mut connected = Some(first);
        loop {
            if let Some((_connection, mut pushed)) = connected {
                self.listen(&mut pushed).await;
            }
            sleep(RETRY_DELAY).await;
            connected = match self.connect().await {
                Ok(connected) => {
                    metrics::counter!("duologue_redis_inbox_reconnects_total").increment(1);
                    let _told = self.report.send(Received::Interrupted);
                    Some(connected)
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to connect the inbox");
                    None
                }
            };
        }
    }

    async fn connect(&self) -> redis::RedisResult<Connected> {
        let (pushes, pushed) = unbounded_channel();
        let config = Link::config().set_push_sender(pushes);
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        for channel in &self.channels {
            let mut subscribe = Cmd::new();
            subscribe.arg("SSUBSCRIBE").arg(&channel[..]);
            subscribe.exec_async(&mut connection).await?;
        }
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
