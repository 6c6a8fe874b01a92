//! Promise 2: one `(session, client_message_id)` is one turn, whatever is retried.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use crate::support::{DelayedStore, Setup, Transport, create, history, unshared};

#[tokio::test]
async fn a_retry_over_any_transport_gets_the_first_answer() {
    let server = Setup::default().start().await;
    for (first, second) in Transport::pairs() {
        let token = create(&server).await;
        let mut one = first.open(&server, &token, None).await;
        let accepted = one.say("hello", Some("m1")).await.unwrap();
        one.reply().await;
        let mut two = second.open(&server, &token, None).await;
        let again = two.say("hello", Some("m1")).await.unwrap();

        assert!(!accepted.duplicate && again.duplicate, "{first:?} then {second:?}");
        assert_eq!((&again.message_id, again.seq), (&accepted.message_id, accepted.seq));
        assert_eq!(again.client_message_id.as_deref(), Some("m1"));
        assert_eq!(history(&server, second, &token).await.len(), 2, "{first:?} then {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_at_the_same_time_through_every_transport_are_one_turn() {
    let server = Setup::default().start().await;
    for round in 0..20 {
        let token = create(&server).await;
        let transports = Transport::ALL.into_iter().chain(Transport::ALL);
        let clients =
            join_all(transports.map(|transport| transport.open(&server, &token, None))).await;
        let answers = join_all(clients.into_iter().map(async |mut client| {
            let accepted = client.say("hello", Some("m1")).await.unwrap();
            client.reply().await;
            accepted
        }))
        .await;
        assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1, "round {round}");
        assert!(answers.iter().all(|answer| answer.message_id == answers[0].message_id));
        assert_eq!(history(&server, Transport::Sse, &token).await.len(), 2, "round {round}");
    }
}

#[tokio::test]
async fn the_same_id_for_another_text_is_refused_and_the_stream_goes_on() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("hello", Some("m1")).await.unwrap();
        client.reply().await;
        let refusal = client.say("other", Some("m1")).await.unwrap_err();
        let expected = if transport == Transport::Sse { "409" } else { "message_id_reused" };
        assert_eq!(refusal.code, expected);
        assert!(!refusal.r#final && refusal.retry_after_ms.is_none());
        if transport != Transport::Sse {
            assert_eq!(refusal.client_message_id.as_deref(), Some("m1"));
        }
        client.say("more", Some("m2")).await.unwrap();
        assert_eq!(client.reply().await.1.text, "Echo: more");
    }
}

#[tokio::test]
async fn a_retry_is_answered_even_when_the_queue_is_full() {
    let (responder, _) = crate::support::Scripted::new(&[crate::support::Step::Hang]);
    let mut setup = Setup::answering(responder);
    setup.session.max_queued_turns = 1;
    let server = setup.start().await;
    let token = create(&server).await;
    for transport in Transport::ALL {
        let mut client = transport.open(&server, &token, None).await;
        assert_eq!(client.say("hello", Some("m1")).await.unwrap().seq, 1);
        let refusal = client.say("hello", Some("m2")).await.unwrap_err();
        assert_eq!(refusal.code, if transport == Transport::Sse { "429" } else { "queue_full" });
        assert!(client.say("hello", Some("m1")).await.unwrap().duplicate, "{transport:?}");
    }
}

#[tokio::test]
async fn without_an_id_every_message_is_a_new_one() {
    let server = Setup::default().start().await;
    for (transport, id) in
        Transport::ALL.into_iter().flat_map(|transport| [(transport, None), (transport, Some(""))])
    {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        for _ in 0..2 {
            assert!(!client.say("hello", id).await.unwrap().duplicate);
            client.reply().await;
        }
        assert_eq!(history(&server, transport, &token).await.len(), 4);
    }
}

/// The entry is stored but its acknowledgement is lost, as over a network.
#[tokio::test]
async fn a_message_whose_commit_was_not_confirmed_is_answered_and_holds_up_nobody() {
    let store = DelayedStore::new();
    let server = Setup { storage: unshared(&store), ..Setup::default() }.start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    store.lose_answer.store(true, Ordering::SeqCst);
    client.say("lost", Some("m1")).await.unwrap_err();
    assert!(client.say("lost", Some("m1")).await.unwrap().duplicate);
    assert_eq!(client.reply().await.1.text, "Echo: lost");
    store.lose_answer.store(true, Ordering::SeqCst);
    client.say("lost too", None).await.unwrap_err();
    client.say("next", Some("m2")).await.unwrap();
    assert_eq!(client.reply().await.1.text, "Echo: lost too");
    assert_eq!(client.reply().await.1.text, "Echo: next");
}
