//! What is remembered about an upstream, for all replies.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::responder::upstream::{Effect, Reason, backoff};

/// An upstream that fails for a reason which does not pass is left alone for so long, if
/// there is another.
const REFUSED: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UpstreamHealth(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// It has answered since it failed last.
    answered: bool,
    /// Not to be asked before if there is another.
    avoid_until: Option<Instant>,
}

impl UpstreamHealth {
    /// It answered.
    pub(super) fn succeeded(&self) {
        *self.state() = State { answered: true, ..State::default() };
    }

    /// It failed.
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

    /// Another one should be asked, if there is one.
    pub(super) fn is_avoided(&self) -> bool {
        self.state().avoid_until.is_some_and(|until| until > Instant::now())
    }

    /// A connection to it may be an old one, which it closes at any time.
    pub(super) fn has_answered(&self) -> bool {
        self.state().answered
    }

    /// One reply tries whether it is well again; the others go on to avoid it meanwhile.
    pub(super) fn probe(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            let until = Instant::now() + backoff::jittered(state.failures);
            state.avoid_until = state.avoid_until.max(Some(until));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its fields are written in one go each; a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn success_forgets_what_was() {
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
    async fn what_says_nothing_about_the_upstream_changes_nothing() {
        let health = UpstreamHealth::default();
        for reason in [Reason::ContextTooLong, Reason::Rejected, Reason::Overloaded] {
            health.failed(reason);
        }
        assert!(!health.is_avoided());
        health.failed(Reason::Auth);
        assert!(health.is_avoided());
    }
}
