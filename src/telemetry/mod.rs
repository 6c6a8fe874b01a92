//! Logs, and in `metrics` what is counted.
//!
//! One line each when a session starts and ends, when a stream opens and closes, and
//! for a failure with its cause. Never a token, a text, or a URI with its query.
//!
//! The gateway's own lines follow the configured filter. Those of its libraries are
//! held at `warn` whatever it says: at `trace`, the WebSocket library prints every
//! frame and the HTTP libraries print what they parse.

mod metrics;

pub use metrics::{Metrics, collect};

use std::{backtrace::Backtrace, fmt, panic, str::FromStr};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, filter_fn},
    fmt::layer,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which of the gateway's lines.
    pub filter: Filter,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// A filter of `tracing_subscriber`: `info`, `debug`, `duologue::session=trace` …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<EnvFilter>() {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts to log to standard error.
///
/// # Errors
/// If logging has been started already.
pub fn start(settings: &Settings) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter: EnvFilter = settings.filter.0.parse()?;
    // Without it, every line that a library writes at `trace` would be put together
    // before it is refused: several per frame.
    let own = filter_fn(may_speak)
        .with_max_level_hint(filter.max_level_hint().unwrap_or(LevelFilter::TRACE));
    let lines = layer().with_writer(std::io::stderr);
    let lines = if settings.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(false).boxed()
    };
    tracing_subscriber::registry().with(lines.with_filter(filter).with_filter(own)).try_init()?;
    // The standard hook prints the message of a panic, which may hold what a text held.
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(tracing::field::display);
        tracing::error!(place, backtrace = %Backtrace::capture(), "a task panicked");
    }));
    Ok(())
}

fn may_speak(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    own || *metadata.level() <= Level::WARN
}
