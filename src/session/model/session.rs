//! Sessions.

use std::sync::Arc;

use super::{Epoch, Error, ErrorKind, Metadata, Name, Result, SessionId, Timestamp, TokenRecord};

/// Longest title, in characters.
const MAX_TITLE: usize = 256;

/// One conversation of one named user, without its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Identifies the session. May be logged.
    pub id: SessionId,
    /// The user's name.
    pub name: Name,
    /// Identifies the incarnation of the log: positions of another epoch are not honored.
    pub epoch: Epoch,
    /// Creation time, by the wall clock.
    pub created_at: Timestamp,
    /// Idle deadline: the session expires then unless it is renewed. With an owner: `delete_at`, or
    /// never.
    pub expires_at: Timestamp,
    /// Absolute deadline: the session expires then whether or not it is renewed. With an owner:
    /// never.
    pub ends_at: Timestamp,
    /// The time at which the conversation is deleted. `None`: not by itself.
    pub delete_at: Option<Timestamp>,
    /// Names the conversation in lists.
    pub title: Option<Arc<str>>,
    /// As given at the creation.
    pub metadata: Metadata,
    /// The identity of its owner. `None` in open mode.
    pub subject: Option<Arc<str>>,
}

impl Session {
    /// Moves the idle deadline, never back and never beyond the end.
    pub fn renew(&mut self, expires_at: Timestamp) {
        self.expires_at = self.expires_at.max(expires_at).min(self.ends_at);
    }

    /// Returns the session as a client with a token sees it: with the deadlines of the token.
    #[must_use]
    pub fn seen_with(self, token: &TokenRecord) -> Self {
        self.seen_with_deadlines(token.deadlines)
    }

    /// As [`Self::seen_with`], with the own deadlines of the token.
    #[must_use]
    pub fn seen_with_deadlines(mut self, own: Option<(Timestamp, Timestamp)>) -> Self {
        if let Some((expires_at, ends_at)) = own {
            (self.expires_at, self.ends_at) = (expires_at, ends_at);
        }
        self
    }
}

/// Checks a title, and trims it. A blank title counts as none.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for more than 256 characters, or an invisible one.
pub fn check_title(title: &str) -> Result<Option<Arc<str>>> {
    let title = title.trim();
    if title.chars().count() > MAX_TITLE || title.contains(Name::hides) {
        let message = format!("title has at most {MAX_TITLE} characters, none of them invisible");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok((!title.is_empty()).then(|| title.into()))
}
