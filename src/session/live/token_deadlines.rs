//! The deadlines of the tokens that a session's streams were opened with.

use crate::session::model::{Timestamp, TokenId};

/// The tokens with a deadline of their own. Few, and none in open mode.
#[derive(Debug, Default)]
pub(in crate::session) struct TokenDeadlines(Vec<(TokenId, Timestamp)>);

impl TokenDeadlines {
    /// Adds a token, or moves its deadline forward.
    pub(super) fn watch(&mut self, token: TokenId, expires_at: Timestamp) {
        if !self.0.iter().any(|(known, _)| *known == token) {
            self.0.push((token, expires_at));
        }
        self.renew(token, expires_at);
    }

    /// Moves the deadline of a token forward. Ignores a token that no stream was opened with.
    pub(in crate::session) fn renew(&mut self, token: TokenId, expires_at: Timestamp) {
        if let Some((_, current)) = self.0.iter_mut().find(|(known, _)| *known == token) {
            *current = expires_at.max(*current);
        }
    }

    pub(super) fn forget(&mut self, token: TokenId) {
        self.0.retain(|(known, _)| *known != token);
    }

    pub(super) fn first(&self) -> Option<Timestamp> {
        self.0.iter().map(|(_, expires_at)| *expires_at).min()
    }

    /// Returns the tokens whose deadline has passed.
    pub(super) fn due(&self, now: Timestamp) -> Vec<TokenId> {
        self.0.iter().filter(|(_, at)| *at <= now).map(|(token, _)| *token).collect()
    }
}
