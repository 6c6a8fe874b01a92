//! The state that every operation of the core shares.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    address_label::AddressLabels,
    caller::Caller,
    live::{
        ActiveSession,
        registry::{Registry, SessionHandle},
    },
    living_peers::LivingPeers,
    metrics::Metrics,
    model::{Clock, Error, ErrorKind, Result, Session, SessionId, Timestamp, TokenHash, TokenId},
    outbox::{Asked, Outbox},
    ports::{AppendLimits, Authenticator, FoundSession, NodeId, Peers, Responder, Store, Turns},
    quota::{Accounts, Quota},
    revoked_tokens::RevokedTokens,
    settings::Settings,
};

/// Log target of lines that a peer without a token can cause: such lines are rate-limited. The
/// same as `telemetry::PEER`, which the core does not import.
pub(super) const PEER: &str = "duologue::peer";

/// Delays before a client reconnects after a drain.
const RECONNECT_DELAY: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(5);

pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) store: Arc<dyn Store>,
    pub(super) turns: Arc<dyn Turns>,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) responder: Arc<dyn Responder>,
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) registry: Arc<Registry>,
    pub(super) outbox: Outbox,
    /// Sessions whose owner was asked for its replies.
    pub(super) asked: Asked,
    pub(super) living: LivingPeers,
    pub(super) revoked_tokens: RevokedTokens,
    pub(super) quota: Quota,
    pub(super) addresses: AddressLabels,
    /// Cancelled when the shutdown begins: no new work is accepted.
    pub(super) draining: CancellationToken,
    /// Cancelled before the store is closed: nothing is written any more.
    pub(super) closing: CancellationToken,
    /// Work that a shutdown waits for.
    pub(super) tasks: TaskTracker,
}

impl Core {
    /// Refuses new work once the gateway shuts down.
    pub(super) fn check_serving(&self) -> Result<()> {
        if self.draining.is_cancelled() {
            return Err(Error::from(ErrorKind::Draining).retry_after(reconnect_delay()));
        }
        Ok(())
    }

    /// Counts and logs the end of a revoked session.
    pub(super) fn record_revoked(&self, id: SessionId) {
        self.metrics.session_ended(ErrorKind::SessionRevoked);
        tracing::info!(session = %id, reason = "revoked", "session ended");
    }

    /// Moves the idle deadline of a token. A store that is full, or closed to writes by a shutdown,
    /// can still be read: the session stays as it is.
    pub(super) async fn renew(&self, found: FoundSession) -> Result<Session> {
        let FoundSession { session, token } = found;
        let now = self.clock.now();
        let expires_at = now.plus(self.settings.session_ttl);
        match self.store.renew(session.id, token.id, now, expires_at).await {
            Ok(renewed) => {
                if let Some(active) = self.registry.get(session.id) {
                    match token.deadlines {
                        Some(_) => active.token_renewed(token.id, renewed.expires_at),
                        None => active.renewed(renewed.expires_at),
                    }
                }
                Ok(renewed)
            }
            Err(error) if error.kind() == ErrorKind::StoreFull || self.closing.is_cancelled() => {
                tracing::warn!(session = %session.id, %error, "session was read but not renewed");
                Ok(session)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns true if a session still has its first, shorter deadline: it has not been used.
    pub(super) fn is_unused(&self, session: &Session) -> bool {
        /// The creation and the deadline come from two clocks.
        const TOLERANCE: Duration = Duration::from_secs(1);
        let usual = self.token_deadlines(session.created_at).0;
        session.subject.is_none() && session.expires_at.plus(TOLERANCE) < usual
    }

    /// Returns the limits of an append with a token.
    pub(super) fn append_limits(&self, token: TokenId) -> AppendLimits {
        let now = self.clock.now();
        AppendLimits {
            now,
            token,
            expires_at: now.plus(self.settings.session_ttl),
            delete_at: self.delete_at(now).unwrap_or(Timestamp::NEVER),
            has_room: self.responder.has_room(),
            budgets: self.settings.budgets,
            max_queued_turns: self.settings.max_queued_turns,
            max_session_messages: self.settings.max_session_messages,
        }
    }

    /// Returns the idle deadline and the end of a token that is issued now.
    pub(super) fn token_deadlines(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        let Settings { session_ttl, session_max_age, .. } = self.settings;
        (now.plus(session_ttl.min(session_max_age)), now.plus(session_max_age))
    }

    /// Returns the time at which a session with an owner that is active now is deleted.
    pub(super) fn delete_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.settings.retention.map(|retention| now.plus(retention).min(Timestamp::NEVER))
    }

    /// Returns the session that a token opens for a caller, and the token.
    pub(super) async fn authenticate(
        &self,
        caller: &Caller,
        token: &TokenHash,
    ) -> Result<FoundSession> {
        let now = self.clock.now();
        self.quota.check_failures(caller.address, now)?;
        let found = self.store.find(token, now).await;
        if let Err(error) = &found
            && error.kind() == ErrorKind::SessionExpired
        {
            self.quota.count_failure(caller.address, now);
            let address = self.addresses.of(caller.address);
            tracing::debug!(target: PEER, address, "token refused");
        }
        let found = found?;
        if self.settings.access.bind_subject {
            caller.check_owner(&found.session)?;
        }
        Ok(found)
    }

    /// Returns the active session that a token opens for a caller, and the sender of a message to it.
    pub(super) async fn open_to_write(
        &self,
        caller: &Caller,
        token: &TokenHash,
    ) -> Result<(SessionHandle, Sender)> {
        let FoundSession { session, token } = self.authenticate(caller, token).await?;
        token.scope.check_write()?;
        let accounts = self.quota.accounts(caller, session.subject.as_ref());
        accounts.read_shares(&*self.store, self.clock.now()).await?;
        Ok((self.load_session(session.id).await?, Sender { token: token.id, accounts }))
    }

    /// Returns the active session of this id, loading it if necessary.
    pub(super) async fn load_session(&self, id: SessionId) -> Result<SessionHandle> {
        let load = async {
            let entered = self.peers.enter(id, self.clock.now(), None).await?;
            Ok(ActiveSession::new(entered))
        };
        self.registry.get_or_load(id, load).await
    }

    /// Asks the process that answers the turns of a session for its replies, if subscribers need them.
    pub(super) fn ask_owner(&self, session: &SessionHandle) {
        if let Some((owner, question)) = session.watch_request() {
            let id = session.session().id;
            self.outbox.post(owner, id, question);
            self.asked.add(id);
        }
    }

    /// Returns another process that can take turns over.
    pub(super) fn living_peer(&self) -> Option<NodeId> {
        self.living.any()
    }

    /// Ends a session that is no longer in the store: revoked if its deadline is still ahead.
    pub(super) fn end_gone(&self, session: &ActiveSession) {
        let is_revoked = session.expires_at() > self.clock.now();
        session.end(if is_revoked { ErrorKind::SessionRevoked } else { ErrorKind::SessionExpired });
    }
}

/// The sender of a message.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) token: TokenId,
    pub(super) accounts: Accounts,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// Returns how long a client should wait before it reconnects to a gateway that shuts down.
/// Random, so that clients do not reconnect all at once.
pub(super) fn reconnect_delay() -> Duration {
    let Range { start, end } = RECONNECT_DELAY;
    rand::rng().random_range(start..end)
}
