//! Metrics of upstreams.

use metrics::counter;

/// Counts an attempt: `answered` once its first text has arrived, otherwise the code of the
/// failure. The operator names the upstreams and the gateway the codes, so the number of series is
/// bounded.
pub(in crate::responder) fn attempt(upstream: &str, outcome: &'static str) {
    counter!("duologue_upstream_attempts_total", "upstream" => upstream.to_owned(), "outcome" => outcome)
        .increment(1);
}
