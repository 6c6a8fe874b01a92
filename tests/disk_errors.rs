//! A disk that answers with errors, under the real binary: `strace` makes the system calls
//! on one of its files fail. Nothing is acknowledged that is not kept, an fsync that
//! failed is final, and what was acknowledged is there afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    process::Process,
    support::{Event, Figures, Load, Transport, create, history, soon},
};

const SYNC: &str = "fsync,fdatasync";

/// The calls of a running process on one file.
struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    /// Makes calls fail from now on: `when` counts them for each thread.
    async fn attach(process: &Process, file: &Path, calls: &str, how: &str) -> Self {
        let log = file.parent().unwrap().join("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-p", &process.child.id().unwrap().to_string(), "-P"]).arg(file);
        strace.args(["-e", &format!("trace={SYNC},pwrite64,pread64")]);
        strace.args(["-e", &format!("inject={calls}:{how}"), "-o"]).arg(&log);
        let mut child = strace.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = soon("strace", said.next_line()).await.unwrap().unwrap_or_default();
        assert!(line.contains("attached"), "{line}");
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Self { child, log }
    }

    /// What was called, when the process has ended.
    async fn calls(mut self) -> Vec<String> {
        soon("strace", self.child.wait()).await.unwrap();
        fs::read_to_string(self.log).unwrap().lines().map(ToOwned::to_owned).collect()
    }
}

struct StoreFolder {
    folder: tempfile::TempDir,
}

impl StoreFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, end: &str) -> PathBuf {
        // As the kernel names it.
        self.folder.path().canonicalize().unwrap().join(format!("duologue.db{end}"))
    }

    async fn start(&self) -> Process {
        let store = format!("sqlite:{}", self.file("").display());
        Process::start(&["--store", &store, "--simulated-reply", "You said: {text}"]).await
    }
}

/// The gateway ended itself, and logged one line.
async fn failed_clearly(process: Process) {
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(1), "{log:#?}");
    let clear: Vec<_> = log.iter().filter(|line| line.contains("the store has failed:")).collect();
    assert_eq!(clear.len(), 1, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
}

fn assert_never_synced_again(calls: &[String]) {
    let is_sync = |call: &&String| call.contains("sync(");
    let failed = calls.iter().position(|call| call.contains("INJECTED"));
    let failed = failed.expect("the failure reached the gateway");
    let after: Vec<_> = calls[failed + 1..].iter().filter(is_sync).collect();
    assert!(after.is_empty(), "after {}: {after:#?}", calls[failed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_or_fsync_of_the_wal_is_final_and_loses_nothing() {
    let mut figures = Figures::default();
    let (mut rounds, whens) = (0, [1, 2, 7, 20]);
    for calls in [SYNC, "pwrite64"] {
        for when in whens {
            let place = StoreFolder::new();
            let process = place.start().await;
            let mut load = Load::begin(&process.address(), 4).await;
            let how = format!("error=EIO:when={when}");
            let tracer = Tracer::attach(&process, &place.file("-wal"), calls, &how).await;
            failed_clearly(process).await;
            load.ended().await;
            assert_never_synced_again(&tracer.calls().await);
            let process = place.start().await;
            load.compare(&process.address(), &mut figures).await;
            rounds += 1;
        }
    }
    Figures::print(format_args!("{rounds} times EIO on a write or an fsync: {figures}"));
    assert!(figures.acknowledged > rounds, "there was hardly any load");
}

/// The WAL is written back into the file when it has grown to 16 MiB. SQLite
/// by itself would not tell that this failed, and try it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_of_the_file_itself_is_final_and_loses_nothing() {
    for calls in [SYNC, "pwrite64"] {
        let place = StoreFolder::new();
        let process = place.start().await;
        let token = create(&process.address()).await;
        let mut client = Transport::Grpc.open(&process.address(), &token, None).await;
        let tracer = Tracer::attach(&process, &place.file(""), calls, "error=EIO:when=1").await;
        let mut told = Vec::new();
        while let Ok(Ok(accepted)) = client.try_say(&"x".repeat(60_000), None).await {
            told.push((u64::from(accepted.seq), accepted.message_id));
            let answered = accepted.seq + 1;
            let answer = async {
                loop {
                    match client.try_next().await {
                        Ok(Event::Message(message)) if message.seq == answered => {
                            break true;
                        }
                        Ok(_) => {}
                        Err(_) => break false,
                    }
                }
            };
            if !answer.await {
                break;
            }
        }
        failed_clearly(process).await;
        assert_never_synced_again(&tracer.calls().await);
        let process = place.start().await;
        let log = history(&process.address(), Transport::Sse, &token).await;
        let kept: Vec<_> = log.iter().map(|entry| (entry.0, entry.1.clone())).collect();
        assert!(told.iter().all(|message| kept.contains(message)), "{calls}");
        assert!(told.len() > 50, "{}", told.len());
    }
}

/// What is durable in a file that has no durable name is not durable.
#[tokio::test]
async fn new_folders_are_on_the_disk_before_anything_is_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().canonicalize().unwrap();
    let (log, file) = (top.join("strace"), top.join("one/two/duologue.db"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=fsync", "-o"]).arg(&log);
    strace.args([env!("CARGO_BIN_EXE_duologue"), "--addr", "127.0.0.1:0", "--ops-addr", "off"]);
    strace.args(["--store", &format!("sqlite:{}", file.display())]);
    let child = strace.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let process = Process::listening(child).await.unwrap();
    let calls = fs::read_to_string(&log).unwrap();
    // Ended before anything is asserted: it would outlive its tracer.
    let gateway = calls.split_whitespace().next().unwrap();
    let ended = Command::new("kill").args(["-s", "TERM", gateway]).status();
    assert!(ended.await.unwrap().success());
    assert_eq!(process.ended().await.0, Some(0));
    for folder in [&top, &top.join("one"), &top.join("one/two")] {
        let synced = format!("<{}>)", folder.display());
        assert!(calls.contains(&synced), "{synced} is not in\n{calls}");
    }
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_moment_refuses_and_goes_on() {
    let place = StoreFolder::new();
    let process = place.start().await;
    let token = create(&process.address()).await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    client.say("before", Some("m0")).await.unwrap();
    client.reply().await;
    let how = "error=ENOSPC:when=1..3";
    let tracer = Tracer::attach(&process, &place.file("-wal"), "pwrite64", how).await;
    let refusal = client.say("no room", Some("m1")).await.unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.retry_after_ms), ("store_full", Some(5000)));
    assert_eq!(
        history(&process.address(), Transport::Sse, &token).await.len(),
        2,
        "reads continue"
    );
    soon("room", async { while client.say("no room", Some("m1")).await.is_err() {} }).await;
    client.reply().await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(0));
    drop(tracer);
    let process = place.start().await;
    let log = history(&process.address(), Transport::Grpc, &token).await;
    let texts: Vec<_> = log.iter().map(|entry| entry.3.as_str()).collect();
    assert_eq!(texts, ["before", "You said: before", "no room", "You said: no room"]);
}

/// What is not in the gateway's memory cannot be read.
#[tokio::test]
async fn a_read_that_fails_is_an_error_and_no_silence_and_no_wrong_answer() {
    let place = StoreFolder::new();
    let process = place.start().await;
    let token = create(&process.address()).await;
    let mut client = Transport::Json.open(&process.address(), &token, None).await;
    for _ in 0..20 {
        client.say(&"x".repeat(50_000), None).await.unwrap();
        client.reply().await;
    }
    let log = history(&process.address(), Transport::Sse, &token).await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(0));

    let process = place.start().await;
    let url = process.address().url(&format!("/events?token={token}"));
    let tracer = Tracer::attach(&process, &place.file(""), "pread64", "error=EIO:when=1+").await;
    // Or the connection is lost: the gateway ends.
    if let Ok(answer) = soon("an answer", reqwest::get(url)).await {
        assert_eq!(answer.status(), 500);
    }
    failed_clearly(process).await;
    drop(tracer);
    let process = place.start().await;
    assert_eq!(history(&process.address(), Transport::Sse, &token).await, log);
}
