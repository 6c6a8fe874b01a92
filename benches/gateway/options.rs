//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::{load::Window, subject::Subject};

/// Measures the gateway beside its peer. See `benches/run`, which sets both up.
#[derive(Parser)]
pub(crate) struct Options {
    /// The gateway's program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_duologue"))]
    pub(crate) duologue: PathBuf,

    /// The interpreter of an environment that holds the peer's requirements; without
    /// it the peer is left out.
    #[arg(long)]
    pub(crate) python: Option<PathBuf>,

    /// The core that the servers run on; without it they run where this program may.
    #[arg(long)]
    pub(crate) server_core: Option<usize>,

    /// Rounds of every subject and shape.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,

    /// Seconds of one measurement.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,

    /// Idle connections.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) connections: usize,

    /// Only these subjects.
    #[arg(long, value_enum)]
    only: Vec<Subject>,

    /// Be the bare echo instead.
    #[arg(long, hide = true)]
    pub(crate) echo: bool,

    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// What is measured.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        Subject::ALL
            .into_iter()
            .filter(|subject| self.python.is_some() || *subject != Subject::FastApi)
            .filter(|subject| self.only.is_empty() || self.only.contains(subject))
            .collect()
    }

    /// The time of one measurement, and a sixth of it before, to warm up.
    pub(crate) fn window(&self) -> Window {
        Window {
            warm_up: Duration::from_secs_f64(self.seconds / 6.0),
            measured: Duration::from_secs_f64(self.seconds),
        }
    }
}
