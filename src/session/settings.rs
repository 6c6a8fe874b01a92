//! Settings of the core.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    model::{Budgets, ContentLimits, MessageLimits, TurnOption},
    quota::CallerLimits,
};

/// The rules of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// A caller without a credential may create sessions.
    pub open: bool,
    /// A credential may be given, and creates sessions that have an owner.
    pub credentials: bool,
    /// The token of a session with an owner opens it only together with the owner's credential.
    pub bind_subject: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self { open: true, credentials: false, bind_subject: false }
    }
}

/// The form in which addresses of callers appear in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressLog {
    /// As they are.
    #[default]
    Full,
    /// As a hash with a key that changes with each start: lines of one address can be told to belong
    /// together.
    Hash,
    /// Not at all.
    None,
}

impl FromStr for AddressLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "hash" => Ok(Self::Hash),
            "none" => Ok(Self::None),
            _ => Err("expected `full`, `hash` or `none`".into()),
        }
    }
}

impl fmt::Display for AddressLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Hash => "hash",
            Self::None => "none",
        })
    }
}

/// Deadlines and limits of sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The rules of access.
    pub access: Access,
    /// What one address, subject or API key may use.
    pub limits: CallerLimits,
    /// Model tokens that may be used.
    pub budgets: Budgets,
    /// Time without a subscriber after which a reply is stopped. `None`: it is not.
    pub abandon_after: Option<Duration>,
    /// The form of addresses in the log.
    pub log_addresses: AddressLog,
    /// Time after which a session without an owner expires that was never used: no stream was
    /// opened, no message sent, and no page read.
    pub unused_session_ttl: Duration,
    /// Idle time after which a token expires, and in open mode its session.
    pub session_ttl: Duration,
    /// Age at which a token expires, active or not, and in open mode its session.
    pub session_max_age: Duration,
    /// Time after its last message at which a session with an owner is deleted. `None`: it is not
    /// deleted by itself.
    pub retention: Option<Duration>,
    /// Limits of user messages.
    pub messages: MessageLimits,
    /// Most user messages of a session without a reply, the one that is being answered included.
    pub max_queued_turns: u32,
    /// Most messages of a session.
    pub max_session_messages: u32,
    /// Most streams attached to a session.
    pub max_session_streams: usize,
    /// Most tokens of a session.
    pub max_session_tokens: u32,
    /// Longest reply, in bytes of all its parts. A longer one is cut and committed as interrupted.
    pub max_reply_size: usize,
    /// Most bytes of the text parts of a reply.
    pub max_reply_text_size: usize,
    /// Show `provider_data` to clients that ask for it.
    pub show_provider_data: bool,
    /// Most unread events of a stream.
    pub max_backlog_events: usize,
    /// Most unread bytes of a stream.
    pub max_backlog_size: usize,
    /// Most messages of a page.
    pub max_page_messages: u32,
    /// Most sessions of a page of a list.
    pub max_page_sessions: u32,
    /// Most bytes of a page, as JSON. The default stays below the 4 MiB that gRPC clients
    /// accept.
    pub max_page_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            limits: CallerLimits::default(),
            budgets: Budgets::default(),
            abandon_after: None,
            log_addresses: AddressLog::default(),
            unused_session_ttl: Duration::from_secs(600),
            session_ttl: Duration::from_secs(3600),
            session_max_age: Duration::from_secs(24 * 3600),
            retention: None,
            messages: MessageLimits {
                content: ContentLimits {
                    max_text_size: 64 << 10,
                    max_size: 2 << 20,
                    max_parts: 32,
                    max_inline_file_size: 1 << 20,
                    media_types: vec!["image/*".into(), "application/pdf".into()],
                },
                options: vec![
                    TurnOption::Instructions,
                    TurnOption::Tools,
                    TurnOption::MaxOutputTokens,
                    TurnOption::Temperature,
                ],
            },
            max_queued_turns: 16,
            max_session_messages: 10_000,
            max_session_streams: 64,
            max_session_tokens: 32,
            max_reply_size: 2 << 20,
            max_reply_text_size: 1 << 20,
            show_provider_data: false,
            max_backlog_events: 4096,
            max_backlog_size: 8 << 20,
            max_page_messages: 1000,
            max_page_sessions: 100,
            max_page_size: 3 << 20,
        }
    }
}
