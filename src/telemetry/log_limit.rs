//! Limits the log lines that a peer without a token can cause.
//!
//! Such lines carry the target [`PEER`]. Each place in the code that writes one has a token bucket
//! of its own, so that a flood of one kind does not hide the others. Lines beyond the limit are
//! counted and reported in one line later.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tracing::{Event, Metadata, callsite::Identifier};
use tracing_subscriber::layer::{Context, Filter};

/// The log target of lines that a peer without a token can cause.
pub const PEER: &str = concat!(env!("CARGO_CRATE_NAME"), "::peer");

/// Lines of one kind per second, in the long run.
const RATE: f64 = 20.0;

/// Lines of one kind at once.
const BURST: f64 = 200.0;

/// The filter. Clones share its state.
#[derive(Clone, Debug, Default)]
pub(super) struct LogLimit(Arc<State>);

#[derive(Debug, Default)]
struct State {
    buckets: Mutex<HashMap<Identifier, Bucket>>,
    suppressed: AtomicU64,
}

#[derive(Debug)]
struct Bucket {
    lines: f64,
    at: Instant,
}

impl LogLimit {
    /// Returns the number of suppressed lines since the process started.
    pub(super) fn suppressed(&self) -> u64 {
        self.0.suppressed.load(Ordering::Relaxed)
    }

    fn admit(&self, callsite: Identifier, now: Instant) -> bool {
        let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(callsite).or_insert(Bucket { lines: BURST, at: now });
        let refill = now.saturating_duration_since(bucket.at).as_secs_f64() * RATE;
        (bucket.lines, bucket.at) = ((bucket.lines + refill).min(BURST), now);
        let admitted = bucket.lines >= 1.0;
        if admitted {
            bucket.lines -= 1.0;
        } else {
            self.0.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

impl<S> Filter<S> for LogLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        metadata.target() != PEER || self.admit(metadata.callsite(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing::callsite::Callsite as _;

    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_cut_counted_and_hides_no_other() {
        let limit = LogLimit::default();
        let kinds =
            [tracing::callsite!(name: "a", kind: tracing::metadata::Kind::EVENT, fields: ), {
                tracing::callsite!(name: "b", kind: tracing::metadata::Kind::EVENT, fields: )
            }]
            .map(|callsite| callsite.metadata().callsite());
        let start = Instant::now();
        let admitted =
            |kind: usize, at| (0..1000).filter(|_| limit.admit(kinds[kind].clone(), at)).count();
        assert_eq!(admitted(0, start), BURST as usize);
        assert_eq!(admitted(1, start), BURST as usize);
        assert_eq!(limit.suppressed(), 2000 - 2 * BURST as u64);
        assert_eq!(admitted(0, start + Duration::from_secs(1)), RATE as usize);
    }
}
