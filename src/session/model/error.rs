//! The errors of the core.
//!
//! One table (`transport::status`) maps an [`ErrorKind`] to the status of each protocol. The
//! message is for people and contains no internal cause. The cause is the `source`, which is logged
//! where the error is handled.

use std::{borrow::Cow, error, fmt, time::Duration};

type Source = Box<dyn error::Error + Send + Sync>;

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A user's name is blank, too long or contains invisible characters.
    InvalidName,
    /// Any other value of a request is missing or malformed.
    InvalidArgument,
    /// A message is longer than a limit.
    MessageTooLarge,
    /// The request has no token.
    MissingToken,
    /// The token is unknown, or its session expired.
    SessionExpired,
    /// The session was revoked while this stream was attached to it.
    SessionRevoked,
    /// The `client_message_id` was used for another message.
    MessageIdReused,
    /// Too many user messages of the session have no reply yet.
    QueueFull,
    /// The session's log has reached its limit.
    SessionFull,
    /// The store has no room.
    StoreFull,
    /// Too many streams are attached to the session.
    TooManyStreams,
    /// The client does not read, and the backlog of the stream is full.
    SlowConsumer,
    /// No `open` frame arrived in time.
    OpenTimeout,
    /// The peer does not answer pings.
    Unresponsive,
    /// The peer violated RFC 6455.
    ProtocolViolation,
    /// A frame could not be decoded.
    BadFrame,
    /// A frame of a type that the negotiated codec does not use.
    WrongFrameType,
    /// A text frame is not UTF-8.
    BadUtf8,
    /// A frame or body is larger than any valid one.
    FrameTooLarge,
    /// The `Origin` is not on the allow-list.
    OriginForbidden,
    /// The deadline of the client, or the gateway's own for the call, has passed.
    DeadlineExceeded,
    /// The gateway has no capacity for the request now.
    Overloaded,
    /// The gateway is shutting down.
    Draining,
    /// The request needs a credential, or its credential is not valid.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// The session or token does not exist, or belongs to another subject.
    NotFound,
    /// The caller has made too many requests.
    RateLimited,
    /// The caller has used up its model tokens.
    BudgetExceeded,
    /// The credential of the stream has expired.
    CredentialExpired,
    /// The store cannot be reached.
    StoreUnavailable,
    /// An error of the gateway itself.
    Internal,
}

impl ErrorKind {
    /// All kinds, for tables and their tests.
    pub const ALL: [Self; 31] = [
        Self::InvalidName,
        Self::InvalidArgument,
        Self::MessageTooLarge,
        Self::MissingToken,
        Self::SessionExpired,
        Self::SessionRevoked,
        Self::MessageIdReused,
        Self::QueueFull,
        Self::SessionFull,
        Self::StoreFull,
        Self::TooManyStreams,
        Self::SlowConsumer,
        Self::OpenTimeout,
        Self::Unresponsive,
        Self::ProtocolViolation,
        Self::BadFrame,
        Self::WrongFrameType,
        Self::BadUtf8,
        Self::FrameTooLarge,
        Self::OriginForbidden,
        Self::DeadlineExceeded,
        Self::Overloaded,
        Self::Draining,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::RateLimited,
        Self::BudgetExceeded,
        Self::CredentialExpired,
        Self::StoreUnavailable,
        Self::Internal,
    ];

    /// Returns the stable name for programs, in snake case. It is part of the wire contract.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidName => "invalid_name",
            Self::InvalidArgument => "invalid_argument",
            Self::MessageTooLarge => "message_too_large",
            Self::MissingToken => "missing_token",
            Self::SessionExpired => "session_expired",
            Self::SessionRevoked => "session_revoked",
            Self::MessageIdReused => "message_id_reused",
            Self::QueueFull => "queue_full",
            Self::SessionFull => "session_full",
            Self::StoreFull => "store_full",
            Self::TooManyStreams => "too_many_streams",
            Self::SlowConsumer => "slow_consumer",
            Self::OpenTimeout => "open_timeout",
            Self::Unresponsive => "unresponsive",
            Self::ProtocolViolation => "protocol_violation",
            Self::BadFrame => "bad_frame",
            Self::WrongFrameType => "wrong_frame_type",
            Self::BadUtf8 => "bad_utf8",
            Self::FrameTooLarge => "frame_too_large",
            Self::OriginForbidden => "origin_forbidden",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::BudgetExceeded => "budget_exceeded",
            Self::CredentialExpired => "credential_expired",
            Self::StoreUnavailable => "store_unavailable",
            Self::Internal => "internal",
        }
    }

    /// Returns the default delay before a retry. `None` if a retry does not help.
    const fn wait(self) -> Option<Duration> {
        match self {
            Self::QueueFull
            | Self::TooManyStreams
            | Self::Overloaded
            | Self::RateLimited
            | Self::StoreUnavailable => Some(Duration::from_secs(1)),
            Self::StoreFull => Some(Duration::from_secs(5)),
            Self::SlowConsumer
            | Self::OpenTimeout
            | Self::Unresponsive
            | Self::CredentialExpired => Some(Duration::ZERO),
            Self::Draining => Some(Duration::from_millis(500)),
            Self::InvalidName
            | Self::InvalidArgument
            | Self::MessageTooLarge
            | Self::MissingToken
            | Self::SessionExpired
            | Self::SessionRevoked
            | Self::MessageIdReused
            | Self::SessionFull
            | Self::ProtocolViolation
            | Self::BadFrame
            | Self::WrongFrameType
            | Self::BadUtf8
            | Self::FrameTooLarge
            | Self::OriginForbidden
            | Self::DeadlineExceeded
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::BudgetExceeded
            | Self::Internal => None,
        }
    }

    /// Returns the default sentence for people.
    const fn sentence(self) -> &'static str {
        match self {
            Self::InvalidName => "Enter a valid name",
            Self::InvalidArgument => "Invalid argument",
            Self::MessageTooLarge => "The message is too large",
            Self::MissingToken => "A token is required",
            Self::SessionExpired => "Session expired or does not exist",
            Self::SessionRevoked => "Session was revoked",
            Self::MessageIdReused => "The client_message_id was used for another message",
            Self::QueueFull => "Too many messages wait for their reply",
            Self::SessionFull => "The conversation is full: start a new session",
            Self::StoreFull => "The gateway has no room for more messages",
            Self::TooManyStreams => "Too many streams are attached to this session",
            Self::SlowConsumer => "The stream fell too far behind: reconnect and resume",
            Self::OpenTimeout => "No open frame arrived in time",
            Self::Unresponsive => "The client does not answer pings",
            Self::ProtocolViolation => "The protocol was violated",
            Self::BadFrame => "The frame could not be understood",
            Self::WrongFrameType => "Frames of this type are not supported",
            Self::BadUtf8 => "The text is not valid UTF-8",
            Self::FrameTooLarge => "The frame is too large",
            Self::OriginForbidden => "Origin not allowed",
            Self::DeadlineExceeded => "The deadline passed",
            Self::Overloaded => "The gateway is overloaded",
            Self::Draining => "The gateway is shutting down",
            Self::Unauthenticated => "A valid credential is required",
            Self::Forbidden => "Not permitted",
            Self::NotFound => "Not found",
            Self::RateLimited => "Too many requests",
            Self::BudgetExceeded => "The budget of model tokens is used up",
            Self::CredentialExpired => "The credential has expired: reconnect with a newer one",
            Self::StoreUnavailable => "The store cannot be reached",
            Self::Internal => "Internal error",
        }
    }
}

/// An error: its kind, a sentence for people, and the delay before a retry.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    source: Option<Source>,
}

impl Error {
    /// Creates an error with its own sentence.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let message = Self::capped(message.into());
        Self { kind, message, retry_after: kind.wait(), source: None }
    }

    /// Cuts a message to 300 bytes: it may repeat a part of the client's input, which may be
    /// megabytes long.
    #[must_use]
    pub fn capped(mut message: Cow<'static, str>) -> Cow<'static, str> {
        const LONGEST: usize = 300;
        if message.len() > LONGEST {
            let message = message.to_mut();
            message.truncate(message.floor_char_boundary(LONGEST));
            message.push('…');
        }
        message
    }

    /// Creates an internal error. `source` is logged; the client does not see it.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self { source: Some(source.into()), ..Self::from(ErrorKind::Internal) }
    }

    /// Creates the error of a store that was restarted since the session was entered. The session
    /// must be entered again, then the operation may be repeated.
    #[must_use]
    pub fn store_restarted() -> Self {
        Self { source: Some(StoreRestarted.into()), ..Self::from(ErrorKind::StoreUnavailable) }
    }

    /// Returns true for [`Self::store_restarted`].
    #[must_use]
    pub fn is_store_restarted(&self) -> bool {
        self.source.as_deref().is_some_and(|source| source.is::<StoreRestarted>())
    }

    /// Sets the delay before a retry.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Returns the kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the delay before a retry. `None` if a retry does not help.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// The store was restarted since a session was entered.
#[derive(Debug)]
struct StoreRestarted;

impl fmt::Display for StoreRestarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store was restarted")
    }
}

impl error::Error for StoreRestarted {}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind, kind.sentence())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn error::Error + 'static))
    }
}
