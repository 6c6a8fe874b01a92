//! How far a reply has come is kept beside it, and never holds it up.

use std::{sync::Arc, time::Duration};

use duologue::{
    responder::Simulated,
    session::{
        Caller, Chunk, Event, History, Outcome, Piece, Prompt, Reply, Responder, Status,
        Subscription,
    },
};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};

use crate::support::{
    Call, DelayedStore, Scripted, Step, core, new_message, next_reply, soon, status, watched,
};

/// Bytes after which progress is kept.
const SIZE: usize = 4096;

/// How long progress may go unkept.
const INTERVAL: Duration = Duration::from_secs(2);

fn sizes(store: &DelayedStore) -> Vec<usize> {
    store.noted.lock().unwrap().iter().map(|note| note.1).collect()
}

/// Reads until the reply has this length.
async fn until_text(attachment: &mut Subscription, size: usize) {
    let mut said = 0;
    let reading = async {
        while said < size {
            if let Event::Delta(delta) = attachment.next().await.unwrap() {
                said += delta.piece.text().len();
            }
        }
    };
    soon("the deltas", reading).await;
}

#[tokio::test(start_paused = true)]
async fn progress_is_kept_every_four_kib_and_not_more_often() {
    let store = DelayedStore::new();
    let script = [vec![Step::Flood(1024); 64], vec![Step::End]].concat();
    let gateway = core(&store, Scripted::new(&script).0).await;
    let (mut attachment, token) = watched(&gateway).await;
    gateway.send(&Caller::default(), &token, new_message("hello")).await.unwrap();
    next_reply(&mut attachment).await;
    let sizes = sizes(&store);
    assert!((SIZE..2 * SIZE).contains(&sizes[0]), "{sizes:?}");
    for pair in sizes.windows(2) {
        let (more, large) = (pair[1] - pair[0], SIZE.max(pair[0] / 4));
        assert!((large..large + SIZE).contains(&more), "{sizes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_kept_every_two_seconds_and_not_more_often() {
    let store = DelayedStore::new();
    let words = "word ".repeat(100);
    let gateway = core(&store, Simulated::new(&words, Duration::from_millis(100))).await;
    let (mut attachment, token) = watched(&gateway).await;
    gateway.send(&Caller::default(), &token, new_message("hello")).await.unwrap();
    next_reply(&mut attachment).await;
    let times: Vec<_> = store.noted.lock().unwrap().iter().map(|note| note.0).collect();
    assert!((4..=5).contains(&times.len()), "in ten seconds: {times:?}");
    let apart: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let about = INTERVAL..INTERVAL + Duration::from_millis(200);
    assert!(apart.iter().all(|apart| about.contains(apart)), "{apart:?}");
}

/// Waits for a while, then sends a word every 100 ms.
struct SlowResponder;

impl Responder for SlowResponder {
    fn history(&self) -> History {
        History::NONE
    }

    fn respond(&self, _: Prompt) -> Reply {
        let chunks = stream::unfold(0, |said| async move {
            let pause = if said == 0 { 3 * INTERVAL } else { INTERVAL / 20 };
            sleep(pause).await;
            let chunk = match said {
                0..30 => Chunk::Delta(Piece::Text("word ".into())),
                30 => Chunk::End(Outcome::complete(None, None)),
                _ => return None,
            };
            Some((chunk, said + 1))
        });
        Reply { chunks: chunks.boxed(), context_trimmed: false, input_tokens: None }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_begins_late_is_kept_two_seconds_after_its_first_word_and_not_at_it() {
    let store = DelayedStore::new();
    let gateway = core(&store, SlowResponder).await;
    let (mut attachment, token) = watched(&gateway).await;
    gateway.send(&Caller::default(), &token, new_message("hello")).await.unwrap();
    until_text(&mut attachment, 1).await;
    let spoke = Instant::now();
    next_reply(&mut attachment).await;
    let first = store.noted.lock().unwrap().first().map(|note| note.0 - spoke);
    assert!(first.is_some_and(|after| after >= INTERVAL), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_to_keep_progress_does_not_hold_up_the_reply() {
    let store = DelayedStore::new();
    store.hold(Call::Checkpoint);
    let script = [Step::Flood(SIZE), Step::Flood(SIZE), Step::Flood(SIZE), Step::Gate, Step::End];
    let responder = Scripted::new(&script).0;
    let gate = Arc::clone(&responder.gate);
    let gateway = core(&store, responder).await;
    let (mut attachment, token) = watched(&gateway).await;
    gateway.send(&Caller::default(), &token, new_message("hello")).await.unwrap();
    until_text(&mut attachment, 3 * SIZE).await;
    store.holds(1).await;
    assert_eq!(sizes(&store).len(), 1, "one at a time");

    store.release();
    let caught_up = async {
        while sizes(&store).last() != Some(&(3 * SIZE)) {
            tokio::task::yield_now().await;
        }
    };
    soon("the rest to be kept", caught_up).await;
    gate.add_permits(1);
    let reply = next_reply(&mut attachment).await;
    assert_eq!((status(&reply), reply.text().len()), (&Status::Complete, 3 * SIZE));
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_committed_while_its_progress_is_still_being_kept() {
    let store = DelayedStore::new();
    store.hold(Call::Checkpoint);
    let responder = Scripted::new(&[Step::Flood(SIZE), Step::Gate, Step::End]).0;
    let gate = Arc::clone(&responder.gate);
    let gateway = core(&store, responder).await;
    let (mut attachment, token) = watched(&gateway).await;
    gateway.send(&Caller::default(), &token, new_message("hello")).await.unwrap();
    store.holds(1).await;
    gate.add_permits(1);
    let reply = soon("the reply", next_reply(&mut attachment)).await;
    assert_eq!((status(&reply), reply.text().len()), (&Status::Complete, SIZE));
}
