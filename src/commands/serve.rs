//! The gateway as a process: open the parts, serve, stop at a signal.

use std::{path::PathBuf, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    identity::{self, Credentials},
    responder,
    server::{self, Operations, Server},
    session::{self, Gateway},
    store, telemetry,
    transport::{self, Hosts},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Settings of every part of the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits and deadlines of sessions.
    pub session: session::Settings,
    /// The check of credentials.
    pub identity: identity::Settings,
    /// The file of the API keys, whether or not they are accepted.
    pub key_file: PathBuf,
    /// The store of the sessions.
    pub store: store::Settings,
    /// The source of replies.
    pub responder: responder::Settings,
    /// The protocols.
    pub transport: transport::Settings,
    /// The port.
    pub server: server::Settings,
}

/// Serves until SIGTERM or SIGINT, and until the running replies have ended.
///
/// # Errors
/// One line for the operator: an address is in use, the store cannot be opened or has failed.
pub async fn serve(settings: &Settings, log: &telemetry::Log) -> Result<(), Error> {
    // Sockets count as open files, and the usual limit is 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    // First, so that every metric is collected from the start.
    let operations = operations(&settings.server, &settings.transport.hosts)?;
    tokio::spawn(log.report_lost_lines());
    let addr = &settings.server.addr;
    let server = Server::bind(settings.server.clone())
        .map_err(|error| format!("cannot listen on {addr}: {error}"))?;
    let storage = store::open(&settings.store).await?;
    let responder = responder::connect(&settings.responder)?;
    let credentials = Arc::new(Credentials::start(&settings.identity)?);
    let session = settings.session.clone();
    let gateway = Gateway::start_with(session, storage, responder, credentials).await?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut hangup, reload) = (signal(SignalKind::hangup())?, server.reload());
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One reload at a time. Signals that arrive meanwhile count as one.
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
        // Uses these signal streams: new ones would miss a signal that arrives in between.
        tokio::spawn(exit_at_second_signal(terminate, interrupt));
    };
    let failed = gateway.clone();
    tokio::select! {
        served = server.serve(gateway, settings.transport.clone(), asked) => served.map(|_| ()),
        cause = failed.store_failed() => Err(format!("the store has failed: {}", telemetry::error_chain(&cause)).into()),
    }
}

fn operations(settings: &server::Settings, hosts: &Hosts) -> Result<Option<Operations>, Error> {
    let Some(addr) = settings.ops_addr else { return Ok(None) };
    let bound = Operations::bind(addr, telemetry::collect()?, hosts.clone());
    let bound = bound
        .map_err(|error| format!("cannot listen on {addr} for metrics (--ops-addr): {error}"))?;
    Ok(Some(bound.ready_while_degraded(settings.ready_while_degraded)))
}

/// Ends the process at once at a second signal.
async fn exit_at_second_signal(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("stopped by a second signal");
    std::process::exit(130);
}
