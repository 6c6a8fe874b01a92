//! The health of an upstream, shared by all replies.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::responder::upstream::{Effect, Reason, backoff};

/// Time that an upstream with a permanent failure is avoided, if there is another.
const REFUSED: Duration = Duration::from_secs(60);

/// The health of one upstream.
#[derive(Debug, Default)]
pub(super) struct UpstreamHealth(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Failures in a row.
    failures: u32,
    /// It has answered since the last failure.
    answered: bool,
    /// It is avoided until then, if there is another upstream.
    avoid_until: Option<Instant>,
}

impl UpstreamHealth {
    pub(super) fn succeeded(&self) {
        *self.state() = State { answered: true, ..State::default() };
    }

    pub(super) fn failed(&self, reason: Reason) {
        let mut state = self.state();
        let avoid = match reason.effect() {
            Effect::Request => return,
            Effect::Permanent => REFUSED,
            Effect::Transient => {
                state.answered = false;
                state.failures = state.failures.saturating_add(1);
                backoff::jittered(state.failures)
            }
        };
        state.avoid_until = state.avoid_until.max(Some(Instant::now() + avoid));
    }

    /// Returns true if another upstream should be preferred.
    pub(super) fn is_avoided(&self) -> bool {
        self.state().avoid_until.is_some_and(|until| until > Instant::now())
    }

    /// Returns true if there may be a connection to reuse, which the upstream may close at any
    /// time.
    pub(super) fn has_answered(&self) -> bool {
        self.state().answered
    }

    /// Reserves a probe for one reply. The others avoid the upstream meanwhile.
    pub(super) fn probe(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            let until = Instant::now() + backoff::jittered(state.failures);
            state.avoid_until = state.avoid_until.max(Some(until));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the fields consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_success_resets_the_failures() {
        let health = UpstreamHealth::default();
        assert!(!health.is_avoided());
        health.failed(Reason::Unavailable);
        assert!(health.is_avoided());
        assert!(!health.has_answered());
        health.succeeded();
        assert!(!health.is_avoided() && health.has_answered());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_goes_on_failing_is_avoided_for_longer() {
        let health = UpstreamHealth::default();
        let mut before = Duration::ZERO;
        for _ in 0..4 {
            health.failed(Reason::Unavailable);
            let since = Instant::now();
            while health.is_avoided() {
                tokio::time::advance(Duration::from_millis(50)).await;
            }
            assert!(since.elapsed() > before);
            before = since.elapsed();
        }
        health.probe();
        assert!(health.is_avoided());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_a_request_do_not_change_the_health() {
        let health = UpstreamHealth::default();
        for reason in [Reason::ContextTooLong, Reason::Rejected, Reason::Overloaded] {
            health.failed(reason);
        }
        assert!(!health.is_avoided());
        health.failed(Reason::Auth);
        assert!(health.is_avoided());
    }
}
