//! Promise 7: every queue, buffer, body, frame, name, list and wait has a limit.

use std::time::Duration;

use crate::support::{
    Event, PATIENCE, Rest, Scripted, Setup, Socket, Step, Transport, create, history, named,
    piece_of, proto, send_text, soon, stub,
};

#[tokio::test]
async fn a_full_queue_refuses_names_when_to_retry_and_loses_nothing() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::Say("ok"), Step::End]);
    let gate = responder.gate.clone();
    let mut setup = Setup::answering(responder);
    setup.session.max_queued_turns = 3;
    let server = setup.start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        for turn in 0..3 {
            client.say(&format!("{turn}"), None).await.unwrap();
        }
        let refusal = client.say("too much", Some("m1")).await.unwrap_err();
        assert_eq!(refusal.code, if transport == Transport::Sse { "429" } else { "queue_full" });
        assert_eq!(refusal.retry_after_ms, Some(1000), "{transport:?}");
        let send = send_text(&token, "x", None);
        let status = stub(&server).await.send_message(send).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
        gate.add_permits(3);
        client.messages(3).await;
        assert!(!client.say("too much", Some("m1")).await.unwrap().duplicate, "{transport:?}");
        gate.add_permits(1);
        client.reply().await;
        assert_eq!(history(&server, transport, &token).await.len(), 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_is_dropped_at_its_cap_and_the_others_do_not_notice() {
    const DELTAS: usize = 2000;
    const SIZE: usize = 16 << 10;
    // The responder continues as the reading client has read: 32 MB in all, far more than
    // the kernel buffers for the client that does not read.
    let mut script: Vec<_> = (0..DELTAS).flat_map(|_| [Step::Gate, Step::Flood(SIZE)]).collect();
    script.push(Step::End);
    for stalled in Transport::ALL {
        let (responder, _) = Scripted::new(&script);
        let gate = responder.gate.clone();
        let mut setup = Setup::answering(responder);
        setup.session.max_reply_size = 64 << 20;
        setup.session.max_reply_text_size = 64 << 20;
        setup.session.max_backlog_size = 1 << 20;
        setup.session.max_backlog_events = 1 << 20;
        // It reads again before its connection is given up, and so sees the farewell.
        setup.transport.send_timeout = 3 * PATIENCE;
        let server = setup.start().await;
        let token = create(&server).await;
        let silent = stalled.open(&server, &token, None).await;
        let (mut reader, mut watcher) =
            tokio::join!(Transport::Proto.open(&server, &token, None), async {
                server
                    .gateway
                    .attach(
                        &duologue::session::Caller::default(),
                        &duologue::session::Token::parse(&token).unwrap(),
                        None,
                    )
                    .await
                    .unwrap()
                    .0
            },);
        reader.say("go", None).await.unwrap();
        gate.add_permits(1);
        // One who keeps up gets every delta and the whole message, larger than the cap
        // of a backlog that only laggards need.
        let kept_up = async {
            let (mut deltas, mut end) = (0, 0);
            loop {
                match watcher.next().await {
                    Ok(duologue::session::Event::Delta(delta)) => {
                        assert_eq!(delta.offset, end);
                        (deltas, end) = (deltas + 1, delta.end);
                        gate.add_permits(1);
                    }
                    Ok(duologue::session::Event::Message(event))
                        if event.message.in_reply_to().is_some() =>
                    {
                        break;
                    }
                    Ok(_) => {}
                    // The message itself is over the cap: come back for it.
                    Err(error) => {
                        assert_eq!(error.kind(), duologue::session::ErrorKind::SlowConsumer);
                        break;
                    }
                }
            }
            deltas
        };
        let deltas = soon("the deltas", kept_up).await;
        assert_eq!(deltas, DELTAS, "beside a stalled {stalled:?}");
        drop(reader);
        let (code, end) = silent.ended().await;
        let expected = match stalled {
            Transport::Grpc => "Unavailable",
            Transport::Json | Transport::Proto => "4003",
            Transport::Sse => "end",
        };
        assert_eq!(end, expected, "{stalled:?} {code:?}");
        let log = history(&server, Transport::Sse, &token).await;
        assert_eq!(log.len(), 2, "the log has it all");
    }
}

#[tokio::test]
async fn a_session_has_so_many_streams_and_no_more() {
    let mut setup = Setup::default();
    setup.session.max_session_streams = 4;
    let server = setup.start().await;
    let token = create(&server).await;
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        streams.push(transport.open(&server, &token, None).await);
    }
    for (transport, word) in [
        (Transport::Json, "1013"),
        (Transport::Proto, "1013"),
        (Transport::Grpc, "ResourceExhausted"),
    ] {
        let (code, end) = transport.connect(&server, &token, None).await.ended().await;
        assert_eq!((code.as_deref(), end.as_str()), (Some("too_many_streams"), word));
    }
    let answer = Rest::call(&server, "GET", &format!("/events?token={token}")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"));
    let refused =
        crate::support::handshake(&server, &format!("?token={token}"), &[]).await.err().unwrap();
    assert_eq!(refused.status(), 429);
    streams.clear();
    soon("room", async {
        while Rest::request(&server, "GET", &format!("/events?token={token}"))
            .send()
            .await
            .unwrap()
            .status()
            != 200
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_conversation_ends_with_a_reply_and_refuses_more() {
    let mut setup = Setup::default();
    setup.session.max_session_messages = 4;
    let server = setup.start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        for turn in 0..2 {
            client.say(&format!("{turn}"), None).await.unwrap();
            client.reply().await;
        }
        let refusal = client.say("one more", None).await.unwrap_err();
        assert_eq!(refusal.code, if transport == Transport::Sse { "409" } else { "session_full" });
        assert_eq!(
            refusal.message.trim_matches('"'),
            "The conversation is full: start a new session"
        );
        assert_eq!(history(&server, transport, &token).await.len(), 4);
    }
}

#[tokio::test]
async fn texts_have_one_byte_to_the_limit_through_every_transport() {
    let mut setup = Setup::default();
    setup.session.messages.content.max_text_size = 1000;
    let server = setup.start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        for (text, refused) in [
            (String::new(), Some(("invalid_argument", "400"))),
            ("a\0b".into(), Some(("invalid_argument", "400"))),
            ("x".repeat(1001), Some(("message_too_large", "413"))),
            ("é".repeat(501), Some(("message_too_large", "413"))),
            ("x".into(), None),
            (" \n".into(), None),
            ("\u{1}\"\\\u{7f}\u{2028}🦀".into(), None),
            ("\u{1}".repeat(1000), None),
        ] {
            match (client.say(&text, None).await, refused) {
                (Ok(_), None) => {
                    assert_eq!(
                        client.reply().await.1.text,
                        format!("Echo: {text}"),
                        "{transport:?}"
                    )
                }
                (Err(error), Some((code, status))) => {
                    assert_eq!(
                        error.code,
                        if transport == Transport::Sse { status } else { code },
                        "{transport:?} {text:?}"
                    );
                }
                (answer, _) => panic!("{transport:?} {text:?}: {answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn names_are_checked_alike_by_both_families() {
    let server = Setup::default().start().await;
    let mut grpc = stub(&server).await;
    let (longest, too_long) = ("é".repeat(128), "é".repeat(129));
    for (name, kept) in [
        ("Ada", Some("Ada")),
        (" Дарья 🦀 ", Some("Дарья 🦀")),
        (&longest, Some(longest.as_str())),
        ("", None),
        (" \u{a0}", None),
        (&too_long, None),
        ("A\u{200b}da", None),
        ("A\u{202e}da", None),
        ("A\tda", None),
    ] {
        let created = grpc
            .create_token(proto::CreateTokenRequest { name: name.into(), ..Default::default() })
            .await;
        let shown = created.ok().map(|created| created.into_inner().session.unwrap().name);
        assert_eq!(shown.as_deref(), kept, "{name:?} by gRPC");
        let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let answer = Rest::call(&server, "POST", &format!("/token?name={query}")).await;
        assert_eq!(answer.json()["name"].as_str(), kept, "{name:?} by REST");
    }
}

#[tokio::test]
async fn a_store_without_room_refuses_new_sessions_and_keeps_the_old() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    for _ in 1..1000 {
        server
            .gateway
            .create_token(&duologue::session::Caller::default(), named("Ada"))
            .await
            .unwrap();
    }
    let answer = Rest::call(&server, "POST", "/token?name=Ada").await;
    // When the first of the unused sessions expires.
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert_eq!((answer.status, (500..=600).contains(&wait)), (503, true), "{wait}");
    let status = stub(&server)
        .await
        .create_token(proto::CreateTokenRequest { name: "Ada".into(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("hello", None).await.unwrap();
    client.reply().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away_in_words() {
    let mut setup = Setup::default();
    setup.server.max_connections = 2;
    let server = setup.start().await;
    let token = create(&server).await;
    let first = soon("room", async {
        loop {
            if let Ok(socket) =
                crate::support::handshake(&server, &format!("?token={token}"), &[]).await
            {
                break socket;
            }
        }
    })
    .await;
    let second = Socket::open(&server, &format!("?token={token}"), "").await;
    let answer = Rest::call(&server, "GET", "/test").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"));
    assert_eq!(answer.body, r#"{"detail":"The gateway has no connection left"}"#);
    drop((first, second));
    soon("room", async { while Rest::call(&server, "GET", "/test").await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_slow_consumer_reconnects_and_misses_nothing() {
    let mut setup = Setup::default();
    setup.session.max_backlog_events = 2;
    setup.session.max_queued_turns = 100;
    let server = setup.start().await;
    let token = create(&server).await;
    let secret = duologue::session::Token::parse(&token).unwrap();
    let (mut laggard, opened) =
        server.gateway.attach(&duologue::session::Caller::default(), &secret, None).await.unwrap();
    let mut client = Transport::Json.open(&server, &token, None).await;
    for _ in 0..3 {
        let Ok(_) = client.say("x", None).await else { break };
    }
    let error = loop {
        match laggard.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), duologue::session::ErrorKind::SlowConsumer);
    let mut back = Transport::Sse
        .open(
            &server,
            &token,
            Some(&proto::Position {
                epoch: opened.position.epoch.as_str().into(),
                seq: 0,
                reply: None,
            }),
        )
        .await;
    assert!(back.opened.recovered);
    let first = back.next().await;
    assert!(matches!(first, Event::Message(message) if message.seq == 1));
}

#[tokio::test]
async fn a_reply_is_never_longer_than_its_limit_however_large_its_last_piece() {
    let (responder, _) = Scripted::new(&[Step::Say("éé"), Step::Flood(1000), Step::End]);
    let mut setup = Setup::answering(responder);
    setup.session.max_reply_size = 101;
    let server = setup.start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        let reply = client.reply().await.1;
        assert_eq!(reply.text.len(), 101, "{transport:?}");
        assert_eq!(reply.status(), proto::MessageStatus::Interrupted);
    }
}

/// Answers to pings must not heap up for one who does not read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_pings_and_does_not_read_is_not_read_either() {
    const ENOUGH: usize = 48 << 20;
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut stream = crate::silence::raw_websocket(&server, &format!("?token={token}")).await;
    // Masked with zeros, 125 bytes each.
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
    let pings = ping.repeat(1000);
    let mut taken = 0;
    while taken < ENOUGH {
        let write = tokio::io::AsyncWriteExt::write_all(&mut stream, &pings);
        if tokio::time::timeout(Duration::from_secs(2), write).await.is_err() {
            return;
        }
        taken += pings.len();
    }
    panic!("{taken} bytes of pings were read and none of the answers taken");
}

/// The model does not wait. A slow reader gets merged deltas.
#[tokio::test]
async fn a_slow_reader_gets_larger_deltas_and_the_whole_text() {
    const WORDS: usize = 2000;
    let script = [vec![Step::Say("word "); WORDS], vec![Step::End]].concat();
    let server = Setup::answering(Scripted::new(&script).0).start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        let (events, reply) = client.reply().await;
        let deltas = events.iter().filter_map(|event| match event {
            Event::Delta(delta) => Some(delta),
            _ => None,
        });
        let (mut told, mut end, mut text) = (0, 0, String::new());
        for delta in deltas {
            assert_eq!(delta.offset, end, "{transport:?}");
            (told, end) = (told + 1, delta.end);
            text.push_str(piece_of(delta));
        }
        assert_eq!(text, reply.text, "{transport:?}");
        assert_eq!(text.len(), WORDS * "word ".len(), "{transport:?}");
        assert!(told < WORDS / 10, "{told} pieces on {transport:?}");
    }
}
