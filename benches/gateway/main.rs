//! What one server core of the gateway carries, beside the FastAPI service it replaces.
//!
//! `benches/run` prepares the peer, pins both ends to a core each, and calls this
//! program; `cargo bench` alone measures the gateway without its peer. Three
//! measurements:
//!
//! - [`load`]: turns per second, time of one turn, processor time per turn;
//! - [`idle`]: resident bytes per idle connection;
//! - [`frames`]: turns made of two small writes, which take 40 ms each where Nagle's
//!   algorithm meets a delayed acknowledgement.
//!
//! Subjects take turns in short rounds on a fresh server each, in another order every
//! round, so that whatever else the machine does falls on all of them; where that is
//! much, the measurement is repeated ([`undisturbed`]). Every reply is
//! checked ([`ledger`]): a wrong, missing or superfluous one fails the run.

mod client;
mod echo;
mod event;
mod frame;
mod frames;
mod grpc;
mod http;
mod idle;
mod ledger;
mod load;
#[path = "../no_limits.rs"]
mod no_limits;
mod options;
mod process;
mod report;
mod server;
mod spread;
mod subject;
mod thousands;
mod websocket;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::Parser as _;
use tokio::time::sleep;

use crate::{
    load::{Load, Shape},
    options::Options,
    process::Process,
    report::Report,
    server::Server,
    subject::Subject,
};

/// What the fallible functions of this program return.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The sentence with which every subject answers every message.
const REPLY: &str = "Response: Simulating response from the GPT service";

/// What is sent to it.
const MESSAGE: &str = "Hello Bot";

fn main() -> ExitCode {
    match start(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One thread, whichever end it is: each has one core.
fn start(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.echo {
        return runtime.block_on(echo::serve());
    }
    let report = runtime.block_on(run(options))?;
    print!("{report}");
    Ok(())
}

/// All measurements, subjects interleaved.
async fn run(options: &Options) -> Result<Report> {
    let subjects = options.subjects();
    // A gRPC connection takes two descriptors while it is being opened.
    Process::this().require_descriptors(options.connections + 256)?;
    let mut report = Report::new(options, &subjects);

    for round in 0..options.rounds {
        for subject in rotated(&subjects, round) {
            for shape in load::SHAPES {
                eprintln!("round {}/{}: {subject}, {shape}", round + 1, options.rounds);
                report.load(subject, shape, undisturbed(subject, shape, options).await?);
            }
            if subject.in_memory().is_some() {
                continue;
            }
            let server = Server::start(subject, options).await?;
            let outcome = frames::measure(subject, &server).await;
            report.frames(subject, server.explain(outcome, "two frames")?);
        }
    }
    for &subject in subjects.iter().filter(|subject| subject.in_memory().is_none()) {
        eprintln!("{subject}: {} idle connections", options.connections);
        let server = Server::start(subject, options).await?;
        let outcome = idle::measure(subject, &server, options.connections).await;
        report.idle(subject, server.explain(outcome, "idle")?);
    }
    Ok(report)
}

/// Share of a core that the rest of the machine may take during a measurement.
const QUIET: f64 = 0.1;

/// A measurement during which the rest of the machine was quiet, or the quietest of some.
async fn undisturbed(subject: Subject, shape: Shape, options: &Options) -> Result<Load> {
    const ATTEMPTS: usize = 4;
    let mut best = attempt(subject, shape, options).await?;
    for _ in 1..ATTEMPTS {
        if best.others_share <= QUIET {
            break;
        }
        let others = best.others_share * 100.0;
        eprintln!("other processes took {others:.0} % of a core: again");
        let load = attempt(subject, shape, options).await?;
        if load.others_share < best.others_share {
            best = load;
        }
    }
    Ok(best)
}

/// A measurement on a fresh server.
async fn attempt(subject: Subject, shape: Shape, options: &Options) -> Result<Load> {
    until_quiet().await?;
    let server = Server::start(subject, options).await?;
    let outcome = load::measure(subject, &server, shape, options.window()).await;
    server.explain(outcome, "load")
}

/// Waits until the rest of the machine is quiet, for a while.
async fn until_quiet() -> Result<()> {
    const GLANCE: Duration = Duration::from_millis(300);
    const GLANCES: usize = 200;
    for _ in 0..GLANCES {
        let before = process::machine_time()?;
        sleep(GLANCE).await;
        let busy = process::machine_time()? - before;
        if busy <= GLANCE.mul_f64(QUIET) {
            break;
        }
    }
    Ok(())
}

/// The subjects in the order of a round: everyone is first, in the middle and last in turn.
fn rotated(subjects: &[Subject], round: usize) -> impl Iterator<Item = Subject> {
    let count = subjects.len();
    (0..count).map(move |place| subjects[(place + round) % count])
}

/// How long a measurement may take beyond its own time before a reply counts as missing.
const PATIENCE: Duration = Duration::from_secs(15);
