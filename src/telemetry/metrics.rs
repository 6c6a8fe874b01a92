//! Metrics, in the text format of Prometheus.
//!
//! Modules record metrics with the macros of the `metrics` crate. Only this module knows the
//! collector. No label contains a value that users choose, so the number of series is bounded.

use metrics::{
    Unit, describe_counter, describe_gauge, describe_histogram, gauge, set_global_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// Buckets of short durations in seconds: a commit, a sweep.
const SHORT: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// Buckets of the durations of a model, in seconds.
const LONG: &[f64] =
    &[0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The metrics since the start of the process.
#[derive(Clone)]
pub struct Metrics {
    collected: PrometheusHandle,
    process: Collector,
}

/// Starts to collect. Earlier values are lost.
///
/// # Errors
/// A collector exists already.
pub fn collect() -> Result<Metrics, Box<dyn std::error::Error + Send + Sync>> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(LONG)?
        .set_buckets_for_metric(Matcher::Prefix("duologue_store_".into()), SHORT)?
        .build_recorder();
    let collected = recorder.handle();
    set_global_recorder(recorder)?;
    describe();
    let process = Collector::default();
    process.describe();
    gauge!("duologue_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(Metrics { collected, process })
}

impl Metrics {
    /// Returns all metrics, for `GET /metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        self.collected.render()
    }

    /// Sums up the values of histograms. Until then each value is kept, so it must be called every
    /// few seconds.
    pub fn sum_up(&self) {
        self.collected.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Describes each metric. docs/OPERATIONS.md lists them, too.
fn describe() {
    for (name, unit, text) in COUNTERS {
        describe_counter!(*name, *unit, *text);
    }
    for (name, text) in GAUGES {
        describe_gauge!(*name, *text);
    }
    for (name, text) in HISTOGRAMS {
        describe_histogram!(*name, Unit::Seconds, *text);
    }
}

const COUNTERS: &[(&str, Unit, &str)] = &[
    ("duologue_connections_total", Unit::Count, "Connections accepted"),
    ("duologue_connections_refused_total", Unit::Count, "Connections beyond the limit"),
    ("duologue_tls_failures_total", Unit::Count, "Failed TLS handshakes"),
    ("duologue_streams_closed_total", Unit::Count, "Streams that ended, by reason"),
    ("duologue_refusals_total", Unit::Count, "Failures reported to clients, by code"),
    ("duologue_sessions_started_total", Unit::Count, "Sessions created"),
    ("duologue_sessions_ended_total", Unit::Count, "Sessions expired or revoked"),
    ("duologue_messages_total", Unit::Count, "User messages accepted"),
    ("duologue_duplicates_total", Unit::Count, "User messages that had been accepted before"),
    ("duologue_replies_total", Unit::Count, "Replies committed, by status"),
    ("duologue_reply_failures_total", Unit::Count, "Failed replies, by code"),
    ("duologue_tokens_total", Unit::Count, "Tokens of the model"),
    (
        "duologue_upstream_attempts_total",
        Unit::Count,
        "Attempts to get a reply from an upstream, by outcome",
    ),
    (
        "duologue_log_lines_dropped_total",
        Unit::Count,
        "Log lines that were not written, by reason: queue_full, rate_limit",
    ),
    ("duologue_store_writes_total", Unit::Count, "Writes of the store; several share a commit"),
    ("duologue_turns_taken_over_total", Unit::Count, "Turns taken over from dead gateways"),
    ("duologue_redis_connections_total", Unit::Count, "Connections to the Redis or Valkey server"),
    ("duologue_notes_total", Unit::Count, "Changes of sessions by other gateways, as received"),
    ("duologue_peer_messages_total", Unit::Count, "Messages to other gateways about replies"),
    ("duologue_peer_bytes_total", Unit::Bytes, "Bytes of these messages"),
    (
        "duologue_redis_redirects_total",
        Unit::Count,
        "Requests that a server of a cluster has sent to another one",
    ),
    (
        "duologue_store_lost_messages_total",
        Unit::Count,
        "Acknowledged messages that the store has lost, of sessions in use",
    ),
    ("duologue_store_lost_sessions_total", Unit::Count, "Sessions in use that the store has lost"),
    (
        "duologue_redis_inbox_reconnects_total",
        Unit::Count,
        "Reconnects of the connection for notes of other gateways",
    ),
];

const GAUGES: &[(&str, &str)] = &[
    ("duologue_build_info", "Always 1; the label is the version"),
    ("duologue_connections", "Open connections"),
    ("duologue_streams", "Open streams"),
    ("duologue_sessions_active", "Sessions with a stream or a running turn"),
    ("duologue_replies_running", "Replies in progress"),
    ("duologue_sessions_owned", "Sessions whose turns this gateway answers, over shared stores"),
    ("duologue_peers", "Other living gateways on the same store"),
    ("duologue_waiting_response_bytes", "Bytes of pages that wait to be read by their clients"),
    ("duologue_draining", "1 while the gateway shuts down"),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    ("duologue_redis_script_seconds", "A script of the store, including the network"),
    ("duologue_store_commit_seconds", "A commit of the store, with its fsync"),
    ("duologue_first_delta_seconds", "From the start of a reply to its first text"),
    ("duologue_reply_seconds", "From the start of a reply to its end"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_listed_in_the_documentation() {
        let documentation = include_str!("../../docs/OPERATIONS.md");
        let counters = COUNTERS.iter().map(|(name, ..)| name);
        let rest = GAUGES.iter().chain(HISTOGRAMS).map(|(name, _)| name);
        for name in counters.chain(rest) {
            assert!(documentation.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
