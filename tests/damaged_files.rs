//! Files with damage in them: one clear line, at the start where SQLite can see it there,
//! else when it is met. Never a panic, never a wrong answer.
//!
//! SQLite keeps no sums of what is in a page: a letter of a text that changes on the disk
//! is nothing that it could see. What is damaged here is what holds the file together.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    process::{self, Process},
    support::{Entry, Figures, Transport, create, history, soon},
};

const PAGE: usize = 4096;

/// A file with some sessions in it, and what is in them.
struct Original {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    logs: HashMap<String, Vec<Entry>>,
}

impl Original {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("duologue.db");
        let process = start(&path).await;
        let mut logs = HashMap::new();
        for _ in 0..8 {
            let token = create(&process.address()).await;
            let mut client = Transport::Json.open(&process.address(), &token, None).await;
            for turn in 0..12 {
                client.say(&format!("{turn}: {}", "x".repeat(200)), None).await.unwrap();
                client.reply().await;
            }
            let log = history(&process.address(), Transport::Sse, &token).await;
            logs.insert(token, log);
        }
        process.signal("TERM").await;
        assert_eq!(process.ended().await.0, Some(0));
        Self { bytes: fs::read(&path).unwrap(), folder, logs }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("duologue.db")
    }

    /// The file as it was, but for this.
    fn damaged(&self, damage: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = self.bytes.clone();
        damage(&mut bytes);
        for end in ["-wal", "-shm"] {
            let _not_there = fs::remove_file(self.folder.path().join(format!("duologue.db{end}")));
        }
        fs::write(self.path(), bytes).unwrap();
        self.path()
    }
}

fn flags(store: &str) -> [&str; 4] {
    ["--store", store, "--simulated-reply", "You said: {text}"]
}

async fn start(path: &Path) -> Process {
    Process::start(&flags(&format!("sqlite:{}", path.display()))).await
}

/// The gateway does not start, and logs one line.
async fn refused(path: &Path) -> String {
    let store = format!("sqlite:{}", path.display());
    let mut start = process::command(&[&["--addr", "127.0.0.1:0"], &flags(&store)[..]].concat());
    let output = soon("the end", start.output()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), log.lines().count()), (Some(1), 1), "{log}");
    assert!(log.contains(&path.display().to_string()), "{log}");
    log
}

#[tokio::test]
async fn a_damaged_header_is_refused_at_the_start() {
    let original = Original::new().await;
    for at in [0, 16, 18] {
        let path = original.damaged(|bytes| bytes[at] ^= 0xff);
        refused(&path).await;
    }
}

/// Starting with an empty WAL instead would lose acknowledged messages.
#[tokio::test]
async fn a_damaged_wal_is_refused_and_not_taken_for_an_empty_one() {
    let original = Original::new().await;
    let (path, wal) = (original.path(), original.folder.path().join("duologue.db-wal"));
    let process = start(&path).await;
    let token = original.logs.keys().next().unwrap();
    let mut client = Transport::Grpc.open(&process.address(), token, None).await;
    client.say("only in the WAL", None).await.unwrap();
    client.reply().await;
    process.kill().await;
    let (file, log) = (fs::read(&path).unwrap(), fs::read(&wal).unwrap());
    for damage in [&b"this is not a WAL"[..], &[0; 4], &[0x37, 0x7f, 0x06, 0x82, 9]] {
        let mut bytes = log.clone();
        bytes[..damage.len()].copy_from_slice(damage);
        fs::write(&wal, bytes).unwrap();
        assert!(refused(&path).await.contains("duologue.db-wal begins with something else"));
    }
    fs::write(&wal, &log).unwrap();
    fs::write(&path, "").unwrap();
    assert!(refused(&path).await.contains("it is empty or absent, but"));
    fs::remove_file(&path).unwrap();
    assert!(refused(&path).await.contains("it is empty or absent, but"));
    assert_eq!(fs::read(&wal).unwrap(), log, "left as it was");

    fs::write(&path, file).unwrap();
    let process = start(&path).await;
    let now = history(&process.address(), Transport::Sse, token).await;
    assert_eq!(now.len(), original.logs[token].len() + 2);
}

/// A power cut may leave such a tail; all before it is there.
#[tokio::test]
async fn a_torn_tail_of_the_wal_costs_no_more_than_itself() {
    let original = Original::new().await;
    let (path, wal) = (original.path(), original.folder.path().join("duologue.db-wal"));
    let process = start(&path).await;
    let token = original.logs.keys().next().unwrap();
    let mut client = Transport::Grpc.open(&process.address(), token, None).await;
    for text in ["one", "two"] {
        client.say(text, None).await.unwrap();
        client.reply().await;
    }
    let whole = history(&process.address(), Transport::Sse, token).await;
    process.kill().await;
    let (file, log) = (fs::read(&path).unwrap(), fs::read(&wal).unwrap());
    let mut shortest = whole.len();
    for lost in [1, 100, PAGE, 3 * PAGE, log.len() - 32] {
        let mut bytes = log.clone();
        let end = bytes.len();
        bytes[end - lost..].fill(0xee);
        fs::write(&path, &file).unwrap();
        fs::write(&wal, bytes).unwrap();
        let _not_there = fs::remove_file(original.folder.path().join("duologue.db-shm"));
        let process = start(&path).await;
        let mut client = Transport::Grpc.open(&process.address(), token, None).await;
        let now = history(&process.address(), Transport::Sse, token).await;
        // The turn whose reply was cut off may have been answered anew.
        let same = now.iter().zip(&whole).take_while(|(now, then)| now == then).count();
        assert!(now.len() - same <= 1, "{lost}: {now:?}");
        shortest = shortest.min(same);
        client.say("more", None).await.unwrap();
        client.reply().await;
        process.kill().await;
    }
    assert_eq!(shortest, original.logs[token].len(), "all was cut off, and all before is there");
}

#[tokio::test]
async fn a_damaged_page_is_never_a_panic_and_never_a_wrong_answer() {
    let original = Original::new().await;
    let (mut at_start, mut later, mut unnoticed) = (0, 0, 0);
    let pages = original.bytes.len() / PAGE;
    for page in 0..pages {
        for fill in [0x00, 0xff] {
            // What a page is, how many cells it has, and where they are.
            let header = if page == 0 { 100..112 } else { page * PAGE..page * PAGE + 12 };
            let whole = page * PAGE..(page + 1) * PAGE;
            let place = if fill == 0 && page > 0 { whole } else { header };
            let path = original.damaged(|bytes| bytes[place].fill(fill));
            match look(&path, &original.logs).await {
                Seen::AtStart => at_start += 1,
                Seen::Later => later += 1,
                Seen::Nowhere => unnoticed += 1,
            }
        }
    }
    Figures::print(format_args!(
        "{pages} pages damaged twice: {at_start} refused at the start, {later} when they were \
         met, {unnoticed} not met; 0 panics, 0 wrong answers"
    ));
    assert!(at_start > 0 && later > pages / 2);
}

enum Seen {
    AtStart,
    Later,
    Nowhere,
}

/// Starts the gateway and asks it for everything.
async fn look(path: &Path, logs: &HashMap<String, Vec<Entry>>) -> Seen {
    let store = format!("sqlite:{}", path.display());
    let flags = [&["--addr", "127.0.0.1:0"], &flags(&store)[..]].concat();
    let Some(process) = Process::start_if_it_can(&flags).await else { return Seen::AtStart };
    let mut noticed = false;
    for (token, log) in logs {
        let url = process.address().url(&format!("/refresh_token?token={token}"));
        let Ok(answer) = soon("an answer", reqwest::get(url)).await else {
            noticed = true;
            break;
        };
        let status = answer.status().as_u16();
        let Ok(body) = answer.text().await else {
            noticed = true;
            break;
        };
        if status == 200 {
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            let messages = body["messages"].as_array().unwrap();
            let texts = messages.iter().map(|message| message["msg"].as_str().unwrap());
            let expected = log.iter().map(|entry| entry.3.as_str());
            assert!(texts.eq(expected), "a wrong answer: {body}");
        } else {
            assert_eq!(status, 500, "{body}");
            noticed = true;
        }
    }
    if !noticed {
        process.signal("TERM").await;
    }
    let (code, log) = process.ended().await;
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
    match (code, noticed) {
        (Some(0), false) => Seen::Nowhere,
        (Some(1), _) => {
            let clear = log.iter().filter(|line| line.contains("the store has failed:")).count();
            assert_eq!(clear, 1, "{log:#?}");
            Seen::Later
        }
        other => panic!("{other:?}: {log:#?}"),
    }
}
