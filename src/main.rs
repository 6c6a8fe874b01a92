//! Parse, log, serve, exit code.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use duologue::{
    cli::{Cli, Command, Refusal, env_file},
    commands,
    config::Config,
    responder::{self, openai},
    server::{Operations, Server},
    session::Gateway,
    store, telemetry,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Exit code for settings that are wrong (sysexits.h EX_CONFIG).
const BAD_CONFIG: u8 = 78;

/// Exit code for a command that cannot be used so.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    // Before the runtime and its threads exist: it changes the environment.
    if let Err(line) = env_file::load() {
        return refuse(&line);
    }
    match Cli::command() {
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Serve(config)) => run(&config),
        Ok(Command::CheckUpstream(settings)) => check_upstream(&settings),
        Ok(Command::Administer(command, config)) => {
            match commands::run(&command, &config.store, &config.session) {
                Ok(()) => ExitCode::SUCCESS,
                Err(line) => {
                    // `eprintln` panics when nobody reads it, with a code of its own.
                    drop(writeln!(io::stderr(), "duologue: {line}"));
                    ExitCode::FAILURE
                }
            }
        }
        Err(Refusal::Setting(line)) => refuse(&line),
        Err(Refusal::Flag(explanation)) => {
            eprint!("{explanation}");
            ExitCode::from(BAD_CONFIG)
        }
        Err(Refusal::Usage(explanation)) => {
            eprint!("{explanation}");
            ExitCode::from(BAD_USAGE)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check_upstream(settings: &openai::Settings) -> ExitCode {
    let checked = Runtime::new()
        .and_then(|runtime| runtime.block_on(openai::check(settings, &mut io::stdout())));
    match checked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => refuse(&error.to_string()),
        Err(error) => {
            eprintln!("duologue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(line: &str) -> ExitCode {
    eprintln!("duologue: {line}");
    ExitCode::from(BAD_CONFIG)
}

fn run(config: &Config) -> ExitCode {
    match telemetry::start(&config.telemetry).and_then(|log| Ok((log, Runtime::new()?))) {
        Ok((log, runtime)) => {
            let served = runtime.block_on(serve(config, &log));
            // What is left is connections that were told to end and did not.
            runtime.shutdown_background();
            match served {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(error = in_full(&*error), "the gateway cannot run");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => refuse(&error.to_string()),
    }
}

/// An error with its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn serve(config: &Config, log: &telemetry::Log) -> Result<(), Error> {
    for name in Cli::unknown_variables() {
        // Not refused: orchestrators set variables of this form by themselves.
        tracing::warn!(name, "an environment variable is no setting of this version");
    }
    if let Some(warning) = &config.warning {
        tracing::warn!("{warning}");
    }
    // Sockets are files, and most systems allow 1,024 unless asked.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    // First of all, so that nothing is counted before somebody collects it.
    let operations = operations(config.server.ops_addr)?;
    tokio::spawn(log.report_lost_lines());
    let addr = config.server.addr;
    let server = Server::bind(config.server.clone())
        .map_err(|error| format!("cannot listen on {addr}: {error}"))?;
    let store = store::open(&config.store)?;
    let responder = responder::connect(&config.responder)?;
    let gateway = Gateway::start(config.session.clone(), store, responder).await?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut hangup, reload) = (signal(SignalKind::hangup())?, server.reload());
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One after the other; signals that come meanwhile are one.
            reload().await;
        }
    });
    if let Some(operations) = operations {
        tracing::info!("metrics at http://{}/metrics", operations.local_addr()?);
        tokio::spawn(operations.serve(gateway.clone()));
    }
    tracing::info!("listening on {}", server.local_addr()?);

    let asked = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // With these very streams: new ones would miss a signal that comes in between.
        tokio::spawn(exit_at_second_signal(terminate, interrupt));
    };
    let failed = gateway.clone();
    tokio::select! {
        served = server.serve(gateway, config.transport.clone(), asked) => served.map(|_| ()),
        cause = failed.store_failed() => Err(format!("the store has failed: {}", in_full(&cause)).into()),
    }
}

fn operations(addr: Option<SocketAddr>) -> Result<Option<Operations>, Error> {
    let Some(addr) = addr else { return Ok(None) };
    let bound = Operations::bind(addr, telemetry::collect()?);
    Ok(Some(
        bound.map_err(|error| {
            format!("cannot listen on {addr} for metrics (--ops-addr): {error}")
        })?,
    ))
}

/// Whoever asks twice does not want to wait.
async fn exit_at_second_signal(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("stopped by a second signal");
    std::process::exit(130);
}
