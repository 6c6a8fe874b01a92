//! The sessions of a store as the commands of the operator see them.

use std::sync::Arc;

use super::OpenError;
use crate::session::{Content, Message, Session, SessionId, Timestamp, TokenRecord};

/// A stored session without its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// The session.
    pub session: Session,
    /// Number of messages.
    pub messages: u32,
    /// Time of the last message, or of the creation if there is none.
    pub last_activity: Timestamp,
}

/// A user message without a reply, and the progress of its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnansweredTurn {
    /// Number of the user message.
    pub seq: u32,
    /// The last attempt that began.
    pub attempt: u32,
    /// Content of the last checkpoint of the reply.
    pub partial: Content,
}

/// Selects sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// A part of the user's name. ASCII letters match in either case.
    pub name: Option<String>,
    /// The owner.
    pub subject: Option<String>,
    /// Selects sessions that have expired and are not deleted yet, instead of live ones.
    pub expired: bool,
    /// The current time.
    pub now: Timestamp,
}

/// A session with its log.
#[derive(Clone, Debug)]
pub struct StoredLog {
    /// The session.
    pub stored: StoredSession,
    /// Its tokens.
    pub tokens: Vec<TokenRecord>,
    /// The log, without gaps.
    pub messages: Vec<Arc<Message>>,
    /// User messages without a reply.
    pub waiting: Vec<UnansweredTurn>,
}

/// The result of importing a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// The session was stored.
    Imported,
    /// The session exists already, with these messages or more.
    AlreadyThere,
    /// Another session exists under this id or token. It is not changed.
    Differs,
    /// The session has expired.
    Expired,
}

/// Access to the sessions of a store, beside its gateways.
///
/// # Errors
/// Every operation fails with one sentence for the operator.
pub trait StoredSessions {
    /// Returns up to `limit` sessions after the given one, in the order of their ids, which is the
    /// order of their creation.
    fn sessions(
        &self,
        filter: &SessionFilter,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<StoredSession>, OpenError>;

    /// Returns the number of sessions and of their messages.
    fn totals(&self, filter: &SessionFilter) -> Result<(u64, u64), OpenError>;

    /// Returns a session, expired or not.
    fn session(&self, id: SessionId) -> Result<Option<StoredSession>, OpenError>;

    /// Returns the messages of a session after a number, in order: up to 64, or up to 4 MiB. The last
    /// one is that of [`Self::sessions`] or [`Self::session`].
    fn messages(&self, id: SessionId, after: u32) -> Result<Vec<Arc<Message>>, OpenError>;

    /// Returns the user messages of a session that have no reply.
    fn waiting(&self, id: SessionId) -> Result<Vec<UnansweredTurn>, OpenError>;

    /// Returns the tokens of a session, oldest first.
    fn tokens(&self, id: SessionId) -> Result<Vec<TokenRecord>, OpenError>;

    /// Runs `look` on the state of one moment, where the store can. Each session is always shown as of
    /// one moment.
    fn at_one_moment(&self, look: &mut dyn FnMut()) -> Result<(), OpenError>;

    /// Deletes a session with its log, durably. Returns false if it does not exist.
    fn delete(&mut self, id: SessionId) -> Result<bool, OpenError>;

    /// Stores the sessions that do not exist yet. They are durable when this returns, in the sense of
    /// the store. After an error some of them may be stored.
    fn import(&mut self, logs: &[StoredLog], now: Timestamp) -> Result<Vec<Import>, OpenError>;
}

impl StoredLog {
    /// Returns true if a store holds this log, or a later state of it. `there` are the session and the
    /// tokens of the store, `messages` reads its log after a number.
    pub(super) fn is_there<E>(
        &self,
        there: &StoredSession,
        tokens: &[TokenRecord],
        mut messages: impl FnMut(u32) -> Result<Vec<Arc<Message>>, E>,
    ) -> Result<bool, E> {
        let StoredSession { session, messages: count, .. } = &self.stored;
        let has = |token: &TokenRecord| tokens.iter().any(|known| known.hash == token.hash);
        let mut same = self.tokens.iter().any(has)
            && there.messages >= *count
            && (&there.session.name, &there.session.epoch) == (&session.name, &session.epoch);
        let mut after = 0;
        while same && (after as usize) < self.messages.len() {
            let page = messages(after)?;
            let own = &self.messages[after as usize..];
            same = !page.is_empty() && page.iter().zip(own).all(|(one, two)| one == two);
            after += page.len() as u32;
        }
        Ok(same)
    }
}
