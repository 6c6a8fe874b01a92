//! What the store's file costs: messages per second that are on disk when they are
//! acknowledged, how long a sweep holds up the others, and the start on a million sessions.
//!
//! `benches/run` calls it. Everything is measured in one run, in rounds, beside a bare loop
//! that writes the same rows with the same settings and looks at nothing ([`bare`]), and
//! beside the memory store, so that the ratios hold on a machine whose disk is another.

mod append;
mod bare;
#[path = "../gateway/process.rs"]
#[expect(dead_code, reason = "shared with the other benchmark")]
mod process;
#[path = "../gateway/spread.rs"]
mod spread;
mod start;
mod sweep;
#[path = "../gateway/thousands.rs"]
mod thousands;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use self::thousands::thousands;

/// What the fallible functions of this program return.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures the store. See `benches/run`.
#[derive(Parser)]
struct Options {
    /// The gateway's program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_duologue"))]
    duologue: PathBuf,

    /// Where the files are made: on the disk that is meant.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    folder: PathBuf,

    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Seconds of one measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// Sessions in the file that the gateway starts on.
    #[arg(long, default_value_t = 1_000_000)]
    sessions: u64,

    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // As the gateway itself runs.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    print!("{}", runtime.block_on(append::measure(options))?);
    print!("{}", runtime.block_on(sweep::measure(options))?);
    print!("{}", start::measure(options)?);
    Ok(())
}

/// A folder for one measurement's file; gone when dropped.
fn place(options: &Options) -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(&options.folder)?)
}
