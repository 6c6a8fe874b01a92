//! The limits of a store, and the space that it returns.

use std::{sync::Arc, time::Duration};

use duologue::{
    session::{
        AppendLimits, Caller, Content, ErrorKind, Lease, NewReply, Store, Swept, Timestamp,
        Turns as _,
    },
    store::{Durability, MemoryStore, SqliteStore},
};

use crate::store_contract::{
    ALL, AnyStore, NOW, created, kind, later, new_session, reply, storages, stores, terms, user,
};

#[tokio::test]
async fn a_store_keeps_no_more_sessions_than_it_may_and_has_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let sqlite = || SqliteStore::open(&path, Durability::Full).unwrap().with_room(3);
    let stores: [Arc<dyn AnyStore>; 2] =
        [Arc::new(MemoryStore::new(3, 1 << 20)), Arc::new(sqlite())];
    for store in stores {
        let mut kept = Vec::new();
        for _ in 0..3 {
            kept.push(created(&*store).await.0);
        }
        let refused = store.create(new_session().0).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert!(refused.wait().is_some(), "there may be room later");
        store.revoke(kept[0].id, NOW).await.unwrap();
        created(&*store).await;
        assert_eq!(kind(store.create(new_session().0).await), ErrorKind::Overloaded);
        assert_eq!(store.sweep(later(60), 10).await.unwrap().sessions.len(), 3);
        created(&*store).await;
        store.close().await.unwrap();
    }
    // The count is as durable as what is counted.
    let again = sqlite();
    created(&again).await;
    created(&again).await;
    assert_eq!(kind(again.create(new_session().0).await), ErrorKind::Overloaded);
}

#[tokio::test]
async fn what_expired_gives_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let store = SqliteStore::open(&path, Durability::Full).unwrap();
    let pages = || {
        let file = rusqlite::Connection::open(&path).unwrap();
        file.query_row("PRAGMA page_count", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    let empty = pages();
    for _ in 0..20 {
        let (session, _) = created(&store).await;
        for text in ["x".repeat(50_000), "y".repeat(50_000)] {
            store.append(session.id, user(&text, None), terms()).await.unwrap();
        }
    }
    let full = pages();
    assert!(full > empty + 400, "{empty} pages became {full}");
    // Step by step, since others wait for each step.
    for step in 0.. {
        store.sweep(later(200), 1000).await.unwrap();
        if pages() == empty {
            break;
        }
        assert!(step < 10_000, "{} of {full} pages are still there", pages());
    }
}

#[tokio::test]
async fn a_log_that_takes_several_steps_to_delete_is_deleted() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let wide = AppendLimits { max_queued_turns: 1000, max_session_messages: 10_000, ..terms() };
        for number in 0..300 {
            store.append(session.id, user(&format!("{number}"), None), wide).await.unwrap();
        }
        let mut swept = Vec::new();
        loop {
            let step = store.sweep(later(200), 10).await.unwrap();
            swept.extend(step.sessions);
            if !step.more {
                break;
            }
        }
        assert_eq!(swept, [session.id]);
        assert_eq!(kind(store.read(session.id, NOW, ALL).await), ErrorKind::SessionExpired);
        assert!(store.take_over(None, None, 10, NOW).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_full_store_refuses_sessions_until_a_sweep() {
    let store = MemoryStore::new(1, 1000);
    let (session, _) = created(&store).await;
    assert_eq!(kind(store.create(new_session().0).await), ErrorKind::Overloaded);
    assert_eq!(
        kind(store.append(session.id, user(&"x".repeat(1000), None), terms()).await),
        ErrorKind::StoreFull
    );
    let asked = store.append(session.id, user("x", None), terms()).await.unwrap();
    let long = NewReply { content: Content::of_text("y".repeat(2000)), ..reply(&asked) };
    store.answer_alone(session.id, long, NOW).await.unwrap();
    assert_eq!(
        kind(store.append(session.id, user("x", None), terms()).await),
        ErrorKind::StoreFull
    );
    assert_eq!(store.sweep(later(200), 10).await.unwrap().sessions, [session.id]);
    let (session, _) = created(&store).await;
    store.append(session.id, user("x", None), terms()).await.unwrap();
}

/// What a process left unanswered, the next one answers.
#[tokio::test]
async fn a_gateway_takes_up_the_turns_that_it_finds_unanswered() {
    use duologue::{
        responder::Simulated,
        session::{Event, Gateway, Position, Settings},
    };

    for storage in storages() {
        let (mut new, token) = new_session();
        let now = Timestamp::of_wall_clock();
        new.session.expires_at = now.plus(Duration::from_secs(60));
        new.session.ends_at = new.session.expires_at;
        let (id, epoch) = (new.session.id, new.session.epoch.clone());
        storage.store.create(new).await.unwrap();
        for text in ["one", "two"] {
            storage
                .turns
                .append(id, user(text, None), AppendLimits { now, ..terms() })
                .await
                .unwrap();
        }
        let responder = Arc::new(Simulated::new("{text}!", Duration::ZERO));
        let gateway = Gateway::start(Settings::default(), storage, responder).await.unwrap();
        let start = Position::new(epoch, 0);
        let (mut attachment, _) =
            gateway.attach(&Caller::default(), &token, Some(&start)).await.unwrap();
        let (mut texts, mut attempts) = (Vec::new(), Vec::new());
        while texts.len() < 4 {
            match attachment.next().await.unwrap() {
                Event::Message(event) => texts.push(event.message.text().to_string()),
                Event::ReplyStarted(started) => attempts.push(started.attempt),
                Event::Delta(_) | Event::ReplyPart(_) | Event::GoAway(_) => {}
            }
        }
        assert_eq!(texts, ["one", "two", "one!", "two!"]);
        assert!(attempts.iter().all(|attempt| *attempt == 2), "{attempts:?}");
    }
}

/// Another process can hold the write lock for as long as it likes: a sweep that finds nothing to
/// delete does not ask for it.
#[tokio::test]
async fn an_idle_sweep_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let store = SqliteStore::open(&path, Durability::Full).unwrap();
    created(&store).await;
    store.sweep(NOW, 10).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let swept = crate::support::soon("the sweep", store.sweep(NOW, 10)).await.unwrap();
    assert_eq!(swept, Swept::default());
    let mut due = Box::pin(store.sweep(later(100), 10));
    assert!(futures_util::poll!(&mut due).is_pending());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(due.await.unwrap().sessions.len(), 1);
}

#[tokio::test]
async fn a_file_at_its_limit_refuses_what_is_new_and_stores_replies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let open = |limit| SqliteStore::open(&path, Durability::Full).unwrap().with_file_size(limit);
    let store = open(1 << 20);
    let (one, _) = new_session();
    let id = one.session.id;
    store.create(one).await.unwrap();
    let text = "x".repeat(60_000);
    let mut last = None;
    let refused = loop {
        match store.append(id, user(&text, None), terms()).await {
            Ok(asked) => {
                let reply = reply(&asked);
                store.answer(id, Lease::UNSHARED, reply, NOW).await.unwrap();
                last = Some(asked);
            }
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(refused, ErrorKind::StoreFull);
    let size = std::fs::metadata(&path).unwrap().len()
        + std::fs::metadata(path.with_extension("db-wal")).map_or(0, |wal| wal.len());
    assert!(last.is_some() && size < 8 << 20, "{size}");
    // A short message still fits, and a session that is deleted makes room.
    store.append(id, user("short", None), terms()).await.unwrap();
    store.revoke(id, NOW).await.unwrap();
    let (two, _) = new_session();
    let id = two.session.id;
    store.create(two).await.unwrap();
    store.append(id, user(&text, None), terms()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let unlimited = open(0);
    for _ in 0..3 {
        unlimited.append(id, user(&text, None), terms()).await.unwrap();
    }
}
