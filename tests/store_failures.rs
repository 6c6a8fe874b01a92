//! Files and disks that fail, with the real thing: one clear line at the start, no
//! acknowledgement that is not kept, and life afterwards.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    process::{self, Process},
    support::{Event, Transport, create, history, soon},
};

async fn refused(path: &Path) -> String {
    let store = format!("sqlite:{}", path.display());
    let mut start = process::command(&["--addr", "127.0.0.1:0", "--store", &store]);
    let output = soon("the end", start.output()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains(&path.display().to_string()), "{log}");
    log
}

#[tokio::test]
async fn a_second_gateway_on_the_same_file_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let store = format!("sqlite:{}", path.display());
    let first = Process::start(&["--store", &store]).await;
    assert!(refused(&path).await.contains("another gateway has it open"));
    first.kill().await;
    Process::start(&["--store", &store]).await.kill().await;
}

#[tokio::test]
async fn a_second_gateway_is_refused_under_every_name_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let first = Process::start(&["--store", &format!("sqlite:{}", path.display())]).await;
    let [symbolic, hard, through_folder] =
        ["symbolic.db", "hard.db", "linked/duologue.db"].map(|name| folder.path().join(name));
    std::os::unix::fs::symlink(&path, &symbolic).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("linked")).unwrap();
    for name in [&symbolic, &through_folder] {
        assert!(refused(name).await.contains("another gateway has it open"), "{name:?}");
    }
    fs::hard_link(&path, &hard).unwrap();
    assert!(refused(&hard).await.contains("another gateway has it open"));
    // A hard link is refused while no gateway runs, too: the changes beside the first name
    // would be invisible under the second.
    first.kill().await;
    for name in [&hard, &path] {
        assert!(refused(name).await.contains("2 names (hard links)"), "{name:?}");
    }
    fs::remove_file(&hard).unwrap();
    let store = format!("sqlite:{}", symbolic.display());
    Process::start(&["--store", &store]).await.kill().await;
}

#[tokio::test]
async fn files_that_are_not_a_gateways_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");

    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    drop(foreign);
    assert!(refused(&path).await.contains("a database of something else"));
    let foreign = rusqlite::Connection::open(&path).unwrap();
    assert!(foreign.prepare("SELECT name FROM cats").is_ok());
    drop(foreign);

    fs::write(&path, "this is a letter and no database, and rather a long one at that").unwrap();
    assert!(refused(&path).await.contains("no SQLite database"));
}

#[tokio::test]
async fn a_file_of_a_newer_gateway_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let store = format!("sqlite:{}", path.display());
    Process::start(&["--store", &store]).await.kill().await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    assert!(refused(&path).await.contains("its version is 99"));
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let store = format!("sqlite:{}", path.display());
    let first = Process::start(&["--store", &store]).await;
    create(&first.address()).await;
    first.signal("TERM").await;
    assert_eq!(first.ended().await.0, Some(0));
    let length = fs::metadata(&path).unwrap().len();
    assert!(length > 4096, "{length}");
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    refused(&path).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    refused(&file.path().join("duologue.db")).await;
    let mount = Mount::tmpfs("ro,size=1m");
    refused(&mount.path().join("duologue.db")).await;
}

#[tokio::test]
async fn a_full_disk_refuses_messages_keeps_the_rest_and_recovers() {
    let mount = Mount::tmpfs("size=3m");
    let ballast = mount.path().join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let store = format!("sqlite:{}", mount.path().join("duologue.db").display());
    let process = Process::start(&["--store", &store]).await;
    let address = process.address();
    let token = create(&address).await;
    let mut client = Transport::Json.open(&address, &token, None).await;
    let text = "x".repeat(60_000);
    let mut kept = 0;
    let refusal = loop {
        match client.say(&text, None).await {
            Ok(_) => kept += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(kept > 3, "{kept}");
    assert_eq!((refusal.code.as_str(), refusal.retry_after_ms), ("store_full", Some(5000)));
    for (transport, code) in
        [(Transport::Sse, "507"), (Transport::Proto, "store_full"), (Transport::Grpc, "store_full")]
    {
        let mut other = transport.open(&address, &token, None).await;
        assert_eq!(other.say(&text, None).await.unwrap_err().code, code);
    }
    let send = crate::support::send_text(&token, &text, None);
    let status = crate::support::stub(&address).await.send_message(send).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let log = history(&address, Transport::Grpc, &token).await;
    let users = log.iter().filter(|entry| entry.2 == "user").count();
    assert_eq!(users, kept, "reads continue, and show the acknowledged messages");

    fs::remove_file(&ballast).unwrap();
    soon("room", async { while client.say("again", None).await.is_err() {} }).await;
    let mut replies = log.len() - users;
    soon("the replies that had no room", async {
        let mut back =
            Transport::Json.open(&address, &token, Some(&client.at(log.len() as u32))).await;
        while replies < users + 1 {
            if let Event::Message(message) = back.next().await {
                replies += usize::from(message.in_reply_to.is_some());
            }
        }
    })
    .await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_file_that_another_program_holds_for_a_while_delays_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let process = Process::start(&["--store", &format!("sqlite:{}", path.display())]).await;
    let address = process.address();
    let token = create(&address).await;
    let mut client = Transport::Json.open(&address, &token, None).await;
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut other = Transport::Grpc.open(&address, &token, None).await;
    let sending = tokio::spawn(async move { other.say("hello", None).await });
    let early = tokio::time::timeout(Duration::from_millis(100), client.next()).await;
    assert!(early.is_err(), "acknowledged before it could be durable: {early:?}");
    holder.execute_batch("COMMIT").unwrap();
    sending.await.unwrap().unwrap();
    client.reply().await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.0, Some(0));
    assert_eq!(mode(&path), 0o600, "others must not read what people said");
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A file system of its own; unmounted when dropped.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    fn tmpfs(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "duologue-test"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a file system: run it as root");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
