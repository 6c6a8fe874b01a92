//! Starts and ends the servers.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{sync::oneshot, time::timeout};

use crate::no_limits::NO_LIMITS;
use crate::{Result, options::Options, process::Process, subject::Subject};

/// Time a server has to say where it listens.
const START: Duration = Duration::from_secs(20);

/// Lines of its log that are kept, to be shown when it fails.
const KEPT_LINES: usize = 20;

/// A running server; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    log: Log,
    /// Where its file is, if it has one; gone with it.
    _folder: TempDir,
}

/// The end of what a server wrote.
type Log = Arc<Mutex<VecDeque<String>>>;

impl Server {
    /// Starts a fresh one on a free port, with its default settings but for the store, and
    /// waits until it listens.
    pub(crate) async fn start(subject: Subject, options: &Options) -> Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut child = command(subject, options, folder.path())?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the server does not start: {error}"))?;
        let stderr = child.stderr.take().ok_or("the server has no log")?;
        let log = Log::default();
        let (sender, listening) = oneshot::channel();
        thread::spawn({
            let log = Arc::clone(&log);
            move || follow(stderr, sender, &log)
        });
        // From here on it ends with this value, whatever happens.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { child, address, log, _folder: folder };
        let port = timeout(START, listening).await;
        let port = server.explain(port, "start")?;
        server.address.set_port(server.explain(port, "start")?);
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the kernel's figures of the process.
    pub(crate) fn process(&self) -> Process {
        Process::of(self.child.id())
    }

    /// Adds to a failure what was being done, and the end of the server's log.
    pub(crate) fn explain<T, E: ToString>(&self, result: Result<T, E>, doing: &str) -> Result<T> {
        result.map_err(|error| {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            let lines: Vec<_> = log.iter().map(String::as_str).collect();
            format!(
                "{doing}: {}\nthe server's last lines:\n{}",
                error.to_string(),
                lines.join("\n")
            )
            .into()
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

/// How a subject's server is called.
fn command(subject: Subject, options: &Options, folder: &Path) -> Result<Command> {
    let (program, arguments): (PathBuf, &[&str]) = match subject {
        Subject::Echo => (env::current_exe()?, &["--echo"]),
        // One worker, as there is one core, with the fastest loop, parser and WebSocket
        // implementation of `uvicorn[standard]` (`websockets-sansio` answers 1.6 times the
        // turns of `websockets`). No log line per request, no compression.
        Subject::FastApi => {
            let python = options.python.clone().ok_or("the peer needs --python")?;
            #[rustfmt::skip]
            let arguments = &[
                "-m", "uvicorn", "app:app",
                "--app-dir", concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/fastapi"),
                "--host", "127.0.0.1", "--port", "0",
                "--workers", "1", "--loop", "uvloop", "--http", "httptools",
                "--ws", "websockets-sansio", "--no-access-log", "--ws-per-message-deflate", "false",
            ];
            (python, arguments)
        }
        Subject::Plain | Subject::Json | Subject::Proto | Subject::Grpc => {
            (
                options.duologue.clone(),
                &[
                    "--addr",
                    "127.0.0.1:0",
                    "--ops-addr",
                    "127.0.0.1:0",
                    // All messages of a run have room, as they have with the peer.
                    "--store",
                    "memory",
                    "--max-store-size",
                    "8GiB",
                ],
            )
        }
        Subject::PlainSqlite | Subject::GrpcSqlite => {
            (options.duologue.clone(), &["--addr", "127.0.0.1:0", "--ops-addr", "127.0.0.1:0"])
        }
    };
    let mut command = match options.server_core {
        Some(core) => {
            let mut taskset = Command::new("taskset");
            taskset.arg("-c").arg(core.to_string()).arg(program);
            taskset
        }
        None => Command::new(program),
    };
    // The other servers take no notice of it.
    command.args(arguments).envs(NO_LIMITS);
    if subject.in_memory().is_some() {
        // With its default durability: on the disk before it is acknowledged.
        command.arg("--store").arg(format!("sqlite:{}", folder.join("duologue.db").display()));
    }
    Ok(command)
}

/// Reads a server's log to its end, so that it never waits for a full pipe; tells the port
/// once it is known.
fn follow(stderr: ChildStderr, listening: oneshot::Sender<u16>, log: &Log) {
    let mut listening = Some(listening);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Some(port) = port(&line)
            && let Some(listening) = listening.take()
        {
            // Whoever asked may have given up.
            let _ = listening.send(port);
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == KEPT_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// The port in a line such as `listening on 127.0.0.1:3500`; not that of the metrics.
fn port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("127.0.0.1:").filter(|(_, rest)| !rest.contains('/'))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
