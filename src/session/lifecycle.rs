//! How a gateway begins, keeps its house, and ends.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    core::{Core, HEAD, reconnect_delay},
    live::{ActiveSession, Turn, event::Event, registry::SessionHandle},
    metrics::Metrics,
    model::{Clock, Error, ErrorKind, Result, Timestamp},
    ports::{Responder, Snapshot, Store, Unfinished},
    service::Gateway,
    settings::Settings,
    turn::runner::TurnRunner,
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
            closing: CancellationToken::new(),
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
        let handles = self.core.registry.all();
        for handle in handles {
            handle.drain(|| Event::GoAway(reconnect_delay()));
        }
        self.core.tasks.close();
        if timeout_at(deadline, self.core.tasks.wait()).await.is_ok() {
            self.close_store().await;
            return Drained::Finished;
        }
        for handle in self.core.registry.all() {
            handle.interrupt();
        }
        if timeout_at(Instant::now() + COMMIT_GRACE, self.core.tasks.wait()).await.is_err() {
            tracing::error!("replies could not be committed before the gateway's end");
        }
        self.close_store().await;
        Drained::Interrupted
    }

    async fn close_store(&self) {
        self.core.closing.cancel();
        if let Err(error) = self.core.store.close().await {
            tracing::error!(%error, cause = ?error, "the store could not be closed");
        }
    }

    /// Waits until the store has failed for good.
    pub async fn store_failed(&self) -> Error {
        self.core.store.failed().await
    }

    async fn resume_turns(&self) -> Result<()> {
        const BATCH: usize = 256;
        let mut after = None;
        // The session that the last batch ended in may have turns in the next one. It stays
        // live, since the head that a batch knows is older than the replies to its turns.
        let mut _last: Option<SessionHandle> = None;
        loop {
            let batch = self.core.store.unfinished(self.core.clock.now(), after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some((last.session.id, last.message.seq));
            let mut lives = Vec::with_capacity(batch.len());
            for turn in &batch {
                let handle = ActiveSession::new(turn.session.clone(), turn.head_seq);
                let load = async { Ok(handle) };
                lives.push(self.core.registry.get_or_load(turn.session.id, load).await?);
            }
            for (handle, turn) in lives.iter().zip(batch) {
                self.resume_turn(handle, turn);
            }
            _last = lives.pop();
        }
    }

    fn resume_turn(&self, handle: &SessionHandle, turn: Unfinished) {
        // A shutdown that began meanwhile would not know of it.
        if self.is_draining() {
            return;
        }
        tracing::info!(session = %turn.session.id, "a turn left unanswered is taken up");
        let Unfinished { message, attempt, text, .. } = turn;
        let turn = Turn { message, attempt: attempt.saturating_add(1), partial: text.into() };
        TurnRunner::start(&self.core, handle, handle.resume(turn));
    }

    async fn sweep_until_ended(self) {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.core.closing.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sweep().await;
        }
    }

    async fn sweep(&self) {
        let now = self.core.clock.now();
        for handle in self.core.registry.expired(now) {
            // A renewal may be durable and not known here yet.
            match self.core.store.read(handle.session().id, now, HEAD).await {
                Ok(snapshot) => {
                    handle.renewed(snapshot.session.expires_at);
                    self.core.registry.review(&handle);
                }
                Err(error) if error.kind() == ErrorKind::SessionExpired => handle.end(error.kind()),
                Err(error) => {
                    tracing::error!(%error, cause = ?error, "a session could not be looked at");
                    self.core.registry.review(&handle);
                }
            }
        }
        if let Err(error) = self.sweep_store(now).await {
            tracing::error!(%error, cause = ?error, "expired sessions could not be deleted");
        }
    }

    /// Ends the live sessions that an operator has taken away: revoked, or revoked and put
    /// back as they were at an earlier time.
    async fn end_removed_sessions(&self) {
        for handle in self.core.registry.all() {
            let known = handle.head_seq();
            let gone = match self
                .core
                .store
                .read(handle.session().id, self.core.clock.now(), HEAD)
                .await
            {
                Ok(Snapshot { session, head_seq, .. }) => {
                    session.epoch != handle.session().epoch || head_seq < known
                }
                Err(error) => error.kind() == ErrorKind::SessionExpired,
            };
            // What has expired meanwhile is for the next look at the deadlines.
            let expired = handle.expires_at() <= self.core.clock.now();
            if gone && !expired && handle.revoke() {
                self.core.record_revoked(handle.session().id);
            }
        }
    }

    /// Takes up the turns of sessions that an operator has put there.
    async fn resume_imported_turns(&self) -> Result<()> {
        const BATCH: usize = 256;
        let mut after = None;
        loop {
            let batch = self.core.store.unfinished(self.core.clock.now(), after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some((last.session.id, last.message.seq));
            for turn in batch {
                match self.resume_if_unowned(&turn).await {
                    Err(error) if error.kind() == ErrorKind::SessionExpired => {}
                    taken_up => taken_up?,
                }
            }
        }
    }

    /// A turn that is published and neither waits nor runs has been answered here, or came
    /// from elsewhere; a second look at the store tells which.
    async fn resume_if_unowned(&self, turn: &Unfinished) -> Result<()> {
        let id = turn.session.id;
        if self.core.registry.get(id).is_some_and(|handle| !handle.needs_turn_for(&turn.message)) {
            return Ok(());
        }
        let handle = self.core.load_session(id).await?;
        if !handle.needs_turn_for(&turn.message) {
            return Ok(());
        }
        let before = Some((id, turn.message.seq - 1));
        let again = self.core.store.unfinished(self.core.clock.now(), before, 1).await?;
        if let Some(again) = again.into_iter().find(|again| again.message.id == turn.message.id) {
            self.resume_turn(&handle, again);
        }
        Ok(())
    }

    async fn sweep_store(&self, now: Timestamp) -> Result<()> {
        // The next look at the live sessions must not wait until all is deleted.
        let until = Instant::now() + SWEEP_INTERVAL / 2;
        loop {
            let swept = self.core.store.sweep(now, SWEEP_BATCH).await?;
            for id in swept.sessions {
                self.core.metrics.session_ended(ErrorKind::SessionExpired);
                tracing::info!(session = %id, reason = "expired", "session ended");
            }
            if swept.changed_elsewhere && !self.core.draining.is_cancelled() {
                self.end_removed_sessions().await;
                self.resume_imported_turns().await?;
            }
            if !swept.more || Instant::now() >= until || self.core.closing.is_cancelled() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}
