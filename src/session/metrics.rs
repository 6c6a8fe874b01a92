//! The metrics of the core. The handles are created once, since a lookup costs more than counting.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::model::{ErrorKind, ReplyFields, Role, Status};

/// Handles of the core's metrics.
pub(super) struct Metrics {
    pub(super) sessions_started: Counter,
    sessions_expired: Counter,
    sessions_revoked: Counter,
    messages: Counter,
    duplicates: Counter,
    replies_running: Gauge,
    taken_over: Counter,
    lost_messages: Counter,
    lost_sessions: Counter,
    peers: Gauge,
    complete: Counter,
    stopped: Counter,
    interrupted: Counter,
    failed: Counter,
    failures: Failures,
    exact: TokenCounters,
    estimated: TokenCounters,
    first_delta: Histogram,
    reply: Histogram,
}

struct TokenCounters {
    input: Counter,
    output: Counter,
}

impl TokenCounters {
    fn new(figures: &'static str) -> Self {
        let of = |direction: &'static str| counter!("duologue_tokens_total", "direction" => direction, "figures" => figures);
        Self { input: of("in"), output: of("out") }
    }
}

impl Metrics {
    /// Counts turns that another process has left, or an earlier one.
    pub(super) fn taken_over(&self, turns: usize) {
        self.taken_over.increment(turns as u64);
    }

    /// Counts messages that the store has lost.
    pub(super) fn lost_messages(&self, messages: u32) {
        self.lost_messages.increment(messages.into());
    }

    /// Counts sessions that the store has lost.
    pub(super) fn lost_sessions(&self, sessions: usize) {
        self.lost_sessions.increment(sessions as u64);
    }

    /// Sets the number of other processes that live.
    pub(super) fn set_peers(&self, peers: usize) {
        self.peers.set(peers as f64);
    }

    /// Creates the handles. Must be called after the collector has started.
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
            taken_over: counter!("duologue_turns_taken_over_total"),
            lost_messages: counter!("duologue_store_lost_messages_total"),
            lost_sessions: counter!("duologue_store_lost_sessions_total"),
            peers: gauge!("duologue_peers"),
            complete: replies("complete"),
            stopped: replies("stopped"),
            interrupted: replies("interrupted"),
            failed: replies("failed"),
            failures: Failures::default(),
            exact: TokenCounters::new("exact"),
            estimated: TokenCounters::new("estimated"),
            first_delta: histogram!("duologue_first_delta_seconds"),
            reply: histogram!("duologue_reply_seconds"),
        }
    }

    pub(super) fn session_ended(&self, why: ErrorKind) {
        let revoked = why == ErrorKind::SessionRevoked;
        if revoked { &self.sessions_revoked } else { &self.sessions_expired }.increment(1);
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

    /// Records the end of a reply run.
    pub(super) fn reply_ended(&self, after: Duration) {
        self.replies_running.decrement(1);
        self.reply.record(after);
    }

    pub(super) fn reply(&self, role: &Role) {
        let Role::Assistant(ReplyFields { status, usage, .. }) = role else { return };
        match status {
            Status::Complete => &self.complete,
            Status::Stopped => &self.stopped,
            Status::Interrupted => &self.interrupted,
            Status::Failed(failure) => {
                self.failures.count(&failure.code);
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

/// Counts failed replies by code. A bot chooses its codes, so the number of series is limited.
#[derive(Default)]
struct Failures {
    counters: Mutex<HashMap<Box<str>, Counter>>,
}

impl Failures {
    /// Most codes with a series of their own. Later ones share a series.
    const MAX_CODES: usize = 64;

    fn count(&self, code: &str) {
        self.counter(code).increment(1);
    }

    fn counter(&self, code: &str) -> Counter {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get(code) {
            return counter.clone();
        }
        let counted = is_plain(code) && counters.len() < Self::MAX_CODES;
        let label = if counted { code } else { "other" };
        let counter = counter!("duologue_reply_failures_total", "code" => label.to_owned());
        if counted {
            counters.insert(label.into(), counter.clone());
        }
        counter
    }
}

/// Returns true if the code of a responder has the usual form.
fn is_plain(code: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    code.len() <= 40 && code.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::session::model::{Failure, MessageId};

    fn failed(code: &str) -> Role {
        let failure = Failure { code: code.into(), message: "".into() };
        Role::Assistant(ReplyFields::new(MessageId::generate(), 1, Status::Failed(failure)))
    }

    /// Lines of the exposition that count failures of a code.
    fn series(codes: impl Iterator<Item = String>) -> Vec<String> {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            codes.for_each(|code| metrics.reply(&failed(&code)));
        });
        let all = recorder.handle().render();
        let of_code = |line: &&str| line.starts_with("duologue_reply_failures_total{");
        all.lines().filter(of_code).map(Into::into).collect()
    }

    #[test]
    fn codes_that_are_made_up_make_up_no_series() {
        let letter = |digit: u8| char::from(b'a' + digit - b'0');
        let made_up = (0..600_u32).map(|code| code.to_string().bytes().map(letter).collect());
        let codes = std::iter::once("internal".into()).chain(made_up);
        let series = series(codes.chain(["Not a code".into(), "internal".into()]));
        assert_eq!(series.len(), Failures::MAX_CODES + 1);
        let counted = |line| series.iter().any(|known| known == line);
        assert!(counted(r#"duologue_reply_failures_total{code="internal"} 2"#), "{series:?}");
        assert!(counted(r#"duologue_reply_failures_total{code="other"} 538"#), "{series:?}");
    }
}
