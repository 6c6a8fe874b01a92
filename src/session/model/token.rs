//! The secret that opens a session, and its hash.
//!
//! They are different types, so that a store never gets the secret. `Debug` redacts both and
//! neither has `Display`, so that a log line contains neither.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Error, ErrorKind, Name, Result, Timestamp, TokenId};

/// Longest label, in characters.
const MAX_LABEL: usize = 128;

/// A stored token: all but its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Identifies the token among those of its session. May be logged.
    pub id: TokenId,
    /// The hash of the secret.
    pub hash: TokenHash,
    /// The operations that it permits.
    pub scope: Scope,
    /// Names it in lists.
    pub label: Option<Arc<str>>,
    /// Deadlines of its own, idle and absolute. `None`: those of the session, as in open mode.
    pub deadlines: Option<(Timestamp, Timestamp)>,
}

impl TokenRecord {
    /// Moves the token's own idle deadline, never back and never beyond its end.
    pub fn renew(&mut self, expires_at: Timestamp) {
        if let Some((current, ends_at)) = &mut self.deadlines {
            *current = expires_at.max(*current).min(*ends_at);
        }
    }

    /// Returns true if the token has a deadline of its own, and it has passed.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.deadlines.is_some_and(|(expires_at, _)| expires_at <= now)
    }
}

/// The operations that a token permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Watch and read the session, renew it, and revoke the token itself.
    Read,
    /// Everything.
    #[default]
    Write,
}

impl Scope {
    /// Returns the name in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`].
    pub fn parse(text: &str) -> Result<Self> {
        let known = [Self::Read, Self::Write].into_iter().find(|scope| scope.as_str() == text);
        known.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "scope must be read or write"))
    }

    /// Fails unless the scope permits to change the session.
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`].
    pub fn check_write(self) -> Result<()> {
        match self {
            Self::Write => Ok(()),
            Self::Read => Err(Error::new(ErrorKind::Forbidden, "The token permits reading only")),
        }
    }
}

/// Checks the label of a token. A blank one counts as none.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for more than 128 characters, or an invisible one.
pub fn check_label(label: &str) -> Result<Option<Arc<str>>> {
    let label = label.trim();
    if label.chars().count() > MAX_LABEL || label.contains(Name::hides) {
        let message = format!("label has at most {MAX_LABEL} characters, none of them invisible");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok((!label.is_empty()).then(|| label.into()))
}

/// The secret of a session: 122 random bits, a UUIDv4 in text form (RFC 9562).
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Uuid);

impl Token {
    /// Creates a secret with a cryptographically secure generator, seeded by the operating system.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// Creates a secret of a partition, see [`TokenHash::partition`], for a session that exists. 114
    /// bits of it are random.
    #[must_use]
    pub fn generate_in(partition: u8) -> Self {
        loop {
            let token = Self::generate();
            if token.hash().partition() == partition {
                return token;
            }
        }
    }

    /// Reads the token of a client: 36 characters, letters in either case.
    ///
    /// # Errors
    /// [`ErrorKind::SessionExpired`] for any other text, as for an unknown token.
    pub fn parse(text: &str) -> Result<Self> {
        let unknown = || Error::from(ErrorKind::SessionExpired);
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(unknown());
        }
        Uuid::try_parse(text).map(Self).map_err(|_| unknown())
    }

    /// Returns the hash, for the store.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = self.0.as_hyphenated().encode_lower(&mut text);
        TokenHash(Sha256::digest(text.as_bytes()).into())
    }

    /// Returns the secret, for its owner only.
    #[must_use]
    pub fn expose(&self) -> String {
        self.0.as_hyphenated().to_string()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// SHA-256 of a token. A lookup needs no constant-time comparison: the timing reveals bits of the
/// hash, from which the secret cannot be derived.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Creates a hash from the bytes of [`Self::as_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the partition: the first byte. It is that of the session.
    #[must_use]
    pub const fn partition(&self) -> u8 {
        self.0[0]
    }

    /// Returns the 32 bytes, for stores.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(redacted)")
    }
}

#[cfg(test)]
impl TokenRecord {
    /// Returns a token without deadlines of its own.
    pub(in crate::session) fn sample() -> Self {
        let (id, hash) = (TokenId::generate(), Token::generate().hash());
        Self { id, hash, scope: Scope::Write, label: None, deadlines: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_own_text_again_in_either_case() {
        let token = Token::generate();
        let text = token.expose();
        assert_eq!(Token::parse(&text).ok().as_ref(), Some(&token));
        let upper = Token::parse(&text.to_uppercase()).ok();
        assert_eq!(upper.map(|token| token.hash()), Some(token.hash()));
    }

    #[test]
    fn what_is_no_token_is_answered_like_an_unknown_one() {
        let simple = Token::generate().expose().replace('-', "");
        for text in ["", "x", &simple, &format!("{{{simple}}}"), &"a".repeat(36)] {
            let kind = Token::parse(text).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::SessionExpired), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_neither_secret_nor_hash() {
        let token = Token::generate();
        let shown = format!("{token:?} {:?}", token.hash());
        assert_eq!(shown, "Token(redacted) TokenHash(redacted)");
    }
}
