//! Promise 1: what was acknowledged survives `kill -9`, at any moment, under load from
//! every protocol. `DUOLOGUE_TEST_KILLS=1000` makes it long.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::RngExt as _;

use crate::{
    process::Process,
    support::{Address, Attached, Door, Event, create, history, proto, soon},
};

const SESSIONS: usize = 6;

/// What a client was told is durable: its own id, the message's, its number, its text.
type Acknowledged = Vec<(String, String, u32, String)>;

#[derive(Default)]
struct Figures {
    kills: usize,
    acknowledged: usize,
    unacknowledged: usize,
    replies: usize,
    second_attempts: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let kills = std::env::var("DUOLOGUE_TEST_KILLS").map_or(50, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("duologue.db").display());
    let flags =
        ["--store", &store, "--simulated-reply", "You said: {text}", "--simulated-delay", "2ms"];
    let mut figures = Figures::default();
    let mut process = Process::start(&flags).await;
    while figures.kills < kills {
        let address = process.address();
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push((create(&address).await, Arc::new(Mutex::new(Acknowledged::new()))));
        }
        let mut talkers = Vec::new();
        for ((token, told), door) in sessions.iter().zip(Door::ALL.into_iter().cycle()) {
            let client = door.open(&address, token, None).await;
            talkers.push(tokio::spawn(talk(client, Arc::clone(told))));
        }
        let moment = Duration::from_millis(rand::rng().random_range(5..120));
        tokio::time::sleep(moment).await;
        process.kill().await;
        for talker in talkers {
            soon("a client to notice", talker).await.unwrap();
        }
        figures.kills += 1;
        process = Process::start(&flags).await;
        for (token, told) in sessions {
            let told = std::mem::take(&mut *told.lock().unwrap());
            compare(&process.address(), &token, &told, &mut figures).await;
        }
    }
    process.kill().await;
    let Figures { kills, acknowledged, unacknowledged, replies, second_attempts } = figures;
    println!(
        "{kills} kills: {acknowledged} acknowledged messages, 0 lost, 0 twice, 0 gaps; \
         {unacknowledged} kept that were not acknowledged; {replies} replies, \
         {second_attempts} of them on the second attempt"
    );
    assert!(acknowledged > kills, "there was hardly any load");
}

/// Talks until the gateway dies.
async fn talk(mut client: Attached, told: Arc<Mutex<Acknowledged>>) {
    for turn in 0.. {
        let (id, text) = (format!("m{turn}"), format!("text {turn}"));
        match client.try_say(&text, Some(&id)).await {
            Ok(Ok(accepted)) => {
                assert!(!accepted.duplicate);
                told.lock().unwrap().push((id, accepted.message_id, accepted.seq, text));
            }
            // The queue is full: this one is not said.
            Ok(Err(refusal)) => assert!(refusal.retry_after_ms.is_some(), "{refusal:?}"),
            Err(_) => return,
        }
    }
}

async fn compare(address: &Address, token: &str, told: &Acknowledged, figures: &mut Figures) {
    // Every turn gets its reply, on the second attempt if the first died.
    let start = Door::Json.open(address, token, None).await;
    let epoch = start.at(0);
    let mut watcher = Door::Json.open(address, token, Some(&epoch)).await;
    let (mut asked, mut answered) = (HashMap::new(), 0);
    let mut second = 0;
    let log = history(address, Door::Sse, token).await;
    let turns = log.iter().filter(|entry| entry.2 == "user").count();
    while answered < turns {
        match watcher.next().await {
            Event::Message(message) if message.role() == proto::Role::User => {
                asked.insert(message.id, ());
            }
            Event::Message(message) => {
                assert_eq!(message.status(), proto::MessageStatus::Complete);
                assert!(asked.remove(&message.in_reply_to.unwrap()).is_some(), "answered twice");
                answered += 1;
            }
            Event::ReplyStarted(started) => second += usize::from(started.attempt == 2),
            _ => {}
        }
    }
    let log = history(address, Door::Sse, token).await;
    assert_eq!(log, history(address, Door::Grpc, token).await);
    let seqs: Vec<_> = log.iter().map(|entry| entry.0).collect();
    assert_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>(), "gapless");
    for (_, id, seq, text) in told {
        let kept = &log[*seq as usize - 1];
        assert_eq!((&kept.1, &kept.3), (id, text), "acknowledged and lost or changed");
    }
    let users: Vec<_> =
        log.iter().filter(|entry| entry.2 == "user").map(|entry| &entry.3).collect();
    let mut once = users.clone();
    once.dedup();
    assert_eq!(users, once, "kept twice");
    // A retry after the crash gets the first answer.
    if let Some((key, id, seq, text)) = told.last() {
        for door in Door::ALL {
            let mut client = door.open(address, token, None).await;
            let again = client.say(text, Some(key)).await.unwrap();
            assert_eq!(
                (again.duplicate, &again.message_id, again.seq),
                (true, id, *seq),
                "{door:?}"
            );
        }
    }
    figures.acknowledged += told.len();
    figures.unacknowledged += users.len() - told.len();
    figures.replies += answered;
    figures.second_attempts += second;
}
