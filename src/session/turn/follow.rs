//! Follows a session whose log grew without this process: by another process, or by an append whose
//! answer was lost.

use std::sync::Arc;

use super::{
    enter::enter_again,
    recovery::{self, Attempt},
    runner::TurnRunner,
};
use crate::session::{
    core::Core,
    live::{Published, registry::SessionHandle},
    model::{Result, SessionId},
};

/// Compares an active session with the store. Publishes the messages that are missing, begins the
/// turns that are left to this process, and ends a session that is gone or was replaced.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn follow(core: &Arc<Core>, session: &SessionHandle) -> Result<()> {
    let Some(entered) = enter_again(core, session).await? else { return Ok(()) };
    let published = session.follow(&entered);
    TurnRunner::start(core, session, published);
    catch_up_if_behind(core, session, published).await;
    let idle = session.unqueued_turns();
    if idle.is_empty() {
        return Ok(());
    }
    recovery::resume_idle(core, session, &idle, Attempt::Next).await
}

/// Begins the turns that another process has handed over to this one.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn begin_handed_over(core: &Arc<Core>, id: SessionId) -> Result<()> {
    let session = core.load_session(id).await?;
    let entered = core.peers.enter(id, core.clock.now(), Some(session.known())).await?;
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
