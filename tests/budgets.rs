//! Budgets of model tokens, and replies that nobody watches.

use std::{sync::Arc, time::Duration};

use duologue::{
    responder::Simulated,
    session::{
        Access, Budgets, Caller, CallerLimits, ErrorKind, Gateway, IdentityKind, PageRequest,
        ReplyFields, Settings, Status, Store as _, Timestamp, Turns as _, Usage,
    },
    store::{Durability, SqliteStore},
};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    callers::rest_as,
    store_contract::{AnyStore as _, NOW, created, kind, reply, stores, terms, user},
    support::{
        DelayedStore, Rest, Running, Setup, TestKeys, Transport, code_of, create, new_message,
        proto, send_text, soon, status, stub, unshared, watched,
    },
};

/// Each reply has one token for the prompt and one for its text, at least.
async fn gateway(budgets: Budgets) -> Running {
    let session = Settings { budgets, limits: CallerLimits::none(), ..Settings::default() };
    Setup { session, ..Setup::default() }.start().await
}

#[tokio::test]
async fn a_session_that_has_used_its_budget_is_refused_and_its_last_reply_finishes() {
    for transport in Transport::ALL {
        let server = gateway(Budgets { session: 3, ..Budgets::default() }).await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let mut refusal = None;
        for turn in 0..10 {
            match client.say("Hi", Some(&format!("m{turn}"))).await {
                Ok(_) => assert_eq!(client.reply().await.1.text, "Echo: Hi"),
                Err(error) => {
                    refusal = Some((turn, error));
                    break;
                }
            }
        }
        let (turn, error) = refusal.unwrap();
        assert!(turn > 0, "{transport:?}");
        assert!(["budget_exceeded", "429"].contains(&&*error.code), "{error:?}");
        assert!(error.message.contains("3 model tokens") && error.retry_after_ms.is_none());
        // A retry is answered nevertheless, and so is a new session.
        assert!(client.say("Hi", Some("m0")).await.unwrap().duplicate);
        let mut other = transport.open(&server, &create(&server).await, None).await;
        other.say("Hi", None).await.unwrap();
    }
}

#[tokio::test]
async fn the_budget_of_a_day_says_when_it_is_renewed() {
    let server = gateway(Budgets { per_day: 1, ..Budgets::default() }).await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("Hi", None).await.unwrap();
    client.reply().await;
    let refused = client.say("Hi", None).await.unwrap_err();
    let wait = Duration::from_millis(refused.retry_after_ms.unwrap().into());
    let now = Timestamp::of_wall_clock();
    let renewal = now.next_day().since(now);
    assert!(wait.abs_diff(renewal) < Duration::from_secs(5), "{wait:?} {renewal:?}");
    assert!(refused.message.contains("T00:00:00Z"), "{}", refused.message);
    let other = create(&server).await;
    let status = stub(&server).await.send_message(send_text(&other, "Hi", None)).await.unwrap_err();
    assert_eq!((status.code(), &*code_of(&status)), (Code::ResourceExhausted, "budget_exceeded"));
    let path = format!("/messages?token={other}&text=Hi");
    let refused = Rest::call(&server, "POST", &path).await;
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert_eq!((refused.status, seconds.abs_diff(renewal.as_secs()) < 5), (429, true));
}

#[tokio::test]
async fn the_budget_of_an_owner_counts_all_of_its_sessions() {
    let keys = TestKeys::new();
    let (ada, bob) = (keys.add("ada", IdentityKind::User), keys.add("bob", IdentityKind::User));
    let budgets = Budgets { subject_per_day: 1, ..Budgets::default() };
    let session = Settings { budgets, limits: CallerLimits::none(), ..Settings::default() };
    let access = Access { open: true, credentials: true, bind_subject: false };
    let setup = Setup { session, ..Setup::default() };
    let server = setup.with_access(access, keys.authenticator()).start().await;
    let token = async |key: &str| {
        let created = rest_as(&server, key, "POST", "/token?name=X").await;
        created.json()["token"].as_str().unwrap().to_owned()
    };
    let (one, two, foreign) = (token(&ada).await, token(&ada).await, token(&bob).await);
    let open = create(&server).await;
    let mut client = Transport::Grpc.open(&server, &one, None).await;
    client.say("Hi", None).await.unwrap();
    client.reply().await;
    let mut grpc = stub(&server).await;
    let refused = grpc.send_message(send_text(&two, "Hi", None)).await.unwrap_err();
    assert!(refused.message().contains("of its owner"), "{}", refused.message());
    for other in [foreign, open] {
        grpc.send_message(send_text(&other, "Hi", None)).await.unwrap();
    }
}

#[tokio::test]
async fn every_store_counts_stopped_replies() {
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let budgets = Budgets { per_day: 20, ..Budgets::default() };
        let limited = duologue::session::AppendLimits { budgets, ..terms() };
        let first = store.append(session.id, user("1", None), limited).await.unwrap();
        let second = store.append(session.id, user("2", None), limited).await.unwrap();
        for (question, input, output, status) in
            [(&first, 15, 4, Status::Complete), (&second, 0, 1, Status::Stopped)]
        {
            let mut reply = reply(question);
            let usage = Some(Usage::estimate(input, output));
            reply.fields = ReplyFields { usage, status, ..reply.fields };
            let third = store.append(session.id, user("3", None), limited).await;
            assert!(third.is_ok(), "{input}");
            store.answer_alone(session.id, reply, NOW).await.unwrap();
        }
        let refused = store.append(session.id, user("4", None), limited).await;
        assert_eq!(kind(refused), ErrorKind::BudgetExceeded);
    }
}

#[tokio::test]
async fn the_budget_of_a_day_outlives_the_process_and_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.db");
    let budgets = Budgets { per_day: 5, ..Budgets::default() };
    let limited = duologue::session::AppendLimits { budgets, ..terms() };
    let open = || Arc::new(SqliteStore::open(&path, Durability::Full).unwrap());
    let store = open();
    let (session, _) = created(&*store).await;
    let asked = store.append(session.id, user("1", None), limited).await.unwrap();
    let mut answer = reply(&asked);
    answer.fields.usage = Some(Usage::estimate(3, 3));
    store.answer_alone(session.id, answer, NOW).await.unwrap();
    store.revoke(session.id, NOW).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = open();
    let (session, _) = created(&*store).await;
    let refused = store.append(session.id, user("1", None), limited).await;
    assert_eq!(kind(refused), ErrorKind::BudgetExceeded);
}

#[tokio::test]
async fn a_reply_that_nobody_watches_is_stopped_after_a_while() {
    let delay = Duration::from_millis(50);
    let long = "word ".repeat(1000);
    let session = Settings {
        abandon_after: Some(Duration::from_secs(1)),
        limits: CallerLimits::none(),
        ..Settings::default()
    };
    let setup = Setup { session, ..Setup::answering(Simulated::new(&long, delay)) };
    let server = setup.start().await;
    let watched = create(&server).await;
    let mut stays = Transport::Json.open(&server, &watched, None).await;
    stays.say("Hi", None).await.unwrap();
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("Hi", None).await.unwrap();
        client.reply_started().await;
        drop(client);
        is_stopped(&server, &token).await;
    }
    // A message without any stream: the reply is stopped as well.
    let token = create(&server).await;
    stub(&server).await.send_message(send_text(&token, "Hi", None)).await.unwrap();
    is_stopped(&server, &token).await;
    stays.stop().await;
    let (_, message) = stays.reply().await;
    assert_eq!(message.status(), proto::MessageStatus::Stopped);
    assert!(message.text.len() > 200, "it went on while it was watched");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_returns_in_time_keeps_a_reply_running() {
    let (second, millisecond) = (Duration::from_secs(1), Duration::from_millis(1));
    let settings = Settings { abandon_after: Some(second), ..Settings::default() };
    let responder = Arc::new(Simulated::new(&"word ".repeat(1000), 50 * millisecond));
    let storage = unshared(&DelayedStore::new());
    let gateway = Gateway::start(settings, storage, responder).await.unwrap();
    let (stream, token) = watched(&gateway).await;
    let attach = async || gateway.attach(&Caller::default(), &token, None).await.unwrap().0;
    stream.send(new_message("Hi")).end().await.unwrap();
    drop(stream);
    for _ in 0..5 {
        sleep(900 * millisecond).await;
        let mut stream = attach().await;
        let event = stream.next().await.unwrap();
        assert!(matches!(event, duologue::session::Event::ReplyStarted(_)), "it still runs");
    }
    let left = Instant::now();
    let page = PageRequest { after: Some(1), ..PageRequest::default() };
    while gateway.refresh_token(&Caller::default(), &token, page).await.unwrap().head_seq < 2 {
        sleep(10 * millisecond).await;
    }
    assert!(left.elapsed() >= second && left.elapsed() <= second + 20 * millisecond);
    let log = gateway.refresh_token(&Caller::default(), &token, page).await.unwrap().messages;
    assert_eq!(*status(&log[0]), Status::Stopped);
}

/// Waits until the reply of a session's only turn is stopped.
async fn is_stopped(server: &Running, token: &str) {
    let path = format!("/refresh_token?token={token}");
    soon("the stop", async {
        while Rest::call(server, "GET", &path).await.json()["messages"][1]["status"] != "stopped" {}
    })
    .await;
}
