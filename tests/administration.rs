//! An operator's commands, on the file of a gateway that runs and of one that does not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{
    process::{self, Process},
    support::{Address, Rest, Transport, create, proto::MessageStatus, soon},
};

/// A folder with a store's file.
pub(crate) struct StoreFolder {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) file: PathBuf,
    /// Address of the store.
    store: String,
}

pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) told: String,
}

impl StoreFolder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("duologue.db");
        let store = store(&file);
        Self { folder, file, store }
    }

    /// The same for another store.
    pub(crate) fn on(store: String) -> Self {
        Self { store, ..Self::new() }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    pub(crate) async fn start_with(&self, flags: &[&str]) -> Process {
        let own = ["--store", self.store.as_str(), "--simulated-reply", "You said: {text}"];
        Process::start(&[&own, flags].concat()).await
    }

    /// Makes the file without a session in it.
    pub(crate) async fn make(&self) {
        stop(self.start().await).await;
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> CommandOutput {
        self.run_with(arguments, "").await
    }

    /// Runs a command. The environment names the file.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &str) -> CommandOutput {
        let mut command = process::command(arguments);
        command.env("DUOLOGUE_STORE", &self.store).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let fed = tokio::spawn(async move { drop(stdin.write_all(input.as_bytes()).await) });
        let output = soon("the end of a command", child.wait_with_output()).await.unwrap();
        fed.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        CommandOutput {
            code: output.status.code(),
            out: text(output.stdout),
            told: text(output.stderr),
        }
    }

    /// The exit code of a command that prints where this leads.
    pub(crate) async fn run_into(
        &self,
        arguments: &[&str],
        out: Stdio,
        told: Stdio,
    ) -> Option<i32> {
        let mut command = process::command(arguments);
        command.env("DUOLOGUE_STORE", &self.store).stdin(Stdio::null());
        let mut child = command.stdout(out).stderr(told).spawn().unwrap();
        soon("the end of a command", child.wait()).await.unwrap().code()
    }

    /// As [`Self::run`] for a command that must succeed. Returns its output.
    pub(crate) async fn print(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.told);
        done.out
    }

    pub(crate) async fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [&["sessions", "list", "--json"], arguments].concat();
        json_lines(&self.print(&arguments).await)
    }

    pub(crate) fn sql(&self, sql: &str) {
        rusqlite::Connection::open(&self.file).unwrap().execute_batch(sql).unwrap();
    }

    /// Creates live sessions in the file.
    pub(crate) fn fill(&self, sessions: usize) {
        self.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {sessions})
             INSERT INTO sessions (id, name, epoch, created_at, active_at, expires_at, ends_at)
             SELECT randomblob(16), 'Ada ' || i, hex(randomblob(8)), 0, 0, 4000000000000,
                    4000000000000 FROM n;
             INSERT INTO tokens (hash, id, session, scope)
             SELECT randomblob(32), randomblob(16), id, 'write' FROM sessions WHERE created_at = 0;
             PRAGMA wal_checkpoint(TRUNCATE);"
        ));
    }
}

/// A pipe whose reader has gone.
pub(crate) fn nobody() -> Stdio {
    let (_reader, writer) = std::io::pipe().unwrap();
    writer.into()
}

/// A device that has no room for what is written to it.
pub(crate) fn full() -> Stdio {
    fs::File::options().write(true).open("/dev/full").unwrap().into()
}

pub(crate) fn store(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) async fn stop(process: Process) {
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(0));
}

/// A session of this name; its token.
pub(crate) async fn named(address: &Address, name: &str) -> String {
    let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    Rest::call(address, "POST", &format!("/token?name={query}")).await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

pub(crate) async fn talk(address: &Address, token: &str, text: &str) {
    let mut client = Transport::Json.open(address, token, None).await;
    let may_be_an_id = text.bytes().all(|byte| byte.is_ascii_graphic());
    client.say(text, may_be_an_id.then_some(text)).await.unwrap();
    client.reply().await;
}

#[tokio::test]
async fn sessions_are_listed_and_shown_while_the_gateway_runs_and_after() {
    let place = StoreFolder::new();
    let process = place.start().await;
    let address = process.address();
    let ada = named(&address, "Ada Łovelace").await;
    named(&address, "李小龍").await;
    talk(&address, &ada, "hello").await;
    let mut process = Some(process);
    for running in [true, false] {
        let listed = place.list(&[]).await;
        assert_eq!(listed.len(), 2, "{running}");
        assert_eq!(
            (&listed[0]["name"], &listed[0]["messages"]),
            (&"Ada Łovelace".into(), &2.into())
        );
        assert_eq!(listed[1]["last_activity"], listed[1]["created_at"]);
        assert!(listed[0]["last_activity"].as_str() > listed[0]["created_at"].as_str());
        let names = async |arguments: &[&str]| {
            let listed = place.list(arguments).await;
            listed.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["--name", "OVELACE"]).await, ["Ada Łovelace"]);
        assert_eq!(names(&["--name", "小"]).await, ["李小龍"]);
        assert_eq!(names(&["--name", "%"]).await, [""; 0]);
        assert_eq!(names(&["--limit", "1"]).await, ["Ada Łovelace"]);
        assert_eq!(names(&["--expired"]).await, [""; 0]);

        let id = listed[0]["id"].as_str().unwrap();
        let shown = place.print(&["sessions", "show", id]).await;
        for part in
            [id, "Ada Łovelace", "#1", "user  hello", "#2", "complete", "    You said: hello"]
        {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
        let newest = place.print(&["sessions", "show", id, "--limit", "1"]).await;
        assert!(!newest.contains("#1") && newest.contains("#2"), "{newest}");
        let records = json_lines(&place.print(&["sessions", "show", id, "--json"]).await);
        assert_eq!(records.len(), 3);
        assert_eq!(records[1]["message"]["text"], "hello");
        assert!(records[0]["session"].get("tokens").is_none(), "they are for exports only");
        if let Some(process) = process.take() {
            stop(process).await;
        }
    }
}

#[tokio::test]
async fn nothing_that_people_wrote_steers_a_terminal_or_breaks_a_line() {
    let place = StoreFolder::new();
    let process = place.start().await;
    talk(&process.address(), &create(&process.address()).await, "a\u{1b}[2J\u{202e}b\tc").await;
    stop(process).await;
    // The gateway refuses such a name; the file is an operator's to write to.
    place
        .sql("UPDATE sessions SET name = 'x' || char(9) || 'y' || char(10) || char(27, 155, 8238)");
    let line = place.print(&["sessions", "list"]).await;
    let fields: Vec<_> = line.trim_end_matches('\n').split('\t').collect();
    assert_eq!(fields.len(), 6, "{line:?}");
    assert_eq!(fields[1], "x\\ty\\n\\u{1b}\\u{9b}\\u{202e}");
    let id = fields[0];
    let expected = serde_json::json!("x\ty\n\u{1b}\u{9b}\u{202e}");
    for arguments in [
        &["sessions", "list", "--json"][..],
        &["sessions", "show", id, "--json"],
        &["sessions", "show", id],
        &["sessions", "export"],
    ] {
        let printed = place.print(arguments).await;
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!printed.contains(steers), "{arguments:?}: {printed:?}");
    }
    assert_eq!(place.list(&[]).await[0]["name"], expected);
    // On a terminal there is a table.
    let program = env!("CARGO_BIN_EXE_duologue");
    let mut terminal = tokio::process::Command::new("script");
    terminal.args(["-qec", &format!("{program} sessions list"), "/dev/null"]);
    terminal.env("DUOLOGUE_STORE", store(&place.file)).stdin(Stdio::null());
    let table =
        soon("the table", terminal.output()).await.expect("script, of util-linux, is there");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("ID ") && table.lines().count() == 2, "{table:?}");
    assert!(
        table.contains("\\u{1b}") && !table.contains(['\t', '\u{1b}', '\u{202e}']),
        "{table:?}"
    );
}

#[tokio::test]
async fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let place = StoreFolder::new();
    place.make().await;
    place.fill(3000);
    for arguments in
        [&["sessions", "list"][..], &["sessions", "list", "--json"], &["sessions", "export"]]
    {
        let mut command = process::command(arguments);
        let mut child = command.env("DUOLOGUE_STORE", store(&place.file)).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        soon("a line", lines.next_line()).await.unwrap().unwrap();
        drop(lines);
        let output = soon("the end", child.wait_with_output()).await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments:?}");
    }
}

#[tokio::test]
async fn what_was_done_decides_the_exit_code_and_not_who_reads_of_it() {
    let export = an_export().await;
    let place = StoreFolder::new();
    let (whole, cut) = (place.path("whole.jsonl"), place.path("cut.jsonl"));
    fs::write(&whole, &export).unwrap();
    fs::write(&cut, &export[..export.len() - 20]).unwrap();
    // A session that differs stands before one that does not.
    let different = place.path("different.jsonl");
    fs::write(&different, export.replacen("\"name\":\"Ada\"", "\"name\":\"Eve\"", 1)).unwrap();
    let import = async |file: &str, out, told| {
        place.run_into(&["sessions", "import", file], out, told).await
    };
    for out in [nobody(), full()] {
        assert_eq!(import(&cut, out, Stdio::null()).await, Some(1));
    }
    for out in [nobody(), full()] {
        assert_eq!(import(&whole, out, Stdio::null()).await, Some(0));
    }
    assert_eq!(import(&different, nobody(), nobody()).await, Some(1));
    for (out, copy) in [(nobody(), "one.db"), (full(), "two.db")] {
        let copy = place.path(copy);
        assert_eq!(place.run_into(&["backup", &copy], out, Stdio::null()).await, Some(0));
        assert!(Path::new(&copy).exists());
    }
    let exported = place.path("exported.jsonl");
    let arguments = ["sessions", "export", "--output", &exported];
    assert_eq!(place.run_into(&arguments, full(), Stdio::null()).await, Some(0));
    assert_eq!(place.run_into(&["sessions", "export"], Stdio::null(), nobody()).await, Some(0));
}

#[tokio::test]
async fn what_an_operator_wrote_into_the_file_is_listed_and_hurts_nobody() {
    let place = StoreFolder::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let token = create(&process.address()).await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    client.say("hello", None).await.unwrap();
    process.kill().await;
    place.fill(1);
    place.sql("UPDATE sessions SET id = zeroblob(16) WHERE created_at = 0");
    place.sql("UPDATE turns SET attempt = 4294967295");
    let listed = place.list(&[]).await;
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["id"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(json_lines(&place.print(&["sessions", "export"]).await).len(), 4);
    let process = place.start().await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    let position = client.at(0);
    client = Transport::Json.open(&process.address(), &token, Some(&position)).await;
    assert_eq!(
        client.messages(2).await[1].status(),
        MessageStatus::Interrupted,
        "it is not tried again"
    );
    stop(process).await;
}

/// An export with a session of four messages; the last two are in `lines[5..]`.
pub(crate) async fn an_export() -> String {
    let place = StoreFolder::new();
    let process = place.start().await;
    let token = create(&process.address()).await;
    for text in ["one", "two"] {
        talk(&process.address(), &token, text).await;
    }
    create(&process.address()).await;
    stop(process).await;
    place.print(&["sessions", "export"]).await
}

pub(crate) fn mode(path: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn commands_say_what_is_wrong_by_their_exit_code() {
    let place = StoreFolder::new();
    for (arguments, code) in [
        (&["sessions"][..], 2),
        (&["sessions", "lst"], 2),
        (&["sesions", "list"], 2),
        (&["sessions", "show"], 2),
        (&["sessions", "show", "x"], 2),
        (&["sessions", "delete"], 2),
        (&["sessions", "list", "--limit", "x"], 2),
        (&["sessions", "list", "--no-such-flag"], 2),
        (&["backup"], 2),
        (&["--session-ttl", "soon", "sessions", "list"], 78),
        (&["--store", "etcd://x", "sessions", "list"], 78),
        (&["sessions", "list", "--store", "etcd://x"], 78),
        (&["--store", "memory", "sessions", "list"], 1),
        (&["sessions", "list"], 1),
        (&["sessions", "delete", "01a20459-2ae4-75e7-b50f-667a3bbc3f67"], 1),
        (&["backup", "copy.db"], 1),
    ] {
        let done = place.run(arguments).await;
        assert_eq!(
            (done.code, done.out.as_str()),
            (Some(code), ""),
            "{arguments:?}: {}",
            done.told
        );
        assert!(code == 2 || done.told.lines().count() == 1, "{arguments:?}: {}", done.told);
        assert!(!place.file.exists(), "{arguments:?} made the file");
    }
    fs::write(&place.file, "this is a letter and no database, and rather a long one at that")
        .unwrap();
    let done = place.run(&["sessions", "list"]).await;
    assert!(done.told.contains("no SQLite database") && done.code == Some(1), "{}", done.told);
}

/// What a process has read so far, through any file, and the most memory that it has held,
/// in bytes.
pub(crate) fn spent(process: &Process) -> (u64, u64) {
    let number = |file: &str, field: &str| -> u64 {
        let path = format!("/proc/{}/{file}", process.child.id().unwrap());
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (number("io", "rchar:"), number("status", "VmHWM:") * 1024)
}

#[tokio::test]
async fn a_start_reads_and_holds_no_more_for_sessions_that_only_lie_there() {
    const MORE: usize = 60_000;
    let (few, many) = (StoreFolder::new(), StoreFolder::new());
    let mut figures = Vec::new();
    for (place, sessions) in [(&few, 60), (&many, MORE)] {
        place.make().await;
        place.fill(sessions);
        let process = place.start().await;
        // It serves, sweeps and lists what is unanswered as ever.
        talk(&process.address(), &create(&process.address()).await, "hello").await;
        figures.push(spent(&process));
        stop(process).await;
    }
    let size = fs::metadata(&many.file).unwrap().len();
    assert!(size > 8 << 20, "{size}");
    let more = |of: fn(&(u64, u64)) -> u64| of(&figures[1]).saturating_sub(of(&figures[0]));
    let (read, held) = (more(|spent| spent.0), more(|spent| spent.1));
    assert!(read < 512 << 10, "{read} bytes more were read for {MORE} sessions: {figures:?}");
    assert!(held < 8 << 20, "{held} bytes more were held for {MORE} sessions: {figures:?}");
}
