//! Sessions.

use super::{Epoch, Name, SessionId, Timestamp};

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
    /// Idle deadline: the session expires then unless it is renewed.
    pub expires_at: Timestamp,
    /// Absolute deadline: the session expires then whether or not it is renewed.
    pub ends_at: Timestamp,
}
