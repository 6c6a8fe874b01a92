//! Starts and ends the servers between the clients and the model.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Instant, sleep},
};

use crate::no_limits::NO_LIMITS;
use crate::{Options, Result, http, process::Process, subject::Subject, upstream::Upstream};

/// Time a server has to answer. The proxy's modules take long to read the first time.
const START: Duration = Duration::from_secs(120);

/// Bytes of its log that are shown when it fails.
const SHOWN: usize = 4 << 10;

/// All of them, each running for the whole of the run.
pub(crate) struct Servers {
    pub(crate) upstream: Upstream,
    /// What the proxy lets in.
    pub(crate) key: String,
    relay: Server,
    litellm: Option<Server>,
    gateway: Server,
}

impl Servers {
    /// Starts them.
    pub(crate) async fn start(upstream: Upstream, options: &Options) -> Result<Self> {
        let key = format!("sk-{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let litellm = if options.litellm.is_some() {
            eprintln!("starting the proxy");
            Some(
                Server::start(
                    litellm(options, &upstream, &key),
                    options,
                    Some("/health/liveliness"),
                )
                .await?,
            )
        } else {
            None
        };
        let gateway = Server::start(gateway(options, &upstream), options, Some("/healthz")).await?;
        let relay = Server::start(relay(&upstream)?, options, None).await?;
        Ok(Self { upstream, key, relay, litellm, gateway })
    }

    /// The one of a subject; the model itself is none.
    pub(crate) fn of(&self, subject: Subject) -> Option<&Server> {
        match subject {
            Subject::Direct => None,
            Subject::Relay => Some(&self.relay),
            Subject::LiteLlm => self.litellm.as_ref(),
            Subject::Json | Subject::Grpc => Some(&self.gateway),
        }
    }

    /// Where its clients go.
    pub(crate) fn address(&self, subject: Subject) -> Result<SocketAddr> {
        match (subject, self.of(subject)) {
            (Subject::Direct, _) => Ok(self.upstream.address()),
            (_, Some(server)) => Ok(server.address),
            (_, None) => Err("it does not run".into()),
        }
    }

    /// What there is to measure.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let all = Subject::ALL.into_iter();
        all.filter(|subject| self.address(*subject).is_ok()).collect()
    }
}

/// A running server; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Where its log is.
    folder: TempDir,
}

impl Server {
    /// Starts one on a free port, and waits until it answers on `path`, or listens.
    async fn start(
        command: impl FnOnce(SocketAddr) -> Command,
        options: &Options,
        path: Option<&str>,
    ) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = free.local_addr()?;
        drop(free);
        let folder = tempfile::tempdir()?;
        let log = File::create(folder.path().join("log"))?;
        let child = pinned(&command(address), options.server_core)?
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("the server does not start: {error}"))?;
        // From here on it ends with this value, whatever happens.
        let mut server = Self { child, address, folder };
        let limit = Instant::now() + START;
        while !answers(address, path).await.unwrap_or(false) {
            let ended = server.child.try_wait()?.is_some();
            if ended || Instant::now() > limit {
                return server.explain(Err("it does not answer"), "start");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    /// Returns the kernel's figures of the process.
    pub(crate) fn process(&self) -> Process {
        Process::of(self.child.id())
    }

    /// Adds to a failure what was being done, and the end of the server's log.
    pub(crate) fn explain<T, E: ToString>(&self, result: Result<T, E>, doing: &str) -> Result<T> {
        result.map_err(|error| {
            let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
            let end = String::from_utf8_lossy(&log[log.len().saturating_sub(SHOWN)..]);
            format!("{doing}: {}\nthe server's last lines:\n{end}", error.to_string()).into()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It holds nothing worth a shutdown, and may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, as a relay.
fn relay(upstream: &Upstream) -> Result<impl FnOnce(SocketAddr) -> Command + use<>> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("--relay-to").arg(upstream.address().to_string());
    Ok(|address: SocketAddr| {
        command.arg("--relay-at").arg(address.to_string());
        command
    })
}

/// The proxy, as its documentation wants it in production: one worker for its core, on
/// uvloop and httptools, as it does by itself; errors are all that is logged; neither a
/// database nor callbacks. Prices come from its own package, not from the network.
fn litellm(
    options: &Options,
    upstream: &Upstream,
    key: &str,
) -> impl FnOnce(SocketAddr) -> Command {
    let mut command = Command::new(options.litellm.clone().unwrap_or_default());
    command
        .args([
            "--config",
            concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/litellm/config.yaml"),
        ])
        .args(["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"])
        .env("UPSTREAM", format!("http://{}/v1", upstream.address()))
        .env("LITELLM_MASTER_KEY", key)
        .env("LITELLM_MODE", "PRODUCTION")
        .env("LITELLM_LOG", "ERROR")
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    |address| {
        command.arg("--port").arg(address.port().to_string());
        command
    }
}

/// The gateway with its default settings, but for memory as the store and as many places
/// at the model as there are replies at a time.
fn gateway(options: &Options, upstream: &Upstream) -> impl FnOnce(SocketAddr) -> Command {
    let mut command = Command::new(&options.duologue);
    command
        .envs(NO_LIMITS)
        .args(["--ops-addr", "127.0.0.1:0", "--store", "memory", "--max-store-size", "8GiB"])
        .args(["--responder", "openai", "--openai-model", "scripted"])
        .args(["--openai-concurrency", &options.replies.max(64).to_string()])
        .args(["--openai-base-url", &format!("http://{}/v1", upstream.address())]);
    |address| {
        command.arg("--addr").arg(address.to_string());
        command
    }
}

/// The same on one core.
fn pinned(command: &Command, core: Option<usize>) -> Result<Command> {
    // It runs in a folder of its own.
    let program = path::absolute(command.get_program())?;
    let mut pinned = match core {
        Some(core) => {
            let mut taskset = Command::new("taskset");
            taskset.arg("-c").arg(core.to_string()).arg(&program);
            taskset
        }
        None => Command::new(&program),
    };
    pinned.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            pinned.env(name, value);
        }
    }
    Ok(pinned)
}

/// It is up.
async fn answers(address: SocketAddr, path: Option<&str>) -> Result<bool> {
    let mut stream = http::connect(address).await?;
    let Some(path) = path else { return Ok(true) };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
