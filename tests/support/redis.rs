//! Real servers of Redis and Valkey, each with its own folder and port.

use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use duologue::store::{RedisSettings, RedisStore, RedisUrl};
use tempfile::TempDir;

/// The role of a server.
#[derive(Clone)]
enum Role {
    /// It holds data. These are its flags.
    Data(Vec<String>),
    /// It watches a master. This is its configuration.
    Sentinel(String),
}

/// A running server.
pub struct RedisServer {
    child: Mutex<Child>,
    port: u16,
    program: PathBuf,
    role: Role,
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

    /// Starts a sentinel that watches a master under a name.
    pub fn start_sentinel(program: PathBuf, name: &str, master: u16) -> Self {
        let settings = [
            format!("monitor {name} 127.0.0.1 {master} 2"),
            format!("down-after-milliseconds {name} 1000"),
            format!("failover-timeout {name} 3000"),
        ];
        let lines: Vec<_> = settings.iter().map(|line| format!("sentinel {line}")).collect();
        Self::start_as(program, Role::Sentinel(lines.join("\n")), "")
    }

    /// Starts a server whose flags set a password.
    pub fn start_with_password(program: PathBuf, flags: &[&str], password: &str) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_as(program, Role::Data(flags), password)
    }

    fn start_as(program: PathBuf, role: Role, password: &str) -> Self {
        // Another process may take the port meanwhile.
        for _ in 0..20 {
            // The servers of a cluster talk on the port that is 10,000 higher: both lie below those
            // that the system gives to connections.
            let free = rand::random_range(12_000..22_000);
            let (own, bus) = (("127.0.0.1", free), ("127.0.0.1", free + 10_000));
            if TcpListener::bind(own).and(TcpListener::bind(bus)).is_err() {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let child = Mutex::new(spawn(&program, free, &role, &folder));
            let (port, program, password) = (free, program.clone(), password.to_owned());
            let role = role.clone();
            let server = Self { child, port, program, role, folder, password };
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
        let settings = RedisSettings { key_prefix: prefix, ..RedisSettings::new(self.url()) };
        RedisStore::open(&settings, 1000).await.unwrap()
    }

    /// Opens the stores of two nodes that share keys of their own.
    pub async fn two_stores(&self) -> (Arc<RedisStore>, Arc<RedisStore>) {
        let key_prefix = format!("{}:", duologue::session::SessionId::generate());
        let settings = RedisSettings { key_prefix, ..RedisSettings::new(self.url()) };
        let open = async || RedisStore::open(&settings, 100_000).await.unwrap();
        (open().await, open().await)
    }

    /// Ends the server as a crash does.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// Copies the snapshot of another server. This one must have ended.
    pub fn take_snapshot(&self, of: &Self) {
        let name = "dump.rdb";
        std::fs::copy(of.folder.path().join(name), self.folder.path().join(name)).unwrap();
    }

    /// Starts the server again, on its port and with its files.
    pub fn restart(&self) {
        *self.child.lock().unwrap() = spawn(&self.program, self.port, &self.role, &self.folder);
        assert!(self.answers());
    }

    /// Runs a command of the server.
    pub fn command(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(words);
        // An empty one is a password, too.
        if !self.password.is_empty() {
            command.env("REDISCLI_AUTH", &self.password);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
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
fn spawn(program: &Path, port: u16, role: &Role, folder: &TempDir) -> Child {
    const SCRIPT: &str = r#""$@" </dev/null & read _; kill -CONT $!; kill -9 $!; wait"#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(program);
    let port = port.to_string();
    match role {
        Role::Data(flags) => {
            command.args(["--port", &port, "--save", "", "--bind", "127.0.0.1"]).args(flags);
            command.arg("--dir").arg(folder.path());
        }
        Role::Sentinel(settings) => {
            let file = folder.path().join("sentinel.conf");
            if !file.exists() {
                std::fs::write(&file, format!("port {port}\n{settings}\n")).unwrap();
            }
            command.arg(&file).arg("--sentinel");
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
