//! The tokens that were revoked a short time ago.
//!
//! A stream may be opening with a token while the token is revoked: it has read the token from the
//! store, and is not registered yet. It asks here once it is registered.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::model::TokenId;

/// Longer than a stream takes to open.
const KEPT: Duration = Duration::from_secs(120);

/// Most tokens. Beyond it the oldest are forgotten first.
const MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct RevokedTokens {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    tokens: HashSet<TokenId>,
    /// In the order of their revocation.
    times: VecDeque<(Instant, TokenId)>,
}

impl RevokedTokens {
    pub(super) fn add(&self, token: TokenId) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Recent { tokens, times } = &mut *recent;
        let now = Instant::now();
        while times.len() >= MAX || times.front().is_some_and(|(at, _)| *at + KEPT < now) {
            let oldest = times.pop_front();
            if let Some((_, oldest)) = oldest {
                tokens.remove(&oldest);
            }
        }
        if tokens.insert(token) {
            times.push_back((now, token));
        }
    }

    pub(super) fn contains(&self, token: TokenId) -> bool {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).tokens.contains(&token)
    }
}
