//! The log and the metrics.
//!
//! A line is written when a session starts and ends, when a stream opens and closes, and for a
//! failure with its cause. No line contains a token, a text, or a URI with its query.
//!
//! The gateway's own lines follow the configured filter. Its libraries log at `error` only,
//! whatever the filter says: at `trace`, the WebSocket library prints every frame and the HTTP
//! libraries print what they parse; at `warn`, h2 and rustls write a line for input that any
//! peer can send.

mod error_chain;
mod log_limit;
mod metrics;

pub use error_chain::{causes, error_chain};
pub use log_limit::PEER;
pub use metrics::{Metrics, collect};

use std::{backtrace::Backtrace, fmt, panic, str::FromStr, time::Duration};

use ::metrics::{Counter, counter};
use log_limit::LogLimit;
use tokio::time::interval;
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, filter_fn},
    fmt::layer,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Filter of the gateway's own lines.
    pub filter: LogFilter,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// A filter of `tracing_subscriber`: `info`, `debug`, `duologue::session=trace` …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<EnvFilter>() {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Most lines that wait to be written. Further lines are dropped and counted.
const QUEUED_LINES: usize = 8192;

/// Interval of the reports about dropped and suppressed lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The log. Dropping it writes the queued lines, for a second at most.
#[derive(Debug)]
pub struct Log {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
    limit: LogLimit,
}

/// Starts to log to standard error.
///
/// A separate thread writes the lines. Standard error may be a full pipe, and requests, probes and
/// signals must not wait for it.
///
/// # Errors
/// Logging was started already.
pub fn start(settings: &Settings) -> Result<Log, Box<dyn std::error::Error + Send + Sync>> {
    let filter: EnvFilter = settings.filter.0.parse()?;
    // Otherwise every line that a library writes at `trace` would be formatted before it is
    // refused: several per frame.
    let own = filter_fn(may_log)
        .with_max_level_hint(filter.max_level_hint().unwrap_or(LevelFilter::TRACE));
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("log-writer")
        .finish(std::io::stderr());
    let (dropped, limit) = (writer.error_counter(), LogLimit::default());
    let lines = layer().with_writer(writer);
    let lines = if settings.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(false).boxed()
    };
    let lines = lines.with_filter(limit.clone()).with_filter(filter).with_filter(own);
    tracing_subscriber::registry().with(lines).try_init()?;
    // The standard hook prints the message of a panic, which may contain the text of a user.
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(tracing::field::display);
        tracing::error!(place, backtrace = %Backtrace::capture(), "a task panicked");
    }));
    Ok(Log { _writer: guard, dropped, limit })
}

impl Log {
    /// Returns a future that counts and reports lost lines for as long as it is polled.
    pub fn report_lost_lines(&self) -> impl Future<Output = ()> + Send + use<> {
        let (counter, limit) = (self.dropped.clone(), self.limit.clone());
        async move {
            let mut ticks = interval(REPORT_INTERVAL);
            let (mut dropped, mut suppressed) =
                (LostLines::new("queue_full"), LostLines::new("rate_limit"));
            loop {
                ticks.tick().await;
                let before = counter.dropped_lines();
                let lost = (dropped.update(before as u64), suppressed.update(limit.suppressed()));
                if lost == (0, 0) {
                    continue;
                }
                tracing::warn!(dropped = lost.0, suppressed = lost.1, "log lines are missing");
                // If the report itself was dropped, it is repeated.
                if counter.dropped_lines() == before {
                    (dropped.reported, suppressed.reported) = (dropped.counted, suppressed.counted);
                }
            }
        }
    }
}

/// Lines that were lost for one reason.
struct LostLines {
    counter: Counter,
    counted: u64,
    reported: u64,
}

impl LostLines {
    fn new(reason: &'static str) -> Self {
        let counter = counter!("duologue_log_lines_dropped_total", "reason" => reason);
        Self { counter, counted: 0, reported: 0 }
    }

    /// Counts new losses. Returns the number of unreported ones.
    fn update(&mut self, total: u64) -> u64 {
        self.counter.increment(total.saturating_sub(self.counted));
        self.counted = total;
        total - self.reported
    }
}

/// Libraries log at `error` only: h2 and rustls warn about input that any peer can send.
fn may_log(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    own || *metadata.level() <= Level::ERROR
}
