//! Stops a turn, in this process or in the one that answers it.

use std::sync::Arc;

use crate::session::{
    core::Core,
    eager_task::{EagerTask, spawn_eager},
    live::registry::SessionHandle,
    model::{Result, SessionId},
};

/// Stops the turn of a user message's number, or without a number the first one. `active` is the
/// session if it is active in this process. The result is false if there is no such turn, or if it
/// has been answered.
pub(in crate::session) fn stop(
    core: &Arc<Core>,
    id: SessionId,
    active: Option<&SessionHandle>,
    seq: Option<u32>,
) -> EagerTask<Result<bool>> {
    let is_stopped = active.is_some_and(|active| active.stop(seq));
    let is_ours = !core.peers.is_shared() || active.is_some_and(|active| active.has_lease());
    if is_stopped || is_ours {
        return EagerTask::Done(Ok(is_stopped));
    }
    let core = Arc::clone(core);
    spawn_eager(async move { core.turns.stop(id, seq, core.clock.now()).await })
}
