//! What is counted of upstreams.

use metrics::counter;

/// An attempt to get an answer: `answered` once its first text is there, else the code of the
/// failure. Upstreams are named by the operator and codes by the gateway, so that the number
/// of series is bounded.
pub(in crate::responder) fn attempt(upstream: &str, outcome: &'static str) {
    counter!("duologue_upstream_attempts_total", "upstream" => upstream.to_owned(), "outcome" => outcome)
        .increment(1);
}
