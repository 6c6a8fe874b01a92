//! What is remembered about an upstream, for all replies.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    failure::Failed,
    retry,
};
use crate::responder::Reason;

/// An upstream that fails for a reason which does not pass is left alone for so long, if
/// there is another.
const REFUSED: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Not to be asked before: the upstream said so.
    not_before: Option<Instant>,
    /// Not to be asked before if there is another.
    avoid_until: Option<Instant>,
}

impl Health {
    /// It answered.
    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        // An answer that began before says nothing of a wait that was asked for since.
        let not_before = state.not_before;
        *state = State { failures: 0, not_before, avoid_until: not_before };
    }

    /// It failed.
    pub(super) fn failed(&self, failed: &Failed) {
        let mut state = self.state();
        let now = Instant::now();
        let avoid = match failed.reason {
            // These say nothing about the upstream.
            Reason::ContextTooLong
            | Reason::Rejected
            | Reason::Overloaded
            | Reason::TotalTimeout => {
                return;
            }
            Reason::Quota | Reason::Auth => REFUSED,
            Reason::ConnectTimeout
            | Reason::Unavailable
            | Reason::FirstContentTimeout
            | Reason::ChunkTimeout
            | Reason::RateLimited
            | Reason::Truncated
            | Reason::Failed
            | Reason::Protocol => {
                state.failures = state.failures.saturating_add(1);
                retry::back_off(state.failures)
            }
        };
        let asked = failed.retry_after.map(|floor| now + floor);
        state.not_before = state.not_before.max(asked);
        state.avoid_until = state.avoid_until.max(Some(now + avoid)).max(asked);
    }

    /// How long it wants to be left alone.
    pub(super) fn cooldown(&self) -> Duration {
        let not_before = self.state().not_before;
        not_before.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Another one should be asked, if there is one.
    pub(super) fn is_avoided(&self) -> bool {
        self.state().avoid_until.is_some_and(|until| until > Instant::now())
    }

    /// One reply tries whether it is well again; the others go on to avoid it meanwhile.
    pub(super) fn probe(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            let until = Instant::now() + retry::back_off(state.failures);
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

    fn failed(reason: Reason, retry_after: Option<u64>) -> Failed {
        let retry_after = retry_after.map(Duration::from_secs);
        Failed { retry_after, ..Failed::new(reason, "") }
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_upstream_asks_for_is_kept_and_success_forgets_the_rest() {
        let health = Health::default();
        assert!(!health.is_avoided());
        health.failed(&failed(Reason::RateLimited, Some(10)));
        health.failed(&failed(Reason::RateLimited, Some(5)));
        assert_eq!(health.cooldown(), Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(health.cooldown(), Duration::from_secs(6));
        assert!(health.is_avoided());
        health.succeeded();
        assert_eq!(health.cooldown(), Duration::from_secs(6));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(health.cooldown().is_zero() && !health.is_avoided());
        health.failed(&failed(Reason::Unavailable, None));
        health.succeeded();
        assert!(!health.is_avoided());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_goes_on_failing_is_avoided_for_longer() {
        let health = Health::default();
        let mut before = Duration::ZERO;
        for _ in 0..4 {
            health.failed(&failed(Reason::Unavailable, None));
            let since = Instant::now();
            while health.is_avoided() {
                tokio::time::advance(Duration::from_millis(50)).await;
            }
            assert!(health.cooldown().is_zero() && since.elapsed() > before);
            before = since.elapsed();
        }
        health.probe();
        assert!(health.is_avoided());
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_about_the_upstream_changes_nothing() {
        let health = Health::default();
        for reason in [Reason::ContextTooLong, Reason::Rejected, Reason::Overloaded] {
            health.failed(&failed(reason, Some(10)));
        }
        assert!(!health.is_avoided() && health.cooldown().is_zero());
        health.failed(&failed(Reason::Auth, None));
        assert!(health.is_avoided());
    }
}
