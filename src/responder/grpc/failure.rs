//! Why a bot did not answer: one table.
//!
//! Clients get a code and a sentence, which say nothing about the bot. The operator gets
//! the cause, in the log.

use std::{error::Error, fmt, io, iter, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    proto,
    session::{Failure, Outcome},
};

/// Longest part of a bot's own words that is logged, in characters.
const MAX_CAUSE: usize = 200;

/// Longest words of a bot's that clients see, in characters: a code, a sentence.
const MAX_CODE: usize = 64;
const MAX_SENTENCE: usize = 500;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No connection, or it was lost before the first text, or UNAVAILABLE.
    Unavailable,
    /// No text within the first-content timeout.
    FirstContentTimeout,
    /// Silence for the chunk timeout.
    ChunkTimeout,
    /// The reply took longer than the total timeout.
    TotalTimeout,
    /// RESOURCE_EXHAUSTED.
    RateLimited,
    /// UNAUTHENTICATED or PERMISSION_DENIED: the token is wrong.
    Auth,
    /// It does not take such calls.
    Rejected,
    /// The reply ended without an outcome.
    Truncated,
    /// Any other status, or frames that are none.
    Failed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ConnectTimeout,
        Self::Unavailable,
        Self::FirstContentTimeout,
        Self::ChunkTimeout,
        Self::TotalTimeout,
        Self::RateLimited,
        Self::Auth,
        Self::Rejected,
        Self::Truncated,
        Self::Failed,
    ];

    /// For programs; stable.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// For people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.row().1
    }

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::ConnectTimeout => {
                ("upstream_connect_timeout", "The bot could not be reached in time")
            }
            Self::Unavailable => ("upstream_unavailable", "The bot is not available"),
            Self::FirstContentTimeout => {
                ("upstream_first_content_timeout", "The bot did not begin to answer in time")
            }
            Self::ChunkTimeout => ("upstream_chunk_timeout", "The bot fell silent"),
            Self::TotalTimeout => ("upstream_total_timeout", "The reply took too long"),
            Self::RateLimited => {
                ("upstream_rate_limited", "The bot has too much to do, try again later")
            }
            Self::Auth => ("upstream_auth", "The bot refused this service"),
            Self::Rejected => ("upstream_rejected", "The bot refused the request"),
            Self::Truncated => ("upstream_truncated", "The reply ended too early"),
            Self::Failed => ("upstream_failed", "The bot reported an error"),
        }
    }
}

/// A call that failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) reason: Reason,
    /// In the log alone.
    pub(super) cause: String,
    /// The same call may succeed if it is made again …
    pub(super) passes: bool,
    /// … but not before.
    pub(super) retry_after: Option<Duration>,
}

impl Failed {
    pub(super) fn new(reason: Reason, cause: impl fmt::Display) -> Self {
        Self { reason, cause: cause.to_string(), passes: false, retry_after: None }
    }

    /// What a status comes to, of a call that had brought text or not.
    pub(super) fn of_status(status: &Status, spoke: bool) -> Self {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        // What the library says of a connection has a source, what the bot says has none.
        let lost = status.source();
        let (reason, passes) = match status.code() {
            _ if lost.is_some() && spoke => (Reason::Truncated, false),
            _ if lost.is_some_and(is_connect_timeout) => (Reason::ConnectTimeout, true),
            _ if lost.is_some() => (Reason::Unavailable, true),
            // A stream that ends with OK ends without a status.
            Code::Ok => (Reason::Truncated, false),
            Code::Unavailable if spoke => (Reason::Truncated, false),
            Code::Unavailable => (Reason::Unavailable, true),
            Code::ResourceExhausted => (Reason::RateLimited, retry_after.is_some()),
            Code::DeadlineExceeded => (Reason::TotalTimeout, false),
            Code::Unauthenticated | Code::PermissionDenied => (Reason::Auth, false),
            Code::Unimplemented
            | Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition => (Reason::Rejected, false),
            Code::Cancelled
            | Code::Unknown
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss => (Reason::Failed, false),
        };
        let causes = lost.map(|lost| format!(": {}", in_full(lost))).unwrap_or_default();
        let cause = format!("{:?}: {}{causes}", status.code(), status.message());
        Self { reason, cause: shorten(&cause), passes: passes && !spoke, retry_after }
    }

    /// What the client is told.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::failed(self.reason.code(), self.reason.sentence())
    }
}

/// What a bot says of its own failure, in a form that can be shown.
pub(super) fn shown(failure: &proto::Failure) -> Failure {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let code = failure.code.as_str();
    let code = Some(code).filter(|code| (1..=MAX_CODE).contains(&code.len()));
    let code = code.filter(|code| code.bytes().all(is_name));
    let sentence = failure.message.trim();
    let sentence = Some(sentence).filter(|text| (1..=MAX_SENTENCE).contains(&text.chars().count()));
    let sentence = sentence.filter(|text| !text.contains(char::is_control));
    Failure {
        code: code.unwrap_or(Reason::Failed.code()).into(),
        message: sentence.unwrap_or(Reason::Failed.sentence()).into(),
    }
}

/// A bot's own word for why it ended, in a form that can be shown.
pub(super) fn finish_reason(word: &str) -> Option<Arc<str>> {
    let word: String = word.trim().chars().filter(|c| !c.is_control()).take(MAX_CODE).collect();
    (!word.is_empty()).then(|| word.into())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// Of the system, or of the handshake that follows.
fn is_connect_timeout(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        let of_system = cause.downcast_ref::<io::Error>();
        // The library's type for the handshake is its own.
        of_system.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
            || cause.to_string().contains("TLS handshake timeout")
    })
}

/// An error with its causes, each said once.
pub(super) fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in causes(error).map(ToString::to_string) {
        if !words.iter().any(|word| word.contains(&cause)) {
            words.push(cause);
        }
    }
    words.join(": ")
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_CAUSE).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bot_says_of_its_failure_is_shown_only_in_good_form() {
        let say = |code: &str, message: &str| {
            let failure = proto::Failure { code: code.into(), message: message.into() };
            let Failure { code, message } = shown(&failure);
            (code.as_ref().to_owned(), message.as_ref().to_owned())
        };
        let own = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let bland = "The bot reported an error";
        assert_eq!(say("no_stock_2", " Sold out. "), own("no_stock_2", "Sold out."));
        assert_eq!(say("", ""), own("upstream_failed", bland));
        assert_eq!(say("No Stock", "x\ny"), own("upstream_failed", bland));
        assert_eq!(say(&"x".repeat(65), &"x".repeat(501)), own("upstream_failed", bland));
        assert_eq!(say("x", &"é".repeat(500)), own("x", &"é".repeat(500)));
    }

    #[test]
    fn words_for_an_end_are_cut_and_empty_ones_are_none() {
        assert_eq!(finish_reason(" stop\u{7}\n").as_deref(), Some("stop"));
        assert_eq!(finish_reason(&"é".repeat(99)).map(|word| word.chars().count()), Some(64));
        assert_eq!(finish_reason(" \n"), None);
    }

    #[test]
    fn a_long_cause_is_shortened() {
        let status = Status::internal("日".repeat(9999));
        assert!(Failed::of_status(&status, false).cause.chars().count() <= MAX_CAUSE + 1);
    }

    #[test]
    fn every_code_is_documented_with_its_meaning() {
        let protocol = include_str!("../../../docs/PROTOCOL.md");
        for reason in Reason::ALL {
            let row = format!("| `{}`, \"{}\" |", reason.code(), reason.sentence());
            assert!(protocol.contains(&row), "docs/PROTOCOL.md lacks {row}");
        }
    }
}
