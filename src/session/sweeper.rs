//! Housekeeping: ends expired sessions, and sessions that another process has removed.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    core::{Core, PEER},
    live::registry::SessionHandle,
    model::{ErrorKind, Result, SessionId, Timestamp},
    ports::Page,
    turn::recovery,
};

/// Interval between two sweeps. A stream outlives its session by this at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Expired sessions that the store deletes at a time.
const SWEEP_BATCH: usize = 1000;

/// Active sessions that are compared with the store at a time.
const COMPARE_BATCH: usize = 1000;

/// Starts the housekeeping tasks. They end when the store is closed.
///
/// There are two of them, since a comparison of all active sessions with the store may take
/// long, and the expiry of streams must not wait for it.
pub(super) fn start(core: &Arc<Core>) {
    let expiry = Arc::clone(core);
    tokio::spawn(every_interval(Arc::clone(core), async move || expire(&expiry).await));
    let changes = Arc::clone(core);
    let mut pending = false;
    tokio::spawn(every_interval(Arc::clone(core), async move || {
        follow_changes(&changes, &mut pending).await;
    }));
}

async fn every_interval(core: Arc<Core>, mut work: impl AsyncFnMut()) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while core.closing.run_until_cancelled(ticks.tick()).await.is_some() {
        work().await;
    }
}

async fn expire(core: &Core) {
    let now = core.clock.now();
    for session in core.registry.expired(now) {
        match review(core, &session, now).await {
            Ok(()) => core.registry.review(&session),
            Err(error) if error.kind() == ErrorKind::SessionExpired => session.end(error.kind()),
            Err(error) => {
                tracing::error!(%error, cause = ?error, "failed to read session");
                core.registry.review(&session);
            }
        }
    }
    if let Err(error) = sweep_store(core, now).await {
        tracing::error!(%error, cause = ?error, "failed to delete expired sessions");
    }
}

/// Ends the streams whose token has expired. Fails with `SessionExpired` if the session has. A
/// renewal may be durable but not yet known here.
async fn review(core: &Core, session: &SessionHandle, now: Timestamp) -> Result<()> {
    let id = session.session().id;
    if session.expires_at() <= now {
        let snapshot = core.store.read(id, now, Page::HEAD).await?;
        session.renewed(snapshot.session.expires_at);
    }
    let due = session.due_tokens(now);
    if due.is_empty() {
        return Ok(());
    }
    let valid = core.store.tokens(id, now).await?;
    for token in due {
        let deadlines = valid.iter().find(|valid| valid.id == token).map(|it| it.deadlines);
        match deadlines {
            Some(Some((expires_at, _))) => session.token_renewed(token, expires_at),
            Some(None) => {}
            None => session.end_token(token, ErrorKind::SessionExpired),
        }
    }
    Ok(())
}

async fn sweep_store(core: &Core, now: Timestamp) -> Result<()> {
    // The next check of the active sessions must not wait until everything is deleted.
    let until = Instant::now() + SWEEP_INTERVAL / 2;
    loop {
        let swept = core.store.sweep(now, SWEEP_BATCH).await?;
        for id in swept.sessions {
            core.metrics.session_ended(ErrorKind::SessionExpired);
            tracing::info!(target: PEER, session = %id, reason = "expired", "session ended");
        }
        if !swept.more || Instant::now() >= until || core.closing.is_cancelled() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// Follows what another process, such as a command of the operator, did to the store. `pending`
/// remembers a change whose handling failed.
async fn follow_changes(core: &Arc<Core>, pending: &mut bool) {
    match core.store.written_elsewhere().await {
        Ok(written) => *pending |= written,
        Err(error) => {
            return tracing::error!(%error, cause = ?error, "failed to ask the store for changes");
        }
    }
    if !*pending || core.draining.is_cancelled() {
        return;
    }
    match handle_changes(core).await {
        Ok(()) => *pending = false,
        Err(error) => {
            tracing::error!(%error, cause = ?error, "failed to follow changes of the store");
        }
    }
}

async fn handle_changes(core: &Arc<Core>) -> Result<()> {
    for batch in core.registry.all().chunks(COMPARE_BATCH) {
        end_removed(core, batch).await?;
    }
    recovery::resume_all(core, None).await
}

/// Ends sessions that are no longer in the store, or that were replaced by an older state.
async fn end_removed(core: &Core, sessions: &[SessionHandle]) -> Result<()> {
    // The heads that are known here are read first: the store's can only be newer.
    let known: Vec<_> = sessions.iter().map(|session| session.head_seq()).collect();
    let ids: Vec<SessionId> = sessions.iter().map(|session| session.session().id).collect();
    let heads = core.store.heads(&ids, core.clock.now()).await?;
    let mut heads = heads.into_iter().peekable();
    for (session, known) in sessions.iter().zip(known) {
        let own = session.session();
        // `heads` has the order of the ids, without the ids of missing sessions.
        let head = heads.next_if(|head| head.session == own.id);
        let is_current = head.is_some_and(|head| head.epoch == own.epoch && head.seq >= known);
        // A session that has expired meanwhile is ended by `expire`.
        let has_expired = session.expires_at() <= core.clock.now();
        if !is_current && !has_expired && session.revoke() {
            core.record_revoked(own.id);
        }
    }
    Ok(())
}
