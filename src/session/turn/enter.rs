//! Enters a session again, whose log may have changed or been lost since.

use crate::session::{
    core::Core,
    live::registry::SessionHandle,
    model::{ErrorKind, Result},
    ports::Entered,
};

/// Enters an active session again. Returns nothing if it has ended: it is gone, it was replaced, or the
/// store has lost messages and the clients must learn another epoch. Its turns begin again then, when
/// no stream of the earlier epoch is left.
///
/// # Errors
/// An error of the store.
pub(in crate::session) async fn enter_again(
    core: &Core,
    session: &SessionHandle,
) -> Result<Option<Entered>> {
    let own = session.session();
    // Before the read: this process may publish more messages meanwhile.
    let known = session.known();
    let entered = match core.peers.enter(own.id, core.clock.now(), Some(known.clone())).await {
        Err(error) if error.kind() == ErrorKind::SessionExpired => {
            core.end_gone(session);
            return Ok(None);
        }
        entered => entered?,
    };
    if entered.lost > 0 {
        core.metrics.lost_messages(entered.lost);
        let lost = entered.lost;
        tracing::error!(session = %own.id, lost, "the store was restarted and has lost messages");
    }
    if entered.earlier.as_ref().is_some_and(|earlier| earlier.epoch == own.epoch) {
        session.end(ErrorKind::StoreUnavailable);
        return Ok(None);
    }
    if entered.session.epoch != own.epoch || entered.head_seq < known.seq {
        // An operator has replaced it by an older state.
        if session.revoke() {
            core.record_revoked(own.id);
        }
        return Ok(None);
    }
    Ok(Some(entered))
}
