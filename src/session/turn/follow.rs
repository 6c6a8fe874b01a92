//! Follows a session whose log grew without this process: by another process, or by an append whose
//! answer was lost.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    recovery::{self, Attempt},
    runner::TurnRunner,
};
use crate::session::{
    core::Core,
    live::{Published, registry::SessionHandle},
    model::{ErrorKind, Result, SessionId},
};

/// Compares an active session with the store. Publishes the messages that are missing, begins the
/// turns that are left to this process, and ends a session that is gone or was replaced.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn follow(core: &Arc<Core>, session: &SessionHandle) -> Result<()> {
    let own = session.session();
    // Before the read: this process may publish more messages meanwhile.
    let known = session.position();
    let entered = match core.peers.enter(own.id, core.clock.now(), Some(known.clone())).await {
        Err(error) if error.kind() == ErrorKind::SessionExpired => {
            core.end_gone(session);
            return Ok(());
        }
        entered => entered?,
    };
    if entered.lost > 0 {
        core.metrics.lost_messages(entered.lost);
        tracing::error!(session = %own.id, lost = entered.lost, "the store was restarted and has lost messages");
    }
    if entered.earlier.as_ref().is_some_and(|earlier| earlier.epoch == own.epoch) {
        // The clients reconnect and learn the epoch.
        session.end(ErrorKind::StoreUnavailable);
        tokio::spawn(resume_under_new_epoch(Arc::clone(core), own.id));
        return Ok(());
    }
    if entered.session.epoch != own.epoch || entered.head_seq < known.seq {
        // An operator has replaced it by an older state.
        if session.revoke() {
            core.record_revoked(own.id);
        }
        return Ok(());
    }
    let published = session.follow(&entered);
    TurnRunner::start(core, session, published);
    catch_up_if_behind(core, session, published).await;
    let idle = session.unqueued_turns();
    if idle.is_empty() {
        return Ok(());
    }
    recovery::resume_idle(core, session, &idle, Attempt::Next).await
}

/// Begins the turns of a session whose log has another epoch, once no stream of the earlier one is
/// left.
async fn resume_under_new_epoch(core: Arc<Core>, id: SessionId) {
    const ATTEMPTS: u32 = 10;
    const WAIT: Duration = Duration::from_millis(500);
    for _ in 0..ATTEMPTS {
        sleep(WAIT).await;
        let Ok(session) = core.load_session(id).await else { continue };
        if session.check_readable().is_ok() {
            let idle = session.unqueued_turns();
            if let Err(error) = recovery::resume_idle(&core, &session, &idle, Attempt::Next).await {
                tracing::warn!(session = %id, %error, "failed to begin the turns of a session");
            }
            return;
        }
    }
}

/// Begins the turns that another process has handed over to this one.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn begin_handed_over(core: &Arc<Core>, id: SessionId) -> Result<()> {
    let session = core.load_session(id).await?;
    let entered = core.peers.enter(id, core.clock.now(), Some(session.position())).await?;
    let published = session.follow(&entered);
    TurnRunner::start(core, &session, published);
    catch_up_if_behind(core, &session, published).await;
    let idle = session.unqueued_turns();
    recovery::resume_idle(core, &session, &idle, Attempt::Same).await
}

/// Reads the missing part of the log, unless the runner that `published` starts does so. A runner
/// that runs already may be in a long reply.
pub(in crate::session) async fn catch_up_if_behind(
    core: &Arc<Core>,
    session: &SessionHandle,
    published: Published,
) {
    if published == Published::RunTurns || !session.has_gap() {
        return;
    }
    // Tries once: the runner repeats a failed attempt.
    if let Err(error) = TurnRunner::catch_up(core, session).await {
        tracing::error!(session = %session.session().id, %error, cause = ?error, "failed to catch up with the log");
    }
}
