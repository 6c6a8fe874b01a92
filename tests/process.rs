//! The binary: its start, its signals, its exit code.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::{Address, soon};

/// The gateway as a process.
pub struct Process {
    pub child: Child,
    pub port: u16,
    pub lines: Lines<BufReader<ChildStderr>>,
    pub before: Vec<String>,
}

pub fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duologue"));
    // They are for the tests, and the gateway would point them out as no settings.
    command.env_remove("DUOLOGUE_TEST_KILLS").env_remove("DUOLOGUE_TEST_CUTS");
    command.args(flags).stderr(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // Away from any `.env` of a developer's.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    // There is one default port, and there are many of them at a time.
    command.env("DUOLOGUE_OPS_ADDR", "off");
    command
}

impl Process {
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_in(&[], flags).await
    }

    /// Starts it in this environment.
    pub async fn start_in(environment: &[(&str, &str)], flags: &[&str]) -> Self {
        let memory = ["--store", "memory"];
        let store = if flags.contains(&"--store") { &memory[..0] } else { &memory[..] };
        let flags = [&["--addr", "127.0.0.1:0"], store, flags].concat();
        let child = command(&flags).envs(environment.iter().copied()).spawn().unwrap();
        Self::listening(child).await.unwrap_or_else(|log| panic!("it does not start: {log}"))
    }

    /// Starts it with these flags and no others; `None` if it refuses in one line.
    pub async fn start_if_it_can(flags: &[&str]) -> Option<Self> {
        let started = Self::listening(command(flags).spawn().unwrap()).await;
        started.map_err(|log| assert_eq!(log.lines().count(), 1, "{log}")).ok()
    }

    /// Waits until the process listens. Returns its log if it ends before.
    pub async fn listening(mut child: Child) -> Result<Self, String> {
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        let port = soon("the port", async {
            loop {
                let line = lines.next_line().await.unwrap()?;
                let port = line.split("listening on 127.0.0.1:").nth(1).map(|port| {
                    port.chars()
                        .take_while(char::is_ascii_digit)
                        .collect::<String>()
                        .parse()
                        .unwrap()
                });
                before.push(line);
                if port.is_some() {
                    break port;
                }
            }
        });
        let Some(port) = port.await else { return Err(before.join("\n")) };
        Ok(Self { child, port, lines, before })
    }

    pub async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address { addr: ([127, 0, 0, 1], self.port).into() }
    }

    /// Kills it, as a crash or an impatient operator does, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// The exit code, and everything that was logged.
    pub async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let mut log = self.before;
        while let Some(line) = soon("a line", self.lines.next_line()).await.unwrap() {
            log.push(line);
        }
        (soon("the end", self.child.wait()).await.unwrap().code(), log)
    }
}

async fn output(flags: &[&str]) -> (Option<i32>, String, String) {
    let output = soon("the end", command(flags).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_with_success() {
    for name in ["TERM", "INT"] {
        let process = Process::start(&[]).await;
        process.signal(name).await;
        let (code, log) = process.ended().await;
        assert_eq!(code, Some(0), "{name}: {log:?}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut process = Process::start(&[
        "--simulated-delay",
        "1h",
        "--session-ttl",
        "2h",
        "--drain-timeout",
        "1h",
    ])
    .await;
    let url = format!("http://127.0.0.1:{}", process.port);
    let client = reqwest::Client::new();
    let created =
        client.post(format!("{url}/token?name=Ada")).send().await.unwrap().text().await.unwrap();
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let token = created["token"].as_str().unwrap();
    let sent = client.post(format!("{url}/messages?token={token}&text=hi")).send().await.unwrap();
    assert_eq!(sent.status(), 202);
    process.signal("TERM").await;
    soon("the drain", async {
        while !process.lines.next_line().await.unwrap().unwrap().contains("draining") {}
    })
    .await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(130));
}

#[tokio::test]
async fn a_failed_start_logs_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, _, log) = output(&["--addr", &addr]).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("cannot listen on {addr}")) && log.lines().count() == 1, "{log}");

    for flags in [["--session-ttl", "soon"], ["--max-message-size", "0"]] {
        let (code, _, log) = output(&flags).await;
        assert_eq!((code, log.lines().count()), (Some(78), 1), "{flags:?}: {log}");
        assert!(log.contains(flags[0]), "{log}");
    }
}

#[tokio::test]
async fn a_misspelt_flag_is_answered_with_a_suggestion_and_the_usage() {
    let (code, _, log) = output(&["--sesion-ttl", "5m"]).await;
    assert_eq!(code, Some(78), "{log}");
    for part in ["unexpected argument '--sesion-ttl'", "'--session-ttl'", "Usage: duologue"] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
}

#[tokio::test]
async fn a_blank_variable_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "DUOLOGUE_MAX_QUEUED_TURNS=9\nDUOLOGUE_LOG=\n")
        .unwrap();
    let example = include_str!("../.env.example").lines();
    let variables = example.filter_map(|line| line.strip_prefix("# ")?.split_once('='));
    let variables: Vec<_> = variables
        .map(|(name, _)| name)
        .filter(|name| *name == "APP_ENV" || name.starts_with("DUOLOGUE_"))
        .collect();
    assert!(variables.len() > 50, "{variables:?}");
    let shown = async |set: &[(&str, &str)]| {
        let mut check = command(&["--check-config"]);
        check.current_dir(folder.path()).env_remove("DUOLOGUE_OPS_ADDR").envs(set.iter().copied());
        let output = soon("the end", check.output()).await.unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{log}");
        String::from_utf8(output.stdout).unwrap()
    };
    let unset = shown(&[]).await;
    assert!(unset.contains("DUOLOGUE_MAX_QUEUED_TURNS=9\n"), "{unset}");
    for blank in ["", " "] {
        let blank: Vec<_> = variables.iter().map(|name| (*name, blank)).collect();
        assert_eq!(shown(&blank).await, unset);
    }
}

#[tokio::test]
async fn an_env_file_is_read_as_docker_and_python_dotenv_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = "DUOLOGUE_SIMULATED_REPLY=Hello there friend, it costs $5 # a comment\n";
    std::fs::write(folder.path().join(".env"), text).unwrap();
    let mut check = command(&["--check-config"]);
    let output = soon("the end", check.current_dir(folder.path()).output()).await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = "DUOLOGUE_SIMULATED_REPLY=\"Hello there friend, it costs \\$5\"\n";
    assert!(shown.contains(line), "{shown}");

    std::fs::write(folder.path().join(".env"), "A=b\n\nDUOLOGUE OPENAI_API_KEY=canary\n").unwrap();
    let mut check = command(&["--check-config"]);
    let output = soon("the end", check.current_dir(folder.path()).output()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), log.lines().count()), (Some(78), 1), "{log}");
    assert!(log.contains(".env:3: expected NAME=VALUE") && !log.contains("canary"), "{log}");
}

#[tokio::test]
async fn listen_addresses_may_name_a_host_or_none() {
    for (addr, shown) in [
        ("localhost:4500", "127.0.0.1:4500"),
        (":4500", "0.0.0.0:4500"),
        ("[::]:4500", "[::]:4500"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ] {
        for (flag, variable) in [("--addr", "DUOLOGUE_ADDR"), ("--ops-addr", "DUOLOGUE_OPS_ADDR")] {
            let (code, config, log) = output(&["--check-config", flag, addr]).await;
            assert_eq!(code, Some(0), "{flag} {addr}: {log}");
            assert!(config.contains(&format!("{variable}={shown}\n")), "{flag} {addr}: {config}");
        }
    }
    for wrong in ["4500", "localhost", "localhost:", "localhost:http", ":70000", ""] {
        let (code, _, log) = output(&["--check-config", "--addr", wrong]).await;
        assert_eq!((code, log.lines().count()), (Some(78), 1), "{wrong}: {log}");
        let expected = "expected HOST:PORT, for example `localhost:4500`";
        assert!(log.contains("--addr") && (log.contains(expected) || wrong.is_empty()), "{log}");
    }
}

#[tokio::test]
async fn settings_come_from_an_env_file_the_environment_and_flags_in_this_order() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("env-file");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(".env"), "export APP_ENV=production\nDUOLOGUE_SESSION_TTL=5m\nDUOLOGUE_HEARTBEAT=7s\nDUOLOGUE_MAX_QUEUED_TURNS=9\n").unwrap();
    let mut check = command(&["--check-config", "--heartbeat", "3s"]);
    check.current_dir(&folder).env("DUOLOGUE_SESSION_TTL", "6m");
    let shown = String::from_utf8(soon("the end", check.output()).await.unwrap().stdout).unwrap();
    for line in [
        "APP_ENV=production",
        "DUOLOGUE_SESSION_TTL=6m",
        "DUOLOGUE_HEARTBEAT=3s",
        "DUOLOGUE_MAX_QUEUED_TURNS=9",
        "DUOLOGUE_DOCS=false",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    std::fs::write(folder.join(".env"), "this is no setting\n").unwrap();
    let mut broken = command(&["--check-config"]);
    let broken = soon("the end", broken.current_dir(&folder).output()).await.unwrap();
    assert_eq!(broken.status.code(), Some(78));
}

#[tokio::test]
async fn a_variable_that_is_no_setting_is_pointed_out() {
    let mut child = command(&["--addr", "127.0.0.1:0"]);
    let child = child.env("DUOLOGUE_SESION_TTL", "5m").env("DUOLOGUE_LOG", "warn").spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.unwrap()).lines();
    let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
    assert!(line.contains("WARN") && line.contains("DUOLOGUE_SESION_TTL"), "{line}");
}

#[tokio::test]
async fn the_effective_configuration_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--check-config",
        "--session-ttl",
        "90m",
        "--max-message-size",
        "1000",
        "--max-text-size",
        "500",
        "--max-inline-file-size",
        "500",
        "--simulated-reply",
        "say \"{text}\"",
    ];
    let (code, shown, _) = output(&flags).await;
    assert_eq!(code, Some(0));
    std::fs::write(folder.path().join(".env"), &shown).unwrap();
    let mut again = command(&["--check-config"]);
    let again = soon("the end", again.current_dir(folder.path()).output()).await.unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), shown);
}

#[tokio::test]
async fn help_and_version_are_printed_with_success() {
    let (code, help, _) = output(&["--help"]).await;
    assert_eq!(code, Some(0));
    for word in ["--addr", "DUOLOGUE_ADDR", "--check-config", "0.0.0.0:3500"] {
        assert!(help.contains(word), "{word}");
    }
    let (code, version, _) = output(&["--version"]).await;
    assert_eq!((code, version.trim()), (Some(0), concat!("duologue ", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn times_that_no_calendar_holds_stop_the_start() {
    for flags in [
        &["--session-max-age", "9000y"][..],
        &["--heartbeat", "500000000000y"],
        &["--drain-timeout", "500000000000y"],
        &["--simulated-delay", "500000000000y"],
    ] {
        let (code, _, log) = output(&[flags, &["--check-config"]].concat()).await;
        assert_eq!((code, log.lines().count()), (Some(78), 1), "{flags:?}: {log}");
        assert!(log.contains(flags[0]), "{log}");
    }
}

#[tokio::test]
async fn a_broken_env_file_is_pointed_at_without_its_secrets() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken-env-file");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(".env"), "DUOLOGUE_OPENAI_API_KEY='sk-canary\n").unwrap();
    let mut broken = command(&["--check-config"]);
    let broken = soon("the end", broken.current_dir(&folder).output()).await.unwrap();
    let told = String::from_utf8(broken.stderr).unwrap();
    assert_eq!(broken.status.code(), Some(78));
    assert!(!told.contains("canary") && told.lines().count() == 1, "{told}");
}
