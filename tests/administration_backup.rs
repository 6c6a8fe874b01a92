//! The command `backup`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::administration::{StoreFolder, mode, stop, store, talk};
use crate::{
    process::Process,
    support::{Transport, create, history, soon},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_a_working_gateway() {
    let place = StoreFolder::new();
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
async fn a_backup_replaces_a_file_only_with_force() {
    let place = StoreFolder::new();
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
    // A foreign WAL beside the copy would be applied to it.
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
    let place = StoreFolder::new();
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
