//! Deadlines of sessions, with the clock held: nothing here waits.

use std::{sync::Arc, time::Duration};

use duologue::{
    responder::Simulated,
    session::{
        Caller, Created, ErrorKind, Event, Gateway, NewMessage, PageRequest, Revocation, Settings,
        Subscription,
    },
    store::MemoryStore,
};
use tokio::time::{Instant, advance, sleep};

use crate::support::{Call, DelayedStore, named, unshared};

const HOUR: Duration = Duration::from_secs(3600);

async fn gateway() -> (Gateway, Created) {
    let store = Arc::new(MemoryStore::new(10, 1 << 20));
    let responder = Arc::new(Simulated::new("{text}", Duration::ZERO));
    let gateway = Gateway::start(Settings::default(), unshared(&store), responder).await.unwrap();
    let created = gateway.create_token(&Caller::default(), named("Ada")).await.unwrap();
    (gateway, created)
}

fn new_message(text: &str) -> NewMessage {
    NewMessage::new(text, None)
}

/// How the stream ends, and how long after now.
async fn end(attachment: &mut Subscription) -> (ErrorKind, Duration) {
    let from = Instant::now();
    loop {
        if let Err(error) = attachment.next().await {
            return (error.kind(), from.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_expires_and_its_live_stream_ends_within_a_second() {
    let (gateway, Created { token, .. }) = gateway().await;
    let (mut attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    let (kind, after) = end(&mut attachment).await;
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(after >= HOUR && after <= HOUR + Duration::from_secs(1), "{after:?}");
    assert_eq!(
        gateway.authenticate(&Caller::default(), &token).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
}

#[tokio::test(start_paused = true)]
async fn at_its_deadline_a_session_is_gone_for_every_call_before_it_is_swept() {
    let (gateway, Created { token, .. }) = gateway().await;
    let (attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    advance(HOUR - Duration::from_millis(1)).await;
    gateway.authenticate(&Caller::default(), &token).await.unwrap();
    advance(Duration::from_millis(2)).await;
    assert_eq!(
        gateway.authenticate(&Caller::default(), &token).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        gateway
            .refresh_token(&Caller::default(), &token, PageRequest::default())
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        gateway.send(&Caller::default(), &token, new_message("x")).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        attachment.send(new_message("x")).end().await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        gateway.attach(&Caller::default(), &token, None).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        gateway.stop(&Caller::default(), &token, None).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        gateway
            .revoke_token(&Caller::default(), &token, Revocation::Session)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::SessionExpired
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_and_a_refresh_renew_it_but_never_past_its_age() {
    let (gateway, Created { token, session, .. }) = gateway().await;
    let (mut attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    for hour in 0..23 {
        advance(HOUR - Duration::from_secs(60)).await;
        if hour % 2 == 0 {
            attachment.send(new_message("still here")).end().await.unwrap();
        } else {
            let snapshot = gateway
                .refresh_token(&Caller::default(), &token, PageRequest::default())
                .await
                .unwrap();
            assert!(snapshot.session.expires_at <= session.ends_at);
        }
    }
    let (kind, after) = end(&mut attachment).await;
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(after > HOUR - Duration::from_secs(1), "renewed: {after:?}");

    let (gateway, Created { token, .. }) = self::gateway().await;
    let (mut attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    let born = Instant::now();
    for _ in 0..47 {
        advance(HOUR / 2).await;
        attachment.send(new_message("still here")).end().await.unwrap();
    }
    let (kind, _) = end(&mut attachment).await;
    let age = born.elapsed();
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(age >= 24 * HOUR && age <= 24 * HOUR + Duration::from_secs(1), "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn watching_is_no_activity() {
    let (gateway, Created { token, .. }) = gateway().await;
    // The first stream is a use, and begins the hour.
    drop(gateway.attach(&Caller::default(), &token, None).await.unwrap());
    advance(HOUR / 2).await;
    let (mut attachment, opened) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    let (_, after) = end(&mut attachment).await;
    assert!(after <= HOUR / 2 + Duration::from_secs(1), "{after:?}");
    assert_eq!(opened.head_seq, 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_accepted_just_before_the_deadline_is_answered_even_by_a_slow_store() {
    let store = DelayedStore::new();
    let responder = Arc::new(Simulated::new("{text}", Duration::ZERO));
    let gateway = Gateway::start(Settings::default(), unshared(&store), responder).await.unwrap();
    let Created { token, .. } =
        gateway.create_token(&Caller::default(), named("Ada")).await.unwrap();
    let (mut attachment, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    sleep(HOUR - Duration::from_millis(100)).await;
    store.hold(Call::Append);
    let sending = tokio::spawn(attachment.send(new_message("hello")).end());
    store.holds(1).await;
    sleep(Duration::from_secs(2)).await;
    store.release();
    sending.await.unwrap().unwrap();
    let mut messages = 0;
    while messages < 2 {
        match attachment.next().await {
            Ok(Event::Message(_)) => messages += 1,
            Ok(_) => {}
            Err(error) => panic!("the session was renewed, and its stream ends: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn expired_sessions_make_room_within_a_second_however_many_they_are() {
    const MANY: usize = 20_000;
    let store = Arc::new(MemoryStore::new(MANY, 1 << 20));
    let responder = Arc::new(Simulated::new("{text}", Duration::ZERO));
    let gateway = Gateway::start(Settings::default(), unshared(&store), responder).await.unwrap();
    for _ in 0..MANY {
        gateway.create_token(&Caller::default(), named("Ada")).await.unwrap();
    }
    sleep(HOUR + Duration::from_secs(1)).await;
    for made in 0..MANY {
        let created = gateway.create_token(&Caller::default(), named("Ada")).await;
        assert!(created.is_ok(), "after {made}: {created:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_to_report_changes_delays_no_expiry() {
    let store = DelayedStore::new();
    let responder = Arc::new(Simulated::new("{text}", Duration::ZERO));
    let gateway = Gateway::start(Settings::default(), unshared(&store), responder).await.unwrap();
    let Created { token, .. } =
        gateway.create_token(&Caller::default(), named("Ada")).await.unwrap();
    let (mut subscription, _) = gateway.attach(&Caller::default(), &token, None).await.unwrap();
    store.hold(Call::Heads);
    store.written_elsewhere.store(true, std::sync::atomic::Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    store.holds(1).await;
    let (kind, after) = end(&mut subscription).await;
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(after <= HOUR, "{after:?}");
}
