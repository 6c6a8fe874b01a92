//! An operator's commands, on the file of a gateway that runs and of one that does not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{
    process::{self, Process},
    support::{Address, Event, Rest, Transport, create, history, proto::MessageStatus, soon},
};

/// A folder with a store's file.
struct Place {
    folder: tempfile::TempDir,
    file: PathBuf,
}

struct Done {
    code: Option<i32>,
    out: String,
    told: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("duologue.db");
        Self { folder, file }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    async fn start_with(&self, flags: &[&str]) -> Process {
        let store = store(&self.file);
        let own = ["--store", store.as_str(), "--simulated-reply", "You said: {text}"];
        Process::start(&[&own, flags].concat()).await
    }

    /// Makes the file without a session in it.
    async fn make(&self) {
        stop(self.start().await).await;
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, "").await
    }

    /// Runs a command as it is run by default: the environment says where the file is.
    async fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut command = process::command(arguments);
        command.env("DUOLOGUE_STORE", store(&self.file)).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let fed = tokio::spawn(async move { drop(stdin.write_all(input.as_bytes()).await) });
        let output = soon("the end of a command", child.wait_with_output()).await.unwrap();
        fed.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code(), out: text(output.stdout), told: text(output.stderr) }
    }

    /// The exit code of a command that prints where this leads.
    async fn run_into(&self, arguments: &[&str], out: Stdio, told: Stdio) -> Option<i32> {
        let mut command = process::command(arguments);
        command.env("DUOLOGUE_STORE", store(&self.file)).stdin(Stdio::null());
        let mut child = command.stdout(out).stderr(told).spawn().unwrap();
        soon("the end of a command", child.wait()).await.unwrap().code()
    }

    /// As [`Self::run`], of what must succeed; what it prints.
    async fn print(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.told);
        done.out
    }

    async fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [&["sessions", "list", "--json"], arguments].concat();
        json_lines(&self.print(&arguments).await)
    }

    fn sql(&self, sql: &str) {
        rusqlite::Connection::open(&self.file).unwrap().execute_batch(sql).unwrap();
    }

    /// Puts so many living sessions into the file.
    fn fill(&self, sessions: usize) {
        self.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {sessions})
             INSERT INTO sessions (id, token, name, epoch, created_at, expires_at, ends_at)
             SELECT randomblob(16), randomblob(32), 'Ada ' || i, hex(randomblob(8)),
                    0, 4000000000000, 4000000000000 FROM n;
             PRAGMA wal_checkpoint(TRUNCATE);"
        ));
    }
}

/// A pipe whose reader has gone.
fn nobody() -> Stdio {
    let (_reader, writer) = std::io::pipe().unwrap();
    writer.into()
}

/// A device that has no room for what is written to it.
fn full() -> Stdio {
    fs::File::options().write(true).open("/dev/full").unwrap().into()
}

fn store(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn stop(process: Process) {
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(0));
}

/// A session of this name; its token.
async fn named(address: &Address, name: &str) -> String {
    let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    Rest::call(address, "POST", &format!("/token?name={query}")).await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn talk(address: &Address, token: &str, text: &str) {
    let mut client = Transport::Json.open(address, token, None).await;
    let may_be_an_id = text.bytes().all(|byte| byte.is_ascii_graphic());
    client.say(text, may_be_an_id.then_some(text)).await.unwrap();
    client.reply().await;
}

#[tokio::test]
async fn sessions_are_listed_and_shown_while_the_gateway_runs_and_after() {
    let place = Place::new();
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
        assert!(records[0]["session"].get("token_sha256").is_none(), "nobody needs it here");
        if let Some(process) = process.take() {
            stop(process).await;
        }
    }
}

#[tokio::test]
async fn nothing_that_people_wrote_steers_a_terminal_or_breaks_a_line() {
    let place = Place::new();
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
    let place = Place::new();
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
async fn sessions_are_revoked_to_the_last_whoever_reads_what_it_prints() {
    const UNKNOWN: &str = "01a20459-2ae4-75e7-b50f-667a3bbc3f67";
    for (out, unknown, code) in
        [(nobody(), None, 0), (full(), None, 1), (nobody(), Some(UNKNOWN), 1)]
    {
        let place = Place::new();
        place.make().await;
        place.fill(3);
        let listed = place.list(&[]).await;
        let ids = listed.iter().map(|row| row["id"].as_str().unwrap());
        let arguments: Vec<_> =
            ["sessions", "revoke"].into_iter().chain(ids).chain(unknown).collect();
        assert_eq!(place.run_into(&arguments, out, Stdio::null()).await, Some(code), "{unknown:?}");
        assert_eq!(place.list(&[]).await, [Value::Null; 0], "exit {code}");
    }
}

#[tokio::test]
async fn what_was_done_decides_the_exit_code_and_not_who_reads_of_it() {
    let export = an_export().await;
    let place = Place::new();
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
async fn what_was_exported_is_imported_once_and_its_tokens_open_it() {
    let place = Place::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let address = process.address();
    // One waits for its reply, and one has been answered.
    let waiting = create(&address).await;
    let mut client = Transport::Json.open(&address, &waiting, None).await;
    client.say("a question", Some("k")).await.unwrap();
    let answered = create(&address).await;
    let mut stopped = Transport::Json.open(&address, &answered, None).await;
    stopped.say("stop this", None).await.unwrap();
    stopped.stop().await;
    stopped.reply().await;
    let log = history(&address, Transport::Sse, &answered).await;

    let file = place.path("export.jsonl");
    place.print(&["sessions", "export", "--output", &file]).await;
    let exported = fs::read_to_string(&file).unwrap();
    let header = &json_lines(&exported)[0]["export"];
    assert_eq!((&header["format"], &header["sessions"]), (&1.into(), &2.into()));
    for secret in [&waiting, &answered] {
        assert!(!exported.contains(secret.as_str()), "a token, where its hash is enough");
    }
    let again = place.run(&["sessions", "export", "--output", &file]).await;
    assert_eq!(again.code, Some(1), "a file that is there is not overwritten");
    assert_eq!(fs::read_to_string(&file).unwrap(), exported);
    process.kill().await;

    let other = Place::new();
    let first = other.print(&["sessions", "import", &file]).await;
    assert!(first.starts_with("2 sessions imported, with 3 messages; 0 already there"), "{first}");
    let second = other.run_with(&["sessions", "import"], &exported).await;
    assert_eq!(second.code, Some(0), "{}", second.told);
    assert!(
        second.out.starts_with("0 sessions imported, with 0 messages; 2 already"),
        "{}",
        second.out
    );

    let process = other.start().await;
    let address = process.address();
    assert_eq!(history(&address, Transport::Sse, &answered).await, log);
    let position = Transport::Json.open(&address, &waiting, None).await.at(0);
    let mut client = Transport::Json.open(&address, &waiting, Some(&position)).await;
    let (before, reply) = client.reply().await;
    let attempt = before.iter().find_map(|event| match event {
        Event::ReplyStarted(started) => Some(started.attempt),
        _ => None,
    });
    assert!(attempt.is_none_or(|attempt| attempt == 2), "{before:?}");
    assert_eq!(reply.text, "You said: a question");
    let retry = client.say("a question", Some("k")).await.unwrap();
    assert!(retry.duplicate && retry.seq == 1, "{retry:?}");
    talk(&address, &answered, "and on it goes").await;
    // It has gone further than the export: that is no difference.
    let third = other.run(&["sessions", "import", &file]).await;
    assert_eq!(third.code, Some(0), "{}", third.told);
    stop(process).await;
}

#[tokio::test]
async fn what_waits_in_an_imported_session_is_answered_by_the_gateway_that_runs() {
    let place = Place::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let token = create(&process.address()).await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    for text in ["one", "two", "three"] {
        client.say(text, Some(text)).await.unwrap();
    }
    let export = place.print(&["sessions", "export"]).await;
    process.kill().await;

    let other = Place::new();
    let process = other.start().await;
    let address = process.address();
    // Its own turns are not taken for somebody else's.
    let own = create(&address).await;
    let mut busy = Transport::Grpc.open(&address, &own, None).await;
    assert_eq!(other.run_with(&["sessions", "import"], &export).await.code, Some(0));
    let mut client = Transport::Json.open(&address, &token, None).await;
    for turn in 0..20 {
        busy.say(&format!("{turn}"), None).await.unwrap();
        busy.reply().await;
    }
    let position = client.at(0);
    client = Transport::Json.open(&address, &token, Some(&position)).await;
    let log = client.messages(6).await;
    let texts: Vec<_> = log.iter().map(|message| message.text.as_str()).collect();
    let replies = ["You said: one", "You said: two", "You said: three"];
    assert_eq!(texts, [&["one", "two", "three"][..], &replies].concat());
    assert_eq!(history(&address, Transport::Sse, &own).await.len(), 40, "one reply to each");
    stop(process).await;
}

#[tokio::test]
async fn one_session_is_exported_by_its_id_and_an_unknown_one_is_named() {
    let place = Place::new();
    let process = place.start().await;
    create(&process.address()).await;
    create(&process.address()).await;
    let id = place.list(&[]).await[1]["id"].as_str().unwrap().to_owned();
    let one = json_lines(&place.print(&["sessions", "export", &id, &id]).await);
    assert_eq!(one.len(), 2);
    assert_eq!((&one[0]["export"]["sessions"], &one[1]["session"]["id"]), (&1.into(), &id.into()));
    let unknown = "01a20459-2ae4-75e7-b50f-667a3bbc3f67";
    for arguments in [
        &["sessions", "export", unknown][..],
        &["sessions", "show", unknown],
        &["sessions", "revoke", unknown],
    ] {
        let done = place.run(arguments).await;
        assert_eq!((done.code, done.out.as_str(), done.told.lines().count()), (Some(1), "", 1));
        assert!(done.told.contains(unknown), "{}", done.told);
    }
    process.kill().await;
}

#[tokio::test]
async fn what_an_operator_wrote_into_the_file_is_listed_and_hurts_nobody() {
    let place = Place::new();
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
async fn an_export() -> String {
    let place = Place::new();
    let process = place.start().await;
    let token = create(&process.address()).await;
    for text in ["one", "two"] {
        talk(&process.address(), &token, text).await;
    }
    create(&process.address()).await;
    stop(process).await;
    place.print(&["sessions", "export"]).await
}

#[tokio::test]
async fn an_import_that_is_wrong_says_where_and_keeps_no_part_of_a_session() {
    let export = an_export().await;
    let lines: Vec<&str> = export.lines().collect();
    assert_eq!(lines.len(), 7, "a header, a session of four messages, an empty one");
    let with = |line: usize, from: &str, to: &str| {
        let mut lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
        assert!(lines[line - 1].contains(from), "{from} is not in {}", lines[line - 1]);
        lines[line - 1] = lines[line - 1].replacen(from, to, 1);
        lines.join("\n")
    };
    let without = |line: usize| {
        let mut lines = lines.clone();
        lines.remove(line - 1);
        lines.join("\n")
    };
    let big = format!("\"text\":\"{}\"", "x".repeat(70_000));
    let empty = json_lines(&export)[6]["session"]["id"].to_string();
    let full = json_lines(&export)[1]["session"]["id"].to_string();
    let message = json_lines(&export)[2]["message"]["id"].to_string();
    for (what, input, line) in [
        ("nothing", String::new(), 1),
        ("no header", without(1), 1),
        ("a format of the future", with(1, "\"format\":1", "\"format\":2"), 1),
        ("an unknown field", with(2, "{\"id\"", "{\"mood\":1,\"id\""), 2),
        ("a blank name", with(2, "\"Ada\"", "\" \""), 2),
        ("a name that hides", with(2, "\"Ada\"", "\"A\\u202eda\""), 2),
        ("no UUID", with(2, "\"id\":\"0", "\"id\":\"x"), 2),
        ("the nil UUID", with(2, &full, "\"00000000-0000-0000-0000-000000000000\""), 2),
        ("a UUID of version 4", with(2, &full, "\"5f0c1ae8-3bd1-4c0a-9d47-0b9ad9a2a9c7\""), 2),
        ("a message's, too", with(3, &message, "\"5f0c1ae8-3bd1-4c0a-9d47-0b9ad9a2a9c7\""), 3),
        (
            "no attempt",
            with(3, "\"role\"", "\"waiting\":{\"attempt\":0,\"text\":\"\"},\"role\""),
            3,
        ),
        (
            "an attempt beyond the last",
            with(3, "\"role\"", "\"waiting\":{\"attempt\":3,\"text\":\"\"},\"role\""),
            3,
        ),
        ("a hash that is none", with(2, "\"token_sha256\":\"", "\"token_sha256\":\"0"), 2),
        ("no time", with(2, "Z\"", "\""), 2),
        ("too many messages", with(2, "\"messages\":4", "\"messages\":10001"), 2),
        ("a gap", without(3), 3),
        ("a number twice", with(4, "\"seq\":2", "\"seq\":1"), 4),
        ("an unknown role", with(3, "\"user\"", "\"system\""), 3),
        ("an empty text", with(3, "\"text\":\"one\"", "\"text\":\"\""), 3),
        ("a NUL", with(3, "\"text\":\"one\"", "\"text\":\"o\\u0000\""), 3),
        ("too large a text", with(3, "\"text\":\"one\"", &big), 3),
        (
            "an id with a space",
            with(3, "\"client_message_id\":\"one\"", "\"client_message_id\":\"o e\""),
            3,
        ),
        (
            "an id twice",
            with(5, "\"client_message_id\":\"two\"", "\"client_message_id\":\"one\""),
            5,
        ),
        ("an unknown status", with(4, "\"complete\"", "\"splendid\""), 4),
        ("a failure without one", with(4, "\"complete\"", "\"failed\""), 4),
        ("a status of a user's", with(3, "\"role\"", "\"status\":\"complete\",\"role\""), 3),
        ("a reply to itself", with(4, "\"in_reply_to\":\"0", "\"in_reply_to\":\"1"), 4),
        ("a message of another's", with(3, &full, &empty), 3),
        ("an end in a session", lines[..4].join("\n"), 5),
        ("a session twice", [&lines[..], &lines[6..]].concat().join("\n"), 8),
        ("no JSON", with(5, "{", "("), 5),
        ("half a line", export[..export.len() - 20].to_owned(), 7),
    ] {
        let place = Place::new();
        place.make().await;
        let done = place.run_with(&["sessions", "import"], &input).await;
        assert_eq!((done.code, done.told.lines().count()), (Some(1), 1), "{what}: {}", done.told);
        assert!(
            done.told.starts_with(&format!("duologue: line {line}: ")),
            "{what}: {}",
            done.told
        );
        let listed = place.list(&[]).await;
        let whole: u64 = if line > 6 { 1 } else { 0 };
        assert_eq!(listed.len() as u64, whole + u64::from(line == 8), "{what}: {listed:?}");
        assert!(
            listed.iter().all(|row| row["messages"] == 4 || row["messages"] == 0),
            "{listed:?}"
        );
    }
    // Bytes that are no text, and sessions that the header counts and nobody sees.
    let place = Place::new();
    let file = place.path("bytes");
    fs::write(&file, export.replace("\"one\"", "\"\u{fffd}\"").replace('\u{fffd}', "\u{1}"))
        .unwrap();
    assert_eq!(place.run(&["sessions", "import", &file]).await.code, Some(1));
    let bytes: Vec<u8> = export.replace("\"two\"", "\"\u{1}\"").into_bytes();
    let bytes: Vec<u8> =
        bytes.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
    fs::write(&file, bytes).unwrap();
    assert_eq!(place.run(&["sessions", "import", &file]).await.code, Some(1));
    let cut = place.run_with(&["sessions", "import"], &lines[..6].join("\n")).await;
    assert_eq!(cut.code, Some(1));
    assert!(cut.told.contains("it holds 1 of 2 sessions"), "{}", cut.told);
    assert!(cut.out.starts_with("1 session imported, with 4 messages"), "{}", cut.out);
}

#[tokio::test]
async fn an_import_leaves_a_session_alone_that_differs_and_says_so() {
    let export = an_export().await;
    let place = Place::new();
    assert_eq!(place.run_with(&["sessions", "import"], &export).await.code, Some(0));
    let file = rusqlite::Connection::open(&place.file).unwrap();
    let totals = "SELECT sum(input_tokens), (SELECT sum(input_tokens) FROM messages) FROM sessions";
    let (summed, of_messages): (u32, u32) =
        file.query_row(totals, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(summed == of_messages && summed > 0, "{summed} and {of_messages}");
    drop(file);
    let expired = Place::new();
    let past = json_lines(&export).into_iter().map(|mut line| {
        if let Some(session) = line.get_mut("session") {
            session["expires_at"] = "2000-01-01T00:00:00Z".into();
        }
        format!("{line}\n")
    });
    let past: String = past.collect();
    let done = expired.run_with(&["sessions", "import"], &past).await;
    assert!(done.out.contains("2 expired") && done.code == Some(0), "{}", done.out);
    let id = json_lines(&export)[1]["session"]["id"].as_str().unwrap().to_owned();
    for (from, to) in
        [("\"text\":\"one\"", "\"text\":\"1\""), ("\"name\":\"Ada\"", "\"name\":\"Eve\"")]
    {
        let done = place.run_with(&["sessions", "import"], &export.replacen(from, to, 1)).await;
        assert_eq!(done.code, Some(1));
        assert!(done.told.contains(&format!("session {id} differs")), "{}", done.told);
        assert!(done.out.contains("1 already there, 1 different"), "{}", done.out);
    }
    assert_eq!(
        place.print(&["sessions", "export"]).await.lines().skip(1).collect::<Vec<_>>(),
        export.lines().skip(1).collect::<Vec<_>>()
    );
    // Nor may another session take a token.
    let other = export.replace(&id, "01a20459-2ae4-75e7-b50f-667a3bbc3f67");
    let done = place.run_with(&["sessions", "import"], &other).await;
    assert_eq!(done.code, Some(1));
    assert!(done.out.contains("1 different"), "{}", done.out);
}

#[tokio::test]
async fn a_session_revoked_by_its_operator_ends_in_a_gateway_that_runs() {
    let place = Place::new();
    let process = place.start().await;
    let address = process.address();
    let token = create(&address).await;
    let bystander = create(&address).await;
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        streams.push((transport, transport.open(&address, &token, None).await));
    }
    let mut other = Transport::Grpc.open(&address, &bystander, None).await;
    let id = place.list(&[]).await[0]["id"].as_str().unwrap().to_owned();
    let revoked = place.print(&["sessions", "revoke", &id]).await;
    assert_eq!(revoked, format!("revoked {id}\n"));
    // New calls at once, whoever has noticed.
    let refused = Rest::call(&address, "GET", &format!("/refresh_token?token={token}")).await;
    assert_eq!(refused.status, 400);
    for (transport, stream) in streams {
        let (code, _) = soon("the end of the streams", stream.ended()).await;
        assert_eq!(code.as_deref(), Some("session_revoked"), "{transport:?}");
    }
    other.say("still here", None).await.unwrap();
    other.reply().await;
    process.kill().await;
    let process = place.start().await;
    let refused =
        Rest::call(&process.address(), "GET", &format!("/refresh_token?token={token}")).await;
    assert_eq!(refused.status, 400);
    assert_eq!(place.list(&[]).await.len(), 1);
    process.kill().await;
}

#[tokio::test]
async fn a_revoked_session_stops_the_reply_in_progress() {
    let place = Place::new();
    let process = place.start_with(&["--simulated-delay", "1h"]).await;
    let address = process.address();
    let token = create(&address).await;
    let mut client = Transport::Json.open(&address, &token, None).await;
    client.say("hello", None).await.unwrap();
    let id = place.list(&[]).await[0]["id"].as_str().unwrap().to_owned();
    place.print(&["sessions", "revoke", &id]).await;
    assert_eq!(client.ended().await.0.as_deref(), Some("session_revoked"));
    // Nothing is under way any more, or the drain would wait for it.
    process.signal("TERM").await;
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("drained")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_a_working_gateway() {
    let place = Place::new();
    let process = place.start().await;
    let address = process.address();
    let going = Arc::new(AtomicBool::new(true));
    let mut talkers = Vec::new();
    let mut told = Vec::new();
    for transport in Transport::ALL {
        let token = create(&address).await;
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        told.push((token.clone(), Arc::clone(&acknowledged)));
        let going = Arc::clone(&going);
        let mut client = transport.open(&address, &token, None).await;
        talkers.push(tokio::spawn(async move {
            for turn in 0.. {
                if !going.load(Ordering::SeqCst) {
                    return;
                }
                let text = format!("text {turn}");
                let accepted = client.say(&text, Some(&format!("m{turn}"))).await.unwrap();
                acknowledged.lock().unwrap().push((accepted.seq, text));
                client.reply().await;
            }
        }));
    }
    let copies: Vec<String> = (0..5).map(|copy| place.path(&format!("copy{copy}.db"))).collect();
    let mut before = Vec::new();
    for copy in &copies {
        let enough = before.len() + 3;
        soon("some turns", async {
            while told.iter().any(|(_, told)| told.lock().unwrap().len() < enough) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        before.push(told.iter().map(|(_, told)| told.lock().unwrap().clone()).collect::<Vec<_>>());
        place.print(&["backup", copy]).await;
    }
    going.store(false, Ordering::SeqCst);
    for talker in talkers {
        soon("a talker", talker).await.unwrap();
    }
    stop(process).await;

    for (copy, before) in copies.iter().zip(before) {
        assert_eq!(mode(copy), 0o600, "others must not read what people said");
        let process = Process::start(&["--store", &store(Path::new(copy))]).await;
        let address = process.address();
        for ((token, _), acknowledged) in told.iter().zip(before) {
            let log = history(&address, Transport::Grpc, token).await;
            let seqs: Vec<_> = log.iter().map(|entry| entry.0).collect();
            assert_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>(), "gapless");
            for (seq, text) in acknowledged {
                assert_eq!(log[seq as usize - 1].3, text, "acknowledged before the backup");
            }
            talk(&address, token, "a new day").await;
        }
        stop(process).await;
    }
}

#[tokio::test]
async fn a_backup_replaces_nothing_unless_it_is_told_to() {
    let place = Place::new();
    let process = place.start().await;
    let token = create(&process.address()).await;
    let copy = place.path("copy.db");
    place.print(&["backup", &copy]).await;
    let kept = fs::read(&copy).unwrap();
    talk(&process.address(), &token, "more").await;
    let refused = async |target: &str, arguments: &[&str], because: &str| {
        let done = place.run(&[&["backup", target], arguments].concat()).await;
        assert_eq!((done.code, done.told.lines().count()), (Some(1), 1), "{}", done.told);
        assert!(done.told.contains(because), "{}", done.told);
    };
    refused(&copy, &[], "it exists already").await;
    assert_eq!(fs::read(&copy).unwrap(), kept);
    let own = place.file.display().to_string();
    refused(&own, &["--force"], "it is the file itself").await;
    refused(&place.path("no/such/folder.db"), &[], "No such file").await;
    // Somebody else's changes beside it would be taken for its own.
    fs::write(format!("{copy}-wal"), "changes").unwrap();
    place.print(&["backup", &copy, "--force"]).await;
    assert!(!Path::new(&format!("{copy}-wal")).exists());
    let second = Process::start(&["--store", &store(Path::new(&copy))]).await;
    assert_eq!(history(&second.address(), Transport::Sse, &token).await.len(), 2);
    refused(&copy, &["--force"], "another gateway has it open").await;
    let left: BTreeSet<_> = fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    stop(second).await;
    stop(process).await;
}

#[tokio::test]
async fn a_backup_takes_nothing_away_that_a_gateway_needs() {
    let place = Place::new();
    let process = place.start().await;
    let token = create(&process.address()).await;
    talk(&process.address(), &token, "hello").await;
    let refused = async |target: &str, because: &str| {
        let done = place.run(&["backup", target, "--force"]).await;
        assert_eq!((done.code, done.told.lines().count()), (Some(1), 1), "{target}: {}", done.told);
        assert!(done.told.contains(because), "{target}: {}", done.told);
    };
    let own = |suffix: &str| place.path(&format!("duologue.db{suffix}"));
    let beside = ["-wal", "-shm", "-journal"];
    for suffix in beside {
        refused(&own(suffix), "belongs to the file").await;
    }
    // Under other names; and as what is removed with a file that is replaced.
    std::os::unix::fs::symlink(own("-wal"), place.path("link")).unwrap();
    fs::hard_link(own("-shm"), place.path("second.db")).unwrap();
    fs::hard_link(own("-wal"), place.path("copy.db-wal")).unwrap();
    std::os::unix::fs::symlink(place.folder.path(), place.path("folder")).unwrap();
    for name in ["link", "second.db", "copy.db", "folder/duologue.db-shm"] {
        refused(&place.path(name), "belongs to the file").await;
    }
    // What is no file cannot become a copy.
    fs::create_dir(place.path("empty")).unwrap();
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for target in [&place.path("empty"), &pipe] {
        refused(target, "no regular file").await;
    }
    talk(&process.address(), &token, "still here").await;
    stop(process).await;
    // They are its own, too, while they are not there.
    for suffix in beside {
        refused(&own(suffix), "belongs to the file").await;
    }
    let process = place.start().await;
    assert_eq!(history(&process.address(), Transport::Sse, &token).await.len(), 4);
    stop(process).await;
}

fn mode(path: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn commands_say_what_is_wrong_by_their_exit_code() {
    let place = Place::new();
    for (arguments, code) in [
        (&["sessions"][..], 2),
        (&["sessions", "lst"], 2),
        (&["sesions", "list"], 2),
        (&["sessions", "show"], 2),
        (&["sessions", "show", "x"], 2),
        (&["sessions", "revoke"], 2),
        (&["sessions", "list", "--limit", "x"], 2),
        (&["sessions", "list", "--no-such-flag"], 2),
        (&["backup"], 2),
        (&["--session-ttl", "soon", "sessions", "list"], 78),
        (&["--store", "etcd://x", "sessions", "list"], 78),
        (&["sessions", "list", "--store", "etcd://x"], 78),
        (&["--store", "memory", "sessions", "list"], 1),
        (&["sessions", "list"], 1),
        (&["sessions", "revoke", "01a20459-2ae4-75e7-b50f-667a3bbc3f67"], 1),
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
fn spent(process: &Process) -> (u64, u64) {
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
    let (few, many) = (Place::new(), Place::new());
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
