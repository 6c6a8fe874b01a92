//! Cancellation of a running reply.

use std::{
    future::poll_fn,
    sync::PoisonError,
    task::{Poll, Waker},
};

use crate::session::sync::{Mutex, MutexGuard};

/// Why a reply ends before its responder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum CancelReason {
    /// A client stopped the reply.
    Stop,
    /// The gateway shuts down.
    Interrupt,
    /// The session expired or was revoked.
    Ended,
    /// Another process answers the turns of the session.
    LeaseLost,
}

/// Carries a [`CancelReason`] to the task that runs the reply. The first reason wins.
///
/// Not a `CancellationToken` of tokio-util: that carries no reason, and allocates a tree node
/// for each reply.
#[derive(Debug, Default)]
pub(in crate::session) struct CancelSignal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reason: Option<CancelReason>,
    waiter: Option<Waker>,
}

impl CancelSignal {
    /// Cancels the reply. Does nothing if it is cancelled already.
    pub(in crate::session) fn cancel(&self, reason: CancelReason) {
        let mut state = self.state();
        state.reason.get_or_insert(reason);
        let waiter = state.waiter.take();
        drop(state);
        // Not under the lock, which the waiter takes first.
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Waits until the reply is cancelled. Supports one waiter: only the last one is woken.
    pub(in crate::session) async fn cancelled(&self) -> CancelReason {
        poll_fn(|cx| {
            let mut state = self.state();
            if let Some(reason) = state.reason {
                return Poll::Ready(reason);
            }
            match &mut state.waiter {
                Some(waiter) => waiter.clone_from(cx.waker()),
                waiter => *waiter = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Returns why the reply was cancelled, if it was.
    pub(in crate::session) fn reason(&self) -> Option<CancelReason> {
        self.state().reason
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
