//! Failures of a bot: maps its statuses to a [`Reason`], and checks the text that clients may see.

use std::{error::Error, fmt, io, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    proto,
    responder::upstream::{
        Effect, Reason, backoff,
        redact::{self, Vocabulary},
        sanitize::shorten,
    },
    session::{Failure, Name},
    telemetry::{causes, error_chain},
};

/// Longest code and longest sentence of a bot that clients see, in characters.
const MAX_CODE: usize = 64;
const MAX_SENTENCE: usize = 500;

#[derive(Clone, Debug)]
pub(super) struct UpstreamError {
    pub(super) reason: Reason,
    /// The cause, for the log.
    pub(super) cause: String,
    /// The text of the bot. It may contain anything.
    pub(super) upstream_text: String,
    /// The same call may succeed if it is repeated, but not before `retry_after`.
    pub(super) is_transient: bool,
    pub(super) retry_after: Option<Duration>,
}

impl UpstreamError {
    pub(super) fn new(reason: Reason, cause: impl fmt::Display) -> Self {
        let (cause, upstream_text) = (cause.to_string(), String::new());
        Self { reason, cause, upstream_text, is_transient: false, retry_after: None }
    }

    /// As [`Self::new`], for a call that may succeed if it is repeated.
    pub(super) fn transient(reason: Reason, cause: impl fmt::Display) -> Self {
        Self { is_transient: true, ..Self::new(reason, cause) }
    }

    /// The failure of an attempt to connect.
    pub(super) fn of_connecting(error: &(dyn Error + 'static)) -> Self {
        let is_late = causes(error).any(is_timeout);
        let reason = if is_late { Reason::ConnectTimeout } else { Reason::Unavailable };
        Self::transient(reason, shorten(&error_chain(error)))
    }

    /// The failure of a call that ended with a status, before or after its first content.
    pub(super) fn of_status(status: &Status, has_content: bool) -> Self {
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let retry_after = asked.map(|asked| asked.min(backoff::MAX_RETRY_AFTER));
        // A status that the library made for a lost connection has a source. A status of the bot
        // has none.
        let lost = status.source();
        // A bot may act on a call: only a call that it has not accepted is repeated.
        let (reason, is_repeated) = match status.code() {
            _ if lost.is_some() && has_content => (Reason::Truncated, false),
            _ if lost.is_some() => (Reason::Unavailable, true),
            // A stream that ends with OK ends without a status.
            Code::Ok => (Reason::Truncated, false),
            Code::Unavailable if has_content => (Reason::Truncated, false),
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
        // The error of a lost connection may contain the server's own text.
        let causes = lost.map(|lost| format!(": {}", error_chain(lost))).unwrap_or_default();
        let upstream_text = format!("{}{causes}", status.message());
        let is_transient = is_repeated && reason.effect() == Effect::Transient && !has_content;
        Self {
            upstream_text,
            is_transient,
            retry_after,
            ..Self::new(reason, format_args!("{:?}", status.code()))
        }
    }

    /// Returns the text for the log.
    pub(super) fn in_log(&self) -> String {
        if self.upstream_text.is_empty() {
            return self.cause.clone();
        }
        format!("{}: {}", self.cause, redact::logged(&self.upstream_text, &Vocabulary::default()))
    }
}

/// Returns the failure that a bot reports, if its code and its sentence can be shown.
pub(super) fn shown(failure: &proto::Failure) -> Failure {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let code = failure.code.as_str();
    let code = Some(code).filter(|code| (1..=MAX_CODE).contains(&code.len()));
    let code = code.filter(|code| code.bytes().all(is_name));
    let sentence = failure.message.trim();
    let sentence = Some(sentence).filter(|text| (1..=MAX_SENTENCE).contains(&text.chars().count()));
    let sentence = sentence.filter(|text| !text.contains(Name::hides));
    Failure {
        code: code.unwrap_or(Reason::Failed.code()).into(),
        message: sentence.unwrap_or(Reason::Failed.sentence()).into(),
    }
}

/// Returns true for a timeout of the operating system, also of one of several addresses.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let of_system = error.downcast_ref::<io::Error>();
    of_system.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_a_bot_is_shown_only_if_it_is_well_formed() {
        let say = |code: &str, message: &str| {
            let failure = proto::Failure { code: code.into(), message: message.into() };
            let Failure { code, message } = shown(&failure);
            (code.as_ref().to_owned(), message.as_ref().to_owned())
        };
        let own = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let bland = Reason::Failed.sentence();
        assert_eq!(say("no_stock_2", " Sold out. "), own("no_stock_2", "Sold out."));
        assert_eq!(say("", ""), own("upstream_failed", bland));
        assert_eq!(say("No Stock", "x\ny"), own("upstream_failed", bland));
        assert_eq!(say("no\u{200b}", "Sold \u{202e}tuo"), own("upstream_failed", bland));
        assert_eq!(say(&"x".repeat(65), &"x".repeat(501)), own("upstream_failed", bland));
        assert_eq!(say("x", &"é".repeat(500)), own("x", &"é".repeat(500)));
    }
}
