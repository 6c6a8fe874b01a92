//! What the gateway adds to a model's answers, beside the LiteLLM proxy in front of the
//! same model.
//!
//! `benches/run model` prepares the proxy, pins both ends to a core each, and calls this
//! program; `cargo bench --bench model` alone measures without the proxy. The model is a
//! server of this program ([`upstream`]) that streams its script; every delta
//! carries the time at which it was written ([`stamp`]). Measured are
//!
//! - the time to the first text, and how long each delta is under way, at one reply at a
//!   time and at many, beside the model itself;
//! - deltas per second through one server core, when the model never makes anyone wait;
//! - resident bytes per running reply.
//!
//! Subjects take turns in short rounds, in another order every round. Every reply is
//! checked: a missing, wrong or superfluous delta, or an end that is none, fails the run.

mod body;
#[path = "../gateway/event.rs"]
#[expect(dead_code, reason = "shared with the other benchmark")]
mod event;
#[path = "../gateway/frame.rs"]
#[expect(dead_code, reason = "shared with the other benchmark")]
mod frame;
mod grpc;
#[path = "../gateway/http.rs"]
mod http;
mod load;
#[path = "../no_limits.rs"]
mod no_limits;
#[path = "../gateway/process.rs"]
#[expect(dead_code, reason = "shared with the other benchmark")]
mod process;
mod relay;
mod reply_timer;
mod report;
mod server;
mod socket;
#[path = "../gateway/spread.rs"]
mod spread;
mod sse;
mod stamp;
mod subject;
#[path = "../gateway/thousands.rs"]
mod thousands;
mod upstream;

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    load::{Load, Shape},
    report::Report,
    server::Servers,
    subject::Subject,
    upstream::{Script, Upstream},
};

/// What the fallible functions of this program return.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// What is asked every time.
const MESSAGE: &str = "Hello Bot";

/// Measures the gateway in front of a model. See `benches/run`.
#[derive(Parser)]
struct Options {
    /// The gateway's program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_duologue"))]
    duologue: PathBuf,

    /// The proxy's program; without it the proxy is left out.
    #[arg(long)]
    litellm: Option<PathBuf>,

    /// The core that the servers run on; without it they run where this program may.
    #[arg(long)]
    server_core: Option<usize>,

    /// Rounds of every subject and shape.
    #[arg(long, default_value_t = 2)]
    rounds: usize,

    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// Replies at a time, where there are many.
    #[arg(long, default_value_t = 200)]
    replies: usize,

    /// From one delta to the next, where there are many replies.
    #[arg(long, default_value = "400ms", value_parser = humantime::parse_duration)]
    interval: Duration,

    /// Serves as the relay to this address, …
    #[arg(long, hide = true, requires = "relay_at")]
    relay_to: Option<SocketAddr>,

    /// … at this one.
    #[arg(long, hide = true, requires = "relay_to")]
    relay_at: Option<SocketAddr>,

    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// One reply at a time, many, and as many deltas as go through.
    fn shapes(&self) -> [Shape; 3] {
        let measured = Duration::from_secs_f64(self.seconds);
        [(1, 20, self.interval / 80), (self.replies, 20, self.interval), (16, 500, Duration::ZERO)]
            .map(|(replies, deltas, interval)| Shape {
                replies,
                script: Script { deltas, interval },
                measured,
            })
    }
}

fn main() -> ExitCode {
    match start(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One thread for the model and its clients, as the servers have one core.
fn start(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let (Some(to), Some(at)) = (options.relay_to, options.relay_at) {
        return runtime.block_on(relay::serve(at, to));
    }
    let report = runtime.block_on(run(options))?;
    print!("{report}");
    Ok(())
}

/// All measurements, subjects interleaved.
async fn run(options: &Options) -> Result<Report> {
    let shapes = options.shapes();
    let [_, many, _] = shapes;
    let upstream = Upstream::start(many.script).await?;
    let servers = Servers::start(upstream, options).await?;
    let subjects = servers.subjects();
    let mut report = Report::new(options, &subjects);

    // First, while what they have learned to keep is not there yet.
    for &subject in subjects.iter().filter(|subject| servers.of(**subject).is_some()) {
        eprintln!("memory: {subject}");
        report.memory(subject, load::memory(subject, &servers, many).await?);
    }
    for round in 0..options.rounds {
        for place in 0..subjects.len() {
            let subject = subjects[(place + round) % subjects.len()];
            for (number, shape) in shapes.into_iter().enumerate() {
                eprintln!(
                    "round {}/{}: {subject}, {} at a time",
                    round + 1,
                    options.rounds,
                    shape.replies
                );
                report.load(subject, number, undisturbed(subject, &servers, shape).await?);
            }
        }
    }
    Ok(report)
}

/// Share of a core that the rest of the machine may take during a measurement.
const QUIET: f64 = 0.1;

/// A measurement, and a second one if the rest of the machine was not quiet; the quieter.
async fn undisturbed(subject: Subject, servers: &Servers, shape: Shape) -> Result<Load> {
    let first = load::measure(subject, servers, shape).await?;
    if first.others_share <= QUIET {
        return Ok(first);
    }
    eprintln!("other processes took {:.0} % of a core: again", first.others_share * 100.0);
    let second = load::measure(subject, servers, shape).await?;
    Ok(if second.others_share < first.others_share { second } else { first })
}
