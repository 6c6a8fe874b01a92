//! The reasons why replies fail, for all upstreams: one table.
//!
//! Clients get a code and a general sentence. The cause is in the log.

use crate::session::Outcome;

/// The reason of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// There is no connection, it was lost before the first text, or the upstream reports that it
    /// is unavailable.
    Unavailable,
    /// No text within the first-content timeout.
    FirstContentTimeout,
    /// Silence for the chunk timeout.
    ChunkTimeout,
    /// The reply took longer than the total timeout.
    TotalTimeout,
    /// Too many requests, for now.
    RateLimited,
    /// The credit or quota is used up.
    Quota,
    /// The key or token is wrong or lacks a permission.
    Auth,
    /// The upstream refused the request.
    Rejected,
    /// The response broke off.
    Truncated,
    /// The upstream reported another error.
    Failed,
    /// The response does not follow the protocol.
    Protocol,
    /// The conversation is too long for the model, even when trimmed.
    ContextTooLong,
    /// The queue is full.
    Overloaded,
}

/// The meaning of a failure for further requests to the same upstream. Decides about retries and
/// about the order of the upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::responder) enum Effect {
    /// The same request may succeed if it is repeated.
    Transient,
    /// Every request will fail until the operator or the provider acts.
    Permanent,
    /// The failure concerns this request only.
    Request,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 14] = [
        Self::ConnectTimeout,
        Self::Unavailable,
        Self::FirstContentTimeout,
        Self::ChunkTimeout,
        Self::TotalTimeout,
        Self::RateLimited,
        Self::Quota,
        Self::Auth,
        Self::Rejected,
        Self::Truncated,
        Self::Failed,
        Self::Protocol,
        Self::ContextTooLong,
        Self::Overloaded,
    ];

    /// Returns the code for programs. It is stable.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// Returns the sentence for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.row().1
    }

    pub(in crate::responder) const fn effect(self) -> Effect {
        match self {
            Self::ConnectTimeout
            | Self::Unavailable
            | Self::FirstContentTimeout
            | Self::ChunkTimeout
            | Self::RateLimited
            | Self::Truncated
            | Self::Failed
            | Self::Protocol => Effect::Transient,
            Self::Quota | Self::Auth => Effect::Permanent,
            Self::TotalTimeout | Self::Rejected | Self::ContextTooLong | Self::Overloaded => {
                Effect::Request
            }
        }
    }

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::ConnectTimeout => {
                ("upstream_connect_timeout", "The assistant could not be reached in time")
            }
            Self::Unavailable => ("upstream_unavailable", "The assistant is not available"),
            Self::FirstContentTimeout => {
                ("upstream_first_content_timeout", "The assistant did not begin to answer in time")
            }
            Self::ChunkTimeout => ("upstream_chunk_timeout", "The assistant stopped responding"),
            Self::TotalTimeout => ("upstream_total_timeout", "The reply took too long"),
            Self::RateLimited => {
                ("upstream_rate_limited", "The assistant is too busy, try again later")
            }
            Self::Quota => ("upstream_quota", "The assistant's quota is used up"),
            Self::Auth => ("upstream_auth", "The assistant refused this service"),
            Self::Rejected => ("upstream_rejected", "The assistant refused the request"),
            Self::Truncated => ("upstream_truncated", "The reply ended too early"),
            Self::Failed => ("upstream_failed", "The assistant reported an error"),
            Self::Protocol => {
                ("upstream_protocol", "The assistant's answer could not be understood")
            }
            Self::ContextTooLong => {
                ("context_too_long", "The conversation is too long for the assistant")
            }
            Self::Overloaded => {
                ("overloaded", "Too many replies are being written, try again later")
            }
        }
    }

    /// Returns the outcome that clients receive.
    pub(in crate::responder) fn outcome(self) -> Outcome {
        Outcome::failed(self.code(), self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_with_its_meaning() {
        let protocol = include_str!("../../../docs/PROTOCOL.md");
        for reason in Reason::ALL {
            let row = format!("| `{}` | {} |", reason.code(), reason.sentence());
            assert!(protocol.contains(&row), "docs/PROTOCOL.md lacks {row}");
        }
    }
}
