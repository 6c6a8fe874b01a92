//! Turns that no process runs: left unanswered by an earlier process, or imported.

use std::sync::Arc;

use super::runner::TurnRunner;
use crate::session::{
    core::Core,
    live::{Turn, registry::SessionHandle},
    model::{ErrorKind, MessageId, Result},
    ports::{NodeId, Unfinished},
};

/// Turns that are read at a time.
const BATCH: usize = 256;

/// Starts the turns that no process answers: at the start of this process, and after an import.
/// With `from`: the turns of this process, too, which has ended.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn resume_all(core: &Arc<Core>, from: Option<NodeId>) -> Result<()> {
    let mut after = None;
    loop {
        let batch = core.turns.take_over(from, after, BATCH, core.clock.now()).await?;
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some((last.session.id, last.message.seq));
        if from.is_some() {
            core.metrics.taken_over(batch.len());
        }
        for turn in batch {
            match resume_unless_active(core, &turn).await {
                // The session has ended meanwhile.
                Err(error) if error.kind() == ErrorKind::SessionExpired => {}
                resumed => resumed?,
            }
        }
    }
}

/// Starts those of the given turns that wait. None of them may be queued or running: the store is
/// read afterwards, and shows which of them have been answered meanwhile.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn resume_idle(
    core: &Arc<Core>,
    session: &SessionHandle,
    idle: &[MessageId],
    attempt: Attempt,
) -> Result<()> {
    let turns = core.turns.unanswered(session.session().id, core.clock.now()).await?;
    for turn in turns {
        if idle.contains(&turn.message.id) && session.needs_turn_for(&turn.message) {
            resume(core, session, turn, attempt);
        }
    }
    Ok(())
}

async fn resume_unless_active(core: &Arc<Core>, turn: &Unfinished) -> Result<()> {
    let id = turn.session.id;
    if core.registry.get(id).is_some_and(|active| !active.needs_turn_for(&turn.message)) {
        return Ok(());
    }
    let session = core.load_session(id).await?;
    if session.needs_turn_for(&turn.message) {
        resume_idle(core, &session, &[turn.message.id], Attempt::Next).await?;
    }
    Ok(())
}

/// The attempt with which a turn is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Attempt {
    /// The one after the last: its process has ended.
    Next,
    /// The same: its process has handed it over before it began.
    Same,
}

fn resume(core: &Arc<Core>, session: &SessionHandle, turn: Unfinished, attempt: Attempt) {
    // A shutdown that has begun would not wait for it.
    if core.draining.is_cancelled() {
        return;
    }
    tracing::info!(session = %turn.session.id, seq = turn.message.seq, "resuming an unanswered turn");
    let Unfinished { lease, message, attempt: last, partial, .. } = turn;
    let attempt = last.saturating_add(u32::from(attempt == Attempt::Next));
    let turn = Turn { attempt, partial, ..Turn::new(message, lease) };
    TurnRunner::start(core, session, session.resume(turn));
}
