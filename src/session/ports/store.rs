//! The port for components that store sessions and their logs.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::session::model::{
    Epoch, Error, ErrorKind, Message, Name, Position, Result, Session, SessionId, Timestamp,
    TokenHash, TokenId, TokenRecord, Usage,
};

/// A session to store, with its first token.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The session.
    pub session: Session,
    /// Its token.
    pub token: TokenRecord,
    /// The address that it was created from, if it has no owner.
    pub origin: Option<Origin>,
}

/// The address that a session was created from, as a hash with the secret of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub [u8; 16]);

/// Those whose part of the store is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareOf {
    /// An owner of sessions.
    Subject(Arc<str>),
    /// An address that sessions without an owner were created from.
    Origin(Origin),
}

/// A part of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Sessions.
    pub sessions: u64,
    /// Bytes of their messages.
    pub size: u64,
}

impl NewSession {
    /// Returns the refusal of a new session where a store has no room. `next`: the time at which
    /// the next session may expire.
    #[must_use]
    pub fn no_room(next: Option<Timestamp>) -> Error {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(3600);
        let wait = next.map_or(LONGEST, |next| next.since(Timestamp::of_wall_clock()));
        Error::new(ErrorKind::Overloaded, "The gateway has no room for more sessions")
            .retry_after(wait.clamp(SHORTEST, LONGEST))
    }
}

/// A session and the token that opened it.
#[derive(Clone, Debug)]
pub struct FoundSession {
    /// The session. Its deadlines are those of the token.
    pub session: Session,
    /// The token.
    pub token: TokenRecord,
}

/// A session in the list of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSession {
    /// The session.
    pub session: Session,
    /// Time of its last message, or of its creation.
    pub active_at: Timestamp,
    /// Number of its last message.
    pub head_seq: u32,
    /// The beginning of the text of its first message, if it has no title. At most
    /// [`Self::MAX_BEGINNING`] characters.
    pub beginning: Option<String>,
}

impl ListedSession {
    /// Most characters of [`Self::beginning`].
    pub const MAX_BEGINNING: usize = 200;

    /// Returns the title for a list, and whether it is made of the first words of the first message,
    /// since none was set.
    #[must_use]
    pub fn shown_title(&self) -> (Option<String>, bool) {
        match (&self.session.title, &self.beginning) {
            (Some(title), _) => (Some(title.as_ref().into()), false),
            (None, Some(beginning)) => {
                let title = first_words(beginning);
                let is_generated = title.is_some();
                (title, is_generated)
            }
            (None, None) => (None, false),
        }
    }

    /// Returns the place of the session in the list.
    #[must_use]
    pub const fn cursor(&self) -> ListCursor {
        ListCursor { active_at: self.active_at, session: self.session.id }
    }
}

/// Returns the first words of a text, up to 60 characters, without invisible ones. `None` if there
/// are none.
fn first_words(text: &str) -> Option<String> {
    const LONGEST: usize = 60;
    let (mut title, mut length) = (String::new(), 0);
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|letter| !Name::hides(*letter)).collect();
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > LONGEST {
            title.push('…');
            break;
        }
        if length > 0 && letters > 0 {
            title.push(' ');
            length += 1;
        }
        title.extend(word.chars().take(LONGEST));
        length += letters;
        if letters > LONGEST {
            title.push('…');
            break;
        }
    }
    (!title.is_empty()).then_some(title)
}

/// A place in the list of an owner's sessions: newest activity first, then greatest id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListCursor {
    /// See [`ListedSession::active_at`].
    pub active_at: Timestamp,
    /// The session.
    pub session: SessionId,
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.active_at.as_millis(), self.session)
    }
}

impl FromStr for ListCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let cursor = || {
            let (active_at, session) = text.split_once('.')?;
            let active_at = u64::from_str_radix(active_at, 16).ok()?;
            let active_at = Timestamp::from_millis(active_at).min(Timestamp::NEVER);
            Some(Self { active_at, session: session.parse().ok()? })
        };
        cursor().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "cursor must be the next_cursor of a list")
        })
    }
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only messages after this number, oldest first. `None`: the newest ones.
    pub after: Option<u32>,
    /// No message after this number.
    pub until: u32,
    /// Most messages.
    pub limit: u32,
    /// Most bytes, but at least one message if `limit` allows it.
    pub max_size: usize,
}

impl Page {
    /// No message, only the session and the head of its log.
    pub const HEAD: Self = Self { after: None, until: u32::MAX, limit: 0, max_size: 0 };
}

/// One consistent look at a session.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The session.
    pub session: Session,
    /// A part of its log, in order.
    pub messages: Vec<Arc<Message>>,
    /// Number of the last message of the whole log.
    pub head_seq: u32,
    /// Tokens of all replies of the log: the sum of [`Message::cost`].
    pub usage: Usage,
    /// The limits of the page left messages out.
    pub has_more: bool,
}

impl Snapshot {
    /// Returns the end of the log: a subscription from here receives what the log does not hold
    /// yet.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.session.epoch.clone(), self.head_seq)
    }
}

/// The result of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The deleted sessions.
    pub sessions: Vec<SessionId>,
    /// There may be more to sweep.
    pub more: bool,
}

/// The head of a session's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The session.
    pub session: SessionId,
    /// The incarnation of its log.
    pub epoch: Epoch,
    /// Sequence number of its last message; 0 if there is none.
    pub seq: u32,
}

/// Stores sessions and their logs. [`Turns`](super::Turns) appends to the logs.
///
/// Every operation is atomic and durable when it returns, in the sense of the store. A session
/// whose deadline has passed does not exist for any operation, swept or not.
/// `tests/store_contract.rs` tests each implementation.
///
/// # Errors
/// Every operation can fail with `Internal` and `StoreUnavailable`, and with `SessionExpired` if its
/// session does not exist. Other kinds are listed at the operations.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a new session. `Overloaded` or `StoreFull` if there is no room.
    async fn create(&self, new: NewSession) -> Result<()>;

    /// Returns the session that a token opens.
    async fn find(&self, token: &TokenHash, now: Timestamp) -> Result<FoundSession>;

    /// Adds a token to a session. `max_tokens` limits the tokens of a session that have not expired:
    /// `Overloaded` beyond it.
    async fn issue(
        &self,
        id: SessionId,
        now: Timestamp,
        token: TokenRecord,
        max_tokens: u32,
    ) -> Result<()>;

    /// Deletes a token of a session. Returns the number of tokens that are left.
    async fn revoke_token(&self, id: SessionId, now: Timestamp, token: TokenId) -> Result<u32>;

    /// Moves the idle deadline of a token to `expires_at`, never back and never beyond its end: its
    /// own one if it has one, else that of its session. Returns the session with the deadlines of
    /// the token.
    async fn renew(
        &self,
        id: SessionId,
        token: TokenId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Session>;

    /// Returns a random number that was made with the store. It is not told to anybody.
    async fn secret(&self) -> Result<[u8; 32]>;

    /// Returns the part of the store that an owner or an address uses.
    async fn share(&self, of: &ShareOf, now: Timestamp) -> Result<Share>;

    /// Returns up to `limit` sessions of a subject after a place in their list.
    async fn list(
        &self,
        subject: &str,
        now: Timestamp,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<Vec<ListedSession>>;

    /// Sets or removes the title of a session. Returns the session.
    async fn set_title(
        &self,
        id: SessionId,
        now: Timestamp,
        title: Option<Arc<str>>,
    ) -> Result<Session>;

    /// Deletes a session with its tokens and its log.
    async fn revoke(&self, id: SessionId, now: Timestamp) -> Result<()>;

    /// Deletes up to `limit` sessions whose deadline has passed, and tokens whose own deadline has
    /// passed. May stop earlier, so that other operations are not delayed.
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept>;

    /// Returns the tokens of a session that have not expired, oldest first.
    async fn tokens(&self, id: SessionId, now: Timestamp) -> Result<Vec<TokenRecord>>;

    /// Returns true if another process has written to the store since the last call. Must be
    /// cheap: it is called twice a second.
    async fn written_elsewhere(&self) -> Result<bool>;

    /// Returns the heads of those of the given sessions that exist, in one consistent read.
    async fn heads(&self, sessions: &[SessionId], now: Timestamp) -> Result<Vec<Head>>;

    /// Returns the session, a page of its log, and its head, from one consistent snapshot.
    async fn read(&self, id: SessionId, now: Timestamp, page: Page) -> Result<Snapshot>;

    /// Closes the store before the process ends. Nothing is written afterwards.
    async fn close(&self) -> Result<()>;

    /// Returns false while the last operation has failed since the store cannot be reached.
    fn is_reachable(&self) -> bool {
        true
    }

    /// Waits for the final failure of the store. The process must then end: its state may differ
    /// from that of the store.
    async fn failed(&self) -> Error;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_title_has_whole_words_and_no_invisible_characters() {
        let long = "word ".repeat(30);
        for (text, title) in [
            ("", None),
            (" \n\t ", None),
            ("Hello", Some("Hello")),
            ("  What is\n the\tcapital? ", Some("What is the capital?")),
            ("a\u{202e}b", Some("ab")),
            (&*long, Some("word word word word word word word word word word word word…")),
        ] {
            assert_eq!(first_words(text).as_deref(), title, "{text}");
        }
        let one_word = first_words(&"x".repeat(200)).unwrap_or_default();
        assert_eq!(one_word.chars().count(), 61);
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let place = ListCursor {
            active_at: Timestamp::from_millis(1_790_000_000_000),
            session: SessionId::generate(),
        };
        assert_eq!(place.to_string().parse::<ListCursor>().ok(), Some(place));
        for wrong in ["", "x", "1", "1.x", ".", "-1.0190c0de-0000-7000-8000-000000000000"] {
            assert!(wrong.parse::<ListCursor>().is_err(), "{wrong}");
        }
    }
}
