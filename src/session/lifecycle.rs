//! Start and shutdown of a gateway.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    address_label::AddressLabels,
    core::{Core, reconnect_delay},
    live::{event::Event, registry::Registry},
    living_peers::LivingPeers,
    metrics::Metrics,
    model::{Clock, Error, Result},
    outbox::{Asked, Outbox},
    peers,
    ports::{Authenticator, NoCredentials, Responder, Storage},
    quota::Quota,
    revoked_tokens::RevokedTokens,
    service::Gateway,
    settings::Settings,
    sweeper,
    turn::recovery,
};

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All running replies ended by themselves.
    Finished,
    /// Some replies were committed as interrupted.
    Interrupted,
}

impl Gateway {
    /// As [`Self::start_with`], without credentials.
    ///
    /// # Errors
    /// An error of the store.
    pub async fn start(
        settings: Settings,
        storage: Storage,
        responder: Arc<dyn Responder>,
    ) -> Result<Self> {
        Self::start_with(settings, storage, responder, Arc::new(NoCredentials)).await
    }

    /// Resumes the turns that an earlier process left unanswered, and starts the housekeeping.
    /// Must be called on a runtime, before any client can connect.
    ///
    /// # Errors
    /// An error of the store.
    pub async fn start_with(
        settings: Settings,
        storage: Storage,
        responder: Arc<dyn Responder>,
        authenticator: Arc<dyn Authenticator>,
    ) -> Result<Self> {
        let Storage { store, turns, peers } = storage;
        let core = Arc::new(Core {
            quota: Quota::new(settings.limits, store.secret().await?),
            addresses: AddressLabels::new(settings.log_addresses),
            settings,
            registry: Arc::new(Registry::new(peers.is_shared())),
            outbox: Outbox::new(Arc::clone(&peers)),
            asked: Asked::new(),
            living: LivingPeers::default(),
            store,
            turns,
            peers,
            responder,
            authenticator,
            clock: Clock::start(),
            metrics: Metrics::new(),
            revoked_tokens: RevokedTokens::default(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        peers::start(&core);
        recovery::resume_all(&core, None).await?;
        sweeper::start(&core);
        Ok(Self { core })
    }

    /// Shuts down: refuses new work, sends `go_away` to every subscriber, lets replies finish
    /// until `deadline`, then commits the rest as interrupted and closes the store.
    pub async fn drain(&self, deadline: Instant) -> Drained {
        /// Time for interrupted replies to be committed.
        const COMMIT_GRACE: Duration = Duration::from_secs(2);
        let core = &self.core;
        core.draining.cancel();
        let hands_over = core.living_peer().is_some();
        for session in core.registry.all() {
            session.drain(hands_over, || Event::GoAway(reconnect_delay()));
        }
        core.tasks.close();
        if timeout_at(deadline, core.tasks.wait()).await.is_ok() {
            self.close_store().await;
            return Drained::Finished;
        }
        for session in core.registry.all() {
            session.interrupt();
        }
        if timeout_at(Instant::now() + COMMIT_GRACE, core.tasks.wait()).await.is_err() {
            tracing::error!("failed to commit all interrupted replies in time");
        }
        self.close_store().await;
        Drained::Interrupted
    }

    async fn close_store(&self) {
        self.core.closing.cancel();
        if let Err(error) = self.core.store.close().await {
            tracing::error!(%error, cause = ?error, "failed to close the store");
        }
    }

    /// Waits until the store has failed for good.
    pub async fn store_failed(&self) -> Error {
        self.core.store.failed().await
    }
}
