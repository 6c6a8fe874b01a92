//! How a gateway begins, keeps its house, and ends.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Clock, Error, ErrorKind, Event, Responder, Result, Settings, Store, Timestamp, Unfinished,
    gateway::{Core, Gateway, HEAD, come_back},
    live::Turn,
    metrics::Metrics,
};

/// How often expired sessions are looked for. A stream outlives its session by this
/// at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Sessions that a store deletes at a time.
const SWEEP_BATCH: usize = 1000;

/// What a shutdown did with the replies that were under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// They ended by themselves.
    Finished,
    /// Some had to be committed as interrupted.
    Interrupted,
}

impl Gateway {
    /// Takes up the turns that an earlier process left unanswered, and starts to look
    /// for sessions that expire; call it on a runtime, before anyone can connect.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        responder: Arc<dyn Responder>,
    ) -> Result<Self> {
        let core = Core {
            settings,
            store,
            responder,
            clock: Clock::start(),
            metrics: Metrics::new(),
            registry: Arc::default(),
            draining: CancellationToken::new(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let gateway = Self { core: Arc::new(core) };
        gateway.resume_turns().await?;
        tokio::spawn(gateway.clone().sweep_until_ended());
        Ok(gateway)
    }

    /// Shuts down: refuses new work, tells every watcher to come back, lets replies
    /// finish until `deadline`, then commits what there is of them as interrupted.
    pub async fn drain(&self, deadline: Instant) -> Drained {
        /// How long an interrupted reply may take to be committed.
        const COMMIT_GRACE: Duration = Duration::from_secs(2);
        self.core.draining.cancel();
        let live = self.core.registry.all();
        for live in live {
            live.drain(|| Event::GoAway(come_back()));
        }
        self.tasks().close();
        if timeout_at(deadline, self.tasks().wait()).await.is_ok() {
            self.close_store().await;
            return Drained::Finished;
        }
        for live in self.core.registry.all() {
            live.interrupt();
        }
        if timeout_at(Instant::now() + COMMIT_GRACE, self.tasks().wait()).await.is_err() {
            tracing::error!("replies could not be committed before the gateway's end");
        }
        self.close_store().await;
        Drained::Interrupted
    }

    async fn close_store(&self) {
        self.core.ended.cancel();
        if let Err(error) = self.store().close().await {
            tracing::error!(%error, cause = ?error, "the store could not be closed");
        }
    }

    /// Waits until the store has failed for good.
    pub async fn store_failed(&self) -> Error {
        self.store().failed().await
    }

    async fn resume_turns(&self) -> Result<()> {
        const BATCH: usize = 256;
        let mut after = None;
        loop {
            let batch = self.store().unfinished(self.clock().now(), after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some((last.session.id, last.message.seq));
            for turn in batch {
                let live = match self.enter_found(turn.session.id).await {
                    Ok(live) => live,
                    // It expired just now.
                    Err(error) if error.kind() == ErrorKind::SessionExpired => continue,
                    Err(error) => return Err(error),
                };
                tracing::info!(session = %turn.session.id, "a turn left unanswered is taken up");
                let Unfinished { message, attempt, text, .. } = turn;
                let turn = Turn { message, attempt: attempt + 1, kept: text.into() };
                self.run_turns(&live, live.resume(turn));
            }
        }
    }

    async fn sweep_until_ended(self) {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.core.ended.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sweep().await;
        }
    }

    async fn sweep(&self) {
        let now = self.clock().now();
        for live in self.core.registry.expired(now) {
            // A renewal may be durable and not known here yet.
            match self.store().read(live.session().id, now, HEAD).await {
                Ok(snapshot) => {
                    live.renewed(snapshot.session.expires_at);
                    self.core.registry.review(&live);
                }
                Err(error) if error.kind() == ErrorKind::SessionExpired => live.end(error.kind()),
                Err(error) => {
                    tracing::error!(%error, cause = ?error, "a session could not be looked at");
                    self.core.registry.review(&live);
                }
            }
        }
        if let Err(error) = self.sweep_store(now).await {
            tracing::error!(%error, cause = ?error, "expired sessions could not be deleted");
        }
    }

    async fn sweep_store(&self, now: Timestamp) -> Result<()> {
        loop {
            let swept = self.store().sweep(now, SWEEP_BATCH).await?;
            for id in swept.sessions {
                self.core.metrics.session_ended(ErrorKind::SessionExpired);
                tracing::info!(session = %id, reason = "expired", "session ended");
            }
            if !swept.more || self.core.ended.is_cancelled() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}
