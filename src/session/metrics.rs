//! What the core counts. The handles are made once: to look one up costs more than to
//! count.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{ErrorKind, Role, Status};

/// See the module.
pub(super) struct Metrics {
    pub(super) sessions_started: Counter,
    sessions_expired: Counter,
    sessions_revoked: Counter,
    messages: Counter,
    duplicates: Counter,
    replies_running: Gauge,
    complete: Counter,
    stopped: Counter,
    interrupted: Counter,
    failed: Counter,
    exact: Tokens,
    estimated: Tokens,
    first_delta: Histogram,
    reply: Histogram,
}

struct Tokens {
    input: Counter,
    output: Counter,
}

impl Tokens {
    fn new(figures: &'static str) -> Self {
        let of = |direction: &'static str| counter!("duologue_tokens_total", "direction" => direction, "figures" => figures);
        Self { input: of("in"), output: of("out") }
    }
}

impl Metrics {
    /// For what collects now: metrics are lost that are made before anybody does.
    pub(super) fn new() -> Self {
        let ended = |reason| counter!("duologue_sessions_ended_total", "reason" => reason);
        let replies = |status| counter!("duologue_replies_total", "status" => status);
        Self {
            sessions_started: counter!("duologue_sessions_started_total"),
            sessions_expired: ended("expired"),
            sessions_revoked: ended("revoked"),
            messages: counter!("duologue_messages_total"),
            duplicates: counter!("duologue_duplicates_total"),
            replies_running: gauge!("duologue_replies_running"),
            complete: replies("complete"),
            stopped: replies("stopped"),
            interrupted: replies("interrupted"),
            failed: replies("failed"),
            exact: Tokens::new("exact"),
            estimated: Tokens::new("estimated"),
            first_delta: histogram!("duologue_first_delta_seconds"),
            reply: histogram!("duologue_reply_seconds"),
        }
    }

    pub(super) fn session_ended(&self, why: ErrorKind) {
        match why {
            ErrorKind::SessionRevoked => self.sessions_revoked.increment(1),
            _ => self.sessions_expired.increment(1),
        }
    }

    pub(super) fn message(&self, duplicate: bool) {
        if duplicate { &self.duplicates } else { &self.messages }.increment(1);
    }

    pub(super) fn reply_started(&self) {
        self.replies_running.increment(1);
    }

    pub(super) fn first_delta(&self, after: Duration) {
        self.first_delta.record(after);
    }

    /// A reply's runner has done with it.
    pub(super) fn reply_ended(&self, after: Duration) {
        self.replies_running.decrement(1);
        self.reply.record(after);
    }

    /// A reply was committed.
    pub(super) fn reply(&self, role: &Role) {
        let Role::Assistant { status, usage, .. } = role else { return };
        match status {
            Status::Complete => &self.complete,
            Status::Stopped => &self.stopped,
            Status::Interrupted => &self.interrupted,
            Status::Failed(failure) => {
                let code = label(&failure.code).to_owned();
                counter!("duologue_reply_failures_total", "code" => code).increment(1);
                &self.failed
            }
        }
        .increment(1);
        if let Some(usage) = usage {
            let tokens = if usage.estimated { &self.estimated } else { &self.exact };
            tokens.input.increment(usage.input_tokens.into());
            tokens.output.increment(usage.output_tokens.into());
        }
    }
}

/// A responder's code as a label, if it looks like one: a responder that makes codes up
/// must not make up series.
fn label(code: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    if code.len() <= 40 && code.bytes().all(plain) { code } else { "other" }
}
