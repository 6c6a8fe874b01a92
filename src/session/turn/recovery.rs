//! Turns that no process runs: left unanswered by an earlier process, or imported.

use std::sync::Arc;

use super::runner::TurnRunner;
use crate::session::{
    core::Core,
    live::{ActiveSession, Turn, registry::SessionHandle},
    model::{ErrorKind, Result},
    ports::Unfinished,
};

/// Turns that are read at a time.
const BATCH: usize = 256;

/// Starts the turns that an earlier process left unanswered. No client may be connected yet.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn resume_all(core: &Arc<Core>) -> Result<()> {
    let mut after = None;
    // The last session of a batch may have turns in the next one. It stays active, since the
    // head that a batch knows is older than the replies to its turns.
    let mut _last: Option<SessionHandle> = None;
    loop {
        let batch = core.store.unfinished(core.clock.now(), after, BATCH).await?;
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some((last.session.id, last.message.seq));
        let mut sessions = Vec::with_capacity(batch.len());
        for turn in &batch {
            let active = ActiveSession::new(turn.session.clone(), turn.head_seq);
            let load = async { Ok(active) };
            sessions.push(core.registry.get_or_load(turn.session.id, load).await?);
        }
        for (session, turn) in sessions.iter().zip(batch) {
            resume(core, session, turn);
        }
        _last = sessions.pop();
    }
}

/// Starts the turns of sessions that another process has imported into the store.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn resume_imported(core: &Arc<Core>) -> Result<()> {
    let mut after = None;
    loop {
        let batch = core.store.unfinished(core.clock.now(), after, BATCH).await?;
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some((last.session.id, last.message.seq));
        for turn in batch {
            match resume_if_unowned(core, &turn).await {
                Err(error) if error.kind() == ErrorKind::SessionExpired => {}
                resumed => resumed?,
            }
        }
    }
}

/// Starts a turn that is published but neither queued nor running. It was answered after the store
/// was read, or it was imported: reading it again shows which.
async fn resume_if_unowned(core: &Arc<Core>, turn: &Unfinished) -> Result<()> {
    let id = turn.session.id;
    if core.registry.get(id).is_some_and(|active| !active.needs_turn_for(&turn.message)) {
        return Ok(());
    }
    let session = core.load_session(id).await?;
    if !session.needs_turn_for(&turn.message) {
        return Ok(());
    }
    let before = Some((id, turn.message.seq - 1));
    let again = core.store.unfinished(core.clock.now(), before, 1).await?;
    if let Some(again) = again.into_iter().find(|again| again.message.id == turn.message.id) {
        resume(core, &session, again);
    }
    Ok(())
}

fn resume(core: &Arc<Core>, session: &SessionHandle, turn: Unfinished) {
    // A shutdown that has begun would not wait for it.
    if core.draining.is_cancelled() {
        return;
    }
    tracing::info!(session = %turn.session.id, seq = turn.message.seq, "resuming an unanswered turn");
    let Unfinished { message, attempt, partial, .. } = turn;
    let turn = Turn { attempt: attempt.saturating_add(1), partial, ..Turn::new(message) };
    TurnRunner::start(core, session, session.resume(turn));
}
