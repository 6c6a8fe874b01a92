//! Wall clocks that jump, under the real binary: `libfaketime` tells it the time of day,
//! and leaves the monotonic clock alone.

use std::path::{Path, PathBuf};

use crate::{
    process::Process,
    support::{Rest, Transport, create, history},
};

const JUMPS: [&str; 4] = ["+1d", "-1d", "+1y", "-1y"];

/// A wall clock that a test sets.
struct WallClock {
    library: String,
    file: PathBuf,
}

impl WallClock {
    fn new(folder: &Path) -> Self {
        let architectures = std::fs::read_dir("/usr/lib").unwrap();
        let library = architectures
            .map(|folder| folder.unwrap().path().join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists())
            .expect("libfaketime is installed: tests/run does it");
        let clock =
            Self { library: library.display().to_string(), file: folder.join("wall-clock") };
        clock.jump("+0s");
        clock
    }

    /// Sets it so far from the truth.
    fn jump(&self, offset: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    async fn start(&self, flags: &[&str]) -> Process {
        let environment = [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        Process::start_in(&environment, flags).await
    }
}

async fn is_there(process: &Process, token: &str) -> bool {
    let path = format!("/refresh_token?token={token}");
    let answer = Rest::call(&process.address(), "GET", &path).await;
    assert!([200, 400].contains(&answer.status), "{}", answer.body);
    answer.status == 200
}

#[tokio::test]
async fn a_jump_kills_no_session_of_a_running_process() {
    for kind in ["memory", "sqlite"] {
        let folder = tempfile::tempdir().unwrap();
        let clock = WallClock::new(folder.path());
        let path = folder.path().join("duologue.db");
        let store =
            if kind == "sqlite" { format!("sqlite:{}", path.display()) } else { kind.into() };
        let process = clock.start(&["--store", &store]).await;
        let token = create(&process.address()).await;
        let mut streams = Vec::new();
        for transport in Transport::ALL {
            streams.push(transport.open(&process.address(), &token, None).await);
        }
        let mut days = Vec::new();
        for (turn, jump) in ["+0s"].into_iter().chain(JUMPS).enumerate() {
            clock.jump(jump);
            streams[0].say("still here", Some(&format!("m{turn}"))).await.unwrap();
            for stream in &mut streams {
                let reply = stream.reply().await.1;
                assert_eq!(reply.seq as usize, 2 * (turn + 1), "{kind} {jump} {stream:?}");
                days.push(reply.created_at.unwrap().seconds / 86_400);
            }
            assert!(is_there(&process, &token).await, "{kind} {jump}");
            // One that is made now lives as long as any.
            let new = create(&process.address()).await;
            assert!(is_there(&process, &new).await, "{kind} {jump}");
        }
        days.sort_unstable();
        days.dedup();
        assert_eq!(days.len(), 5, "the wall clock did not jump: {days:?}");
        assert_eq!(history(&process.address(), Transport::Grpc, &token).await.len(), 10);
    }
}

#[tokio::test]
async fn a_jump_back_resurrects_no_session_of_a_running_process() {
    for kind in ["memory", "sqlite"] {
        let folder = tempfile::tempdir().unwrap();
        let clock = WallClock::new(folder.path());
        let path = folder.path().join("duologue.db");
        let store =
            if kind == "sqlite" { format!("sqlite:{}", path.display()) } else { kind.into() };
        let process = clock.start(&["--store", &store, "--session-ttl", "3s"]).await;
        let token = create(&process.address()).await;
        let stream = Transport::Json.open(&process.address(), &token, None).await;
        clock.jump("-1y");
        let (code, _) = stream.ended().await;
        assert_eq!(code.as_deref(), Some("session_expired"), "{kind}: in spite of the jump");
        clock.jump("-2y");
        assert!(!is_there(&process, &token).await, "{kind}");
    }
}

/// What is stored are times of day: a process that starts believes its wall clock.
#[tokio::test]
async fn a_start_after_a_jump_goes_by_the_new_time_of_day() {
    let folder = tempfile::tempdir().unwrap();
    let clock = WallClock::new(folder.path());
    let store = format!("sqlite:{}", folder.path().join("duologue.db").display());
    let flags = ["--store", &store];
    let process = clock.start(&flags).await;
    let token = create(&process.address()).await;
    process.kill().await;
    clock.jump("-1y");
    let process = clock.start(&flags).await;
    assert!(is_there(&process, &token).await, "it has not come to its deadline");
    process.kill().await;
    clock.jump("+1y");
    let process = clock.start(&flags).await;
    assert!(!is_there(&process, &token).await, "its deadline is long past");
}

/// Idempotency has no deadline of its own: it lasts as long as the session.
#[tokio::test]
async fn a_retry_in_the_last_minutes_of_a_session_gets_the_first_answer() {
    let folder = tempfile::tempdir().unwrap();
    let clock = WallClock::new(folder.path());
    let store = format!("sqlite:{}", folder.path().join("duologue.db").display());
    let flags = ["--store", &store, "--session-ttl", "24h", "--session-max-age", "24h"];
    let process = clock.start(&flags).await;
    let token = create(&process.address()).await;
    let mut client = Transport::Grpc.open(&process.address(), &token, None).await;
    let first = client.say("hello", Some("m1")).await.unwrap();
    client.reply().await;
    process.kill().await;
    clock.jump("+86100s");
    let process = clock.start(&flags).await;
    for transport in Transport::ALL {
        let mut client = transport.open(&process.address(), &token, None).await;
        let again = client.say("hello", Some("m1")).await.unwrap();
        assert_eq!((again.duplicate, &again.message_id, again.seq), (true, &first.message_id, 1));
    }
    process.kill().await;
    clock.jump("+86500s");
    let process = clock.start(&flags).await;
    assert!(!is_there(&process, &token).await, "the jump was no jump to its last minutes");
}
