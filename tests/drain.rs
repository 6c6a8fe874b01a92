//! Promise 9: a shutdown sends `go_away`, lets replies finish, and ends in time.

use std::time::Duration;

use duologue::session::{Caller, Drained, NewMessage, PageRequest, Timestamp, Token, Turns as _};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::support::{
    Call, DelayedStore, Event, Rest, Scripted, Setup, Socket, Step, Transport, core, create,
    new_message, proto, proto::MessageStatus, soon, stub, unshared, watched,
};

#[tokio::test]
async fn a_drain_finishes_the_reply_sends_go_away_and_ends_the_streams() {
    let (responder, _) =
        Scripted::new(&[Step::Say("one "), Step::Gate, Step::Say("two"), Step::End]);
    let gate = responder.gate.clone();
    let mut server = Setup::answering(responder).start().await;
    let (busy, idle) = (create(&server).await, create(&server).await);
    let mut streams = Vec::new();
    let mut idlers = Vec::new();
    for transport in Transport::ALL {
        streams.push((transport, transport.open(&server, &busy, None).await));
        idlers.push((transport, transport.open(&server, &idle, None).await));
    }
    let mut plain = Socket::open(&server, &format!("?token={busy}"), "").await;
    streams[0].1.say("go", None).await.unwrap();
    for (_, stream) in &mut streams {
        stream.delta().await;
    }
    server.begin_shutdown();

    for (transport, mut stream) in idlers {
        let Event::GoAway(told) = stream.next().await else { panic!("{transport:?}") };
        assert!((500..5000).contains(&told.reconnect_after_ms), "{transport:?}");
        assert_ended(transport, stream.ended().await);
    }
    let mut waits = Vec::new();
    for (transport, stream) in &mut streams {
        let Event::GoAway(told) = stream.next().await else { panic!("{transport:?}") };
        waits.push(told.reconnect_after_ms);
    }
    waits.dedup();
    assert!(waits.len() > 1, "all would come back at once: {waits:?}");
    gate.add_permits(1);
    for (transport, mut stream) in streams {
        let reply = stream.reply().await.1;
        assert_eq!(
            (reply.text.as_str(), reply.status()),
            ("one two", MessageStatus::Complete),
            "{transport:?}"
        );
        assert_ended(transport, stream.ended().await);
    }
    assert_eq!(plain.closed().await, 1001, "plain mode has no go_away");
    assert_eq!(server.ended().await, Drained::Finished);
}

fn assert_ended(transport: Transport, (code, end): (Option<String>, String)) {
    assert_eq!(code.as_deref(), Some("draining"), "{transport:?}");
    let expected = match transport {
        Transport::Grpc => "Unavailable",
        Transport::Json | Transport::Proto => "1001",
        Transport::Sse => "end",
    };
    assert_eq!(end, expected, "{transport:?}");
}

#[tokio::test]
async fn a_plain_client_gets_the_answer_it_waits_for_and_then_1001() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::Say("answer"), Step::End]);
    let gate = responder.gate.clone();
    let mut server = Setup::answering(responder).start().await;
    let token = create(&server).await;
    let mut watcher = Transport::Json.open(&server, &token, None).await;
    let mut plain = Socket::open(&server, &format!("?token={token}"), "").await;
    plain.text("go").await;
    watcher.messages(1).await;
    server.begin_shutdown();
    soon("the news", async { while !matches!(watcher.next().await, Event::GoAway(_)) {} }).await;
    gate.add_permits(1);
    assert_eq!(plain.next_text().await, "answer");
    assert_eq!(plain.closed().await, 1001);
    assert_eq!(server.ended().await, Drained::Finished);
}

#[tokio::test]
async fn at_the_deadline_a_reply_is_committed_as_interrupted_with_its_text() {
    let (responder, mut let_go) = Scripted::new(&[Step::Say("half"), Step::Hang]);
    let mut setup = Setup::answering(responder);
    setup.server.drain_timeout = Duration::from_millis(100);
    let mut server = setup.start().await;
    let token = create(&server).await;
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        streams.push((transport, transport.open(&server, &token, None).await));
    }
    streams[0].1.say("go", None).await.unwrap();
    for (_, stream) in &mut streams {
        stream.delta().await;
    }
    server.begin_shutdown();
    for (transport, mut stream) in streams {
        let reply = stream.reply().await.1;
        assert_eq!(
            (reply.text.as_str(), reply.status()),
            ("half", MessageStatus::Interrupted),
            "{transport:?}"
        );
        assert_ended(transport, stream.ended().await);
    }
    soon("the responder to be let go of", let_go.recv()).await;
    assert_eq!(server.ended().await, Drained::Interrupted);
}

/// A model may report its usage late. The text is complete without it.
#[tokio::test]
async fn at_the_deadline_a_reply_that_waits_for_its_usage_is_complete() {
    let (responder, _) = Scripted::new(&[Step::Say("all of it"), Step::Finish, Step::Hang]);
    let mut setup = Setup::answering(responder);
    setup.server.drain_timeout = Duration::from_millis(100);
    let mut server = setup.start().await;
    let token = create(&server).await;
    let mut stream = Transport::Json.open(&server, &token, None).await;
    stream.say("go", None).await.unwrap();
    stream.delta().await;
    server.begin_shutdown();
    let reply = stream.reply().await.1;
    assert_eq!((reply.text.as_str(), reply.status()), ("all of it", MessageStatus::Complete));
    assert_eq!(reply.finish_reason.as_deref(), Some("stop"));
    assert!(reply.usage.is_some_and(|usage| usage.estimated));
    assert_eq!(server.ended().await, Drained::Interrupted);
}

#[tokio::test]
async fn while_draining_new_work_is_refused_on_connections_that_are_open() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::End]);
    let gate = responder.gate.clone();
    let mut server = Setup::answering(responder).start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    let mut other = Socket::open(&server, "", "duologue.v1.json").await;
    server.begin_shutdown();
    soon("the news", async { while !matches!(client.next().await, Event::GoAway(_)) {} }).await;
    let refusal = client.say("more", None).await.unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.r#final), ("draining", false));
    other.text(&format!(r#"{{"open":{{"token":"{token}"}}}}"#)).await;
    assert!(other.next_text().await.contains("draining"));
    assert_eq!(other.closed().await, 1001);
    gate.add_permits(1);
    client.reply().await;
    server.ended().await;
}

#[tokio::test]
async fn nobody_is_accepted_any_more_and_silent_connections_do_not_delay_the_end() {
    let mut server = Setup::default().start().await;
    let addr = server.addr;
    let silent = tokio::net::TcpStream::connect(addr).await.unwrap();
    let keep_alive = reqwest::Client::new();
    assert_eq!(keep_alive.get(server.url("/readyz")).send().await.unwrap().status(), 200);
    server.begin_shutdown();
    assert_eq!(server.ended().await, Drained::Finished);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    drop(silent);
}

#[tokio::test]
async fn readyz_fails_during_a_drain() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::End]);
    let gate = responder.gate.clone();
    let mut server = Setup::answering(responder).start().await;
    for (path, body) in [("/healthz", r#"{"detail":"ok"}"#), ("/readyz", r#"{"detail":"ready"}"#)] {
        assert_eq!(Rest::call(&server, "GET", path).await.body, body);
    }
    // A connection that is busy with a request when the drain begins is served on.
    let token = create(&server).await;
    let mut client = Transport::Sse.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    server.begin_shutdown();
    soon("the news", async { while !matches!(client.next().await, Event::GoAway(_)) {} }).await;
    gate.add_permits(1);
    client.reply().await;
    soon("the end", async { while socket.stream.next().await.is_some() {} }).await;
    server.ended().await;
}

#[tokio::test]
async fn a_message_that_is_being_committed_when_the_drain_begins_is_answered_before_its_end() {
    let store = DelayedStore::new();
    let mut server = Setup { storage: unshared(&store), ..Setup::default() }.start().await;
    let token = Token::parse(&create(&server).await).unwrap();
    store.hold(Call::Append);
    let gateway = server.gateway.clone();
    let sending = tokio::spawn({
        let token = token.clone();
        async move { gateway.send(&Caller::default(), &token, NewMessage::new("hello", None)).await }
    });
    store.holds(1).await;
    let gateway = server.gateway.clone();
    server.begin_shutdown();
    let ended = tokio::spawn(server.ended());
    // A paused clock advances when all tasks wait.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!ended.is_finished(), "the process would be gone before the message is durable");
    tokio::time::resume();
    store.release();
    sending.await.unwrap().unwrap();
    assert_eq!(ended.await.unwrap(), Drained::Finished);
    let log = gateway
        .refresh_token(&Caller::default(), &token, PageRequest::default())
        .await
        .unwrap()
        .messages;
    assert_eq!(log.len(), 2, "accepted, and not answered: {log:?}");
}

/// Its sender was there before the drain, and its commit outlasts the time for replies.
#[tokio::test(start_paused = true)]
async fn a_message_that_becomes_durable_after_the_deadline_is_left_to_the_next_process() {
    let (store, (responder, mut let_go)) = (DelayedStore::new(), Scripted::new(&[Step::End]));
    let gateway = core(&store, responder).await;
    let (attachment, token) = watched(&gateway).await;
    store.hold(Call::Append);
    let sending = attachment.send(new_message("hello"));
    store.holds(1).await;
    let (draining, deadline) = (gateway.clone(), Instant::now() + Duration::from_secs(1));
    let draining = tokio::spawn(async move { draining.drain(deadline).await });
    tokio::time::sleep_until(deadline + Duration::from_millis(500)).await;
    store.release();
    assert_eq!(sending.end().await.unwrap().message.seq, 1);
    assert_eq!(draining.await.unwrap(), Drained::Interrupted);
    let log = gateway
        .refresh_token(&Caller::default(), &token, PageRequest::default())
        .await
        .unwrap()
        .messages;
    assert_eq!(log.len(), 1, "answered after all: {log:?}");
    let left = store.take_over(None, None, 2, Timestamp::of_wall_clock()).await.unwrap();
    assert_eq!(left.iter().map(|turn| turn.attempt).collect::<Vec<_>>(), [1]);
    assert!(let_go.try_recv().is_err(), "the responder was asked");
}

#[tokio::test]
async fn unopened_streams_are_ended_by_a_drain_without_delay() {
    let mut server = Setup::default().start().await;
    let mut socket = Socket::open(&server, "", "duologue.v1.json").await;
    let (_requests, outgoing) = tokio::sync::mpsc::unbounded_channel::<proto::ChatRequest>();
    let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
    let mut call = stub(&server).await.chat(outgoing).await.unwrap().into_inner();
    server.begin_shutdown();
    let began = tokio::time::Instant::now();
    assert_eq!(socket.closed().await, 1001);
    soon("the error frame", call.message()).await.unwrap();
    let status = soon("the end", call.message()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    drop((socket, call));
    server.ended().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
