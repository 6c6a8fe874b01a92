//! Promise 1: what was acknowledged survives `kill -9`, at any moment, under load from
//! every protocol. `DUOLOGUE_TEST_KILLS=1000` makes it long.

use std::time::Duration;

use rand::RngExt as _;

use crate::{
    process::Process,
    support::{Figures, Load},
};

const SESSIONS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let kills = std::env::var("DUOLOGUE_TEST_KILLS").map_or(50, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let store = format!("sqlite:{}", path.display());
    let reply = ["--simulated-reply", "You said: {text}", "--simulated-delay", "2ms"];
    let flags = [&["--store", &store, "--session-ttl", "24h"], &reply[..]].concat();
    let (mut figures, mut loads) = (Figures::default(), Vec::new());
    let mut process = Process::start(&flags).await;
    for _ in 0..kills {
        let mut load = Load::begin(&process.address(), SESSIONS).await;
        let moment = Duration::from_millis(rand::rng().random_range(5..120));
        // The kill must hit the process at a random moment of real time.
        tokio::time::sleep(moment).await;
        process.kill().await;
        assert_eq!(load.ended().await, 0, "refused, and nothing was wrong");
        process = Process::start(&flags).await;
        load.compare(&process.address(), &mut figures).await;
        loads.push(load);
    }
    for load in &loads {
        load.compare_again(&process.address()).await;
    }
    process.kill().await;
    assert_sound(&path);
    Figures::print(format_args!("{kills} kills: {figures}"));
    assert!(figures.acknowledged > kills, "there was hardly any load");
}

/// The whole file, as SQLite itself looks at it.
pub fn assert_sound(path: &std::path::Path) {
    let file = rusqlite::Connection::open(path).unwrap();
    let found = file.pragma_query_value(None, "integrity_check", |row| row.get::<_, String>(0));
    assert_eq!(found.unwrap(), "ok");
}
