//! Real servers of Redis and Valkey, each with its own folder and port.

use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use duologue::store::{RedisStore, RedisUrl};
use tempfile::TempDir;

/// A running server.
pub struct RedisServer {
    child: Mutex<Child>,
    port: u16,
    program: PathBuf,
    flags: Vec<String>,
    folder: TempDir,
    password: String,
}

/// The servers that the tests run with: Redis, and Valkey where `TEST_VALKEY` names it.
pub fn programs() -> Vec<PathBuf> {
    let valkey = env::var_os("TEST_VALKEY").map(PathBuf::from);
    std::iter::once("redis-server".into()).chain(valkey).collect()
}

impl RedisServer {
    /// Starts a server on a free port.
    pub fn start(program: PathBuf, flags: &[&str]) -> Self {
        Self::start_with_password(program, flags, "")
    }

    /// Starts a server whose flags set a password.
    pub fn start_with_password(program: PathBuf, flags: &[&str], password: &str) -> Self {
        // Another process may take the port meanwhile.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = tempfile::tempdir().unwrap();
            let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let child = Mutex::new(spawn(&program, free, &flags, &folder));
            let (port, program, password) = (free, program.clone(), password.to_owned());
            let server = Self { child, port, program, flags, folder, password };
            if server.answers() {
                return server;
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Returns one server of each kind that all tests of this process share.
    pub fn shared() -> &'static [Self] {
        static SHARED: OnceLock<Vec<RedisServer>> = OnceLock::new();
        SHARED.get_or_init(|| programs().into_iter().map(|it| Self::start(it, &[])).collect())
    }

    pub fn url(&self) -> RedisUrl {
        RedisUrl::new(format!("redis://127.0.0.1:{}", self.port))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Opens a store with keys of its own.
    pub async fn store(&self) -> Arc<RedisStore> {
        let prefix = format!("{}:", duologue::session::SessionId::generate());
        RedisStore::open(&self.url(), &prefix, 1000).await.unwrap()
    }

    /// Ends the server as a crash does.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// Starts the server again, on its port and with its files.
    pub fn restart(&self) {
        *self.child.lock().unwrap() = spawn(&self.program, self.port, &self.flags, &self.folder);
        assert!(self.answers());
    }

    /// Runs a command of the server.
    pub fn command(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .env("REDISCLI_AUTH", &self.password)
            .args(words)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    }

    /// Sends a signal, such as STOP.
    pub fn signal(&self, name: &str) {
        let id = self.process_id();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Returns the id of the server's process, the child of the shell.
    fn process_id(&self) -> String {
        let shell = self.child.lock().unwrap().id();
        let children = format!("/proc/{shell}/task/{shell}/children");
        std::fs::read_to_string(children).unwrap().trim().to_owned()
    }

    fn answers(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if self.command(&["PING"]) == "PONG" {
                return true;
            }
            if self.child.lock().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// Starts a server that ends with this process, however it ends: the shell waits for the end of its
/// input, which this process holds open.
fn spawn(program: &Path, port: u16, flags: &[String], folder: &TempDir) -> Child {
    const SCRIPT: &str = r#""$@" </dev/null & read _; kill -CONT $!; kill -9 $!; wait"#;
    Command::new("sh")
        .args(["-c", SCRIPT, "sh"])
        .arg(program)
        .args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"])
        .args(flags)
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
