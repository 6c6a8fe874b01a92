//! Deadlines of sessions, with the clock held: nothing here waits.

use std::{sync::Arc, time::Duration};

use duologue::{
    responder::Simulated,
    session::{Attachment, Created, Draft, ErrorKind, Gateway, Settings},
    store::MemoryStore,
};
use tokio::time::{Instant, advance};

const HOUR: Duration = Duration::from_secs(3600);

async fn gateway() -> (Gateway, Created) {
    let store = Arc::new(MemoryStore::new(10, 1 << 20));
    let responder = Arc::new(Simulated::new("{text}", Duration::ZERO));
    let gateway = Gateway::start(Settings::default(), store, responder).await.unwrap();
    let created = gateway.create_token("Ada").await.unwrap();
    (gateway, created)
}

fn draft(text: &str) -> Draft {
    Draft::parse(text, None, 100).unwrap()
}

/// How the stream ends, and how long after now.
async fn end(attachment: &mut Attachment) -> (ErrorKind, Duration) {
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
    let (mut attachment, _) = gateway.attach(&token, None).await.unwrap();
    let (kind, after) = end(&mut attachment).await;
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(after >= HOUR && after <= HOUR + Duration::from_secs(1), "{after:?}");
    assert_eq!(gateway.authenticate(&token).await.unwrap_err().kind(), ErrorKind::SessionExpired);
}

#[tokio::test(start_paused = true)]
async fn at_its_deadline_a_session_is_gone_for_every_call_before_it_is_swept() {
    let (gateway, Created { token, .. }) = gateway().await;
    let (attachment, _) = gateway.attach(&token, None).await.unwrap();
    advance(HOUR - Duration::from_millis(1)).await;
    gateway.authenticate(&token).await.unwrap();
    advance(Duration::from_millis(2)).await;
    assert_eq!(gateway.authenticate(&token).await.unwrap_err().kind(), ErrorKind::SessionExpired);
    assert_eq!(
        gateway.refresh_token(&token, None, None).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(
        gateway.send(&token, draft("x")).await.unwrap_err().kind(),
        ErrorKind::SessionExpired
    );
    assert_eq!(attachment.send(draft("x")).await.unwrap_err().kind(), ErrorKind::SessionExpired);
    assert_eq!(gateway.attach(&token, None).await.unwrap_err().kind(), ErrorKind::SessionExpired);
    assert_eq!(gateway.stop(&token).await.unwrap_err().kind(), ErrorKind::SessionExpired);
    assert_eq!(gateway.revoke_token(&token).await.unwrap_err().kind(), ErrorKind::SessionExpired);
}

#[tokio::test(start_paused = true)]
async fn a_message_and_a_refresh_renew_it_but_never_past_its_age() {
    let (gateway, Created { token, session }) = gateway().await;
    let (mut attachment, _) = gateway.attach(&token, None).await.unwrap();
    for hour in 0..23 {
        advance(HOUR - Duration::from_secs(60)).await;
        if hour % 2 == 0 {
            attachment.send(draft("still here")).await.unwrap();
        } else {
            let snapshot = gateway.refresh_token(&token, None, None).await.unwrap();
            assert!(snapshot.session.expires_at <= session.ends_at);
        }
    }
    let (kind, after) = end(&mut attachment).await;
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(after > HOUR - Duration::from_secs(1), "renewed: {after:?}");

    let (gateway, Created { token, .. }) = self::gateway().await;
    let (mut attachment, _) = gateway.attach(&token, None).await.unwrap();
    let born = Instant::now();
    for _ in 0..47 {
        advance(HOUR / 2).await;
        attachment.send(draft("still here")).await.unwrap();
    }
    let (kind, _) = end(&mut attachment).await;
    let age = born.elapsed();
    assert_eq!(kind, ErrorKind::SessionExpired);
    assert!(age >= 24 * HOUR && age <= 24 * HOUR + Duration::from_secs(1), "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn watching_is_no_activity() {
    let (gateway, Created { token, .. }) = gateway().await;
    advance(HOUR / 2).await;
    let (mut attachment, opened) = gateway.attach(&token, None).await.unwrap();
    let (_, after) = end(&mut attachment).await;
    assert!(after <= HOUR / 2 + Duration::from_secs(1), "{after:?}");
    assert_eq!(opened.head_seq, 0);
}
