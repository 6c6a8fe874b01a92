//! Promise 8: a foreign, revoked or expired token never reads a byte of a log.

use std::time::Duration;

use duologue::session::{Caller, ErrorKind, Position, Revocation, Store as _, Timestamp, Token};

use crate::support::{
    Call, DelayedStore, Log, Rest, Scripted, Setup, Step, Transport, core, create, handshake,
    new_message, proto, send_text, soon, stub, unshared, watched,
};

/// The answer of each transport to a wrong token.
async fn assert_refused(server: &crate::support::Running, token: &str) {
    for transport in [Transport::Json, Transport::Proto, Transport::Grpc] {
        let (code, end) = transport.connect(server, token, None).await.ended().await;
        assert_eq!(code.as_deref(), Some("session_expired"), "{transport:?}");
        assert_eq!(end, if transport == Transport::Grpc { "Unauthenticated" } else { "4001" });
    }
    let refused = handshake(server, &format!("?token={token}"), &[]).await.err().unwrap();
    assert_eq!(refused.status(), 403);
    for (method, path) in [
        ("POST", "refresh_token"),
        ("GET", "refresh_token"),
        ("DELETE", "token"),
        ("GET", "events"),
        ("POST", "stop"),
    ] {
        let answer = Rest::call(server, method, &format!("/{path}?token={token}")).await;
        let body = r#"{"detail":"Session expired or does not exist"}"#;
        assert_eq!((answer.status, answer.body.as_str()), (400, body), "{method} {path}");
    }
    let answer = Rest::call(server, "POST", &format!("/messages?token={token}&text=hello")).await;
    assert_eq!(answer.status, 400);
    let mut grpc = stub(server).await;
    let token = token.to_owned();
    let refresh = proto::RefreshTokenRequest { token: token.clone(), ..Default::default() };
    assert_eq!(grpc.refresh_token(refresh).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    let send = send_text(&token, "x", None);
    assert_eq!(grpc.send_message(send).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    let subscribe = proto::SubscribeRequest { token, position: None };
    assert_eq!(grpc.subscribe(subscribe).await.unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn tokens_that_open_nothing_are_refused_by_every_transport() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let session = server
        .gateway
        .authenticate(&Caller::default(), &duologue::session::Token::parse(&token).unwrap())
        .await
        .unwrap();
    for wrong in [
        "e3b0c442-98fc-4c14-9afb-f4c8996fb924".to_owned(),
        "nonsense".into(),
        token[1..].into(),
        // An id may be logged: it must not open anything.
        session.session.id.to_string(),
    ] {
        assert_refused(&server, &wrong).await;
    }
}

#[tokio::test]
async fn a_revoked_session_closes_its_live_streams_and_opens_no_more() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        streams.push((transport, transport.open(&server, &token, None).await));
    }
    let mut plain = handshake(&server, &format!("?token={token}"), &[]).await.unwrap();
    let mut grpc = stub(&server).await;
    grpc.revoke_token(proto::RevokeTokenRequest { token: token.clone(), ..Default::default() })
        .await
        .unwrap();
    for (transport, stream) in streams {
        let ended = tokio::time::timeout(Duration::from_secs(1), stream.ended()).await;
        let (code, end) = ended.unwrap_or_else(|_| panic!("{transport:?} lives on"));
        assert_eq!(code.as_deref(), Some("session_revoked"), "{transport:?}");
        let expected = match transport {
            Transport::Grpc => "Unauthenticated",
            Transport::Json | Transport::Proto => "4002",
            Transport::Sse => "end",
        };
        assert_eq!(end, expected, "{transport:?}");
    }
    assert_eq!(plain.closed().await, 4002);
    assert_refused(&server, &token).await;
}

#[tokio::test]
async fn a_session_sees_its_own_log_and_no_other() {
    let server = Setup::default().start().await;
    let (own, foreign) = (create(&server).await, create(&server).await);
    let mut other = Transport::Json.open(&server, &foreign, None).await;
    let at = other.at(0);
    other.say("secret", None).await.unwrap();
    other.reply().await;
    for transport in Transport::ALL {
        let mut client = transport.open(&server, &own, Some(&at)).await;
        assert!(!client.opened.recovered, "{transport:?}: a position of another log");
        client.say("mine", None).await.unwrap();
        let (events, reply) = client.reply().await;
        assert!(!format!("{events:?} {reply:?}").contains("secret"), "{transport:?}");
    }
}

#[tokio::test]
async fn two_tokens_that_differ_are_refused() {
    let server = Setup::default().start().await;
    let (one, other) = (create(&server).await, create(&server).await);
    let bearer = format!("Bearer {other}");
    let request = Rest::request(&server, "POST", &format!("/refresh_token?token={one}"));
    let answer = Rest::send(request.header("authorization", &bearer)).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, r#"{"detail":"Two different tokens were given"}"#)
    );
    let refused = handshake(&server, &format!("?token={one}"), &[("authorization", &bearer)]).await;
    assert_eq!(refused.err().unwrap().status(), 403);
    let mut call =
        tonic::Request::new(proto::RefreshTokenRequest { token: one, ..Default::default() });
    call.metadata_mut().insert("authorization", bearer.parse().unwrap());
    let status = stub(&server).await.refresh_token(call).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn foreign_pages_may_not_open_a_websocket_nor_read_an_answer() {
    let mut setup = Setup::default();
    setup.transport.origins = "https://good.example".parse().unwrap();
    let server = setup.start().await;
    let token = create(&server).await;
    let query = format!("?token={token}");
    for protocol in ["", "duologue.v1.json"] {
        for (origin, allowed) in [
            ("https://good.example", true),
            ("https://evil.example", false),
            ("null", false),
            ("http://localhost:1", false),
        ] {
            let mut headers = vec![("origin", origin)];
            if !protocol.is_empty() {
                headers.push(("sec-websocket-protocol", protocol));
            }
            let opened = handshake(&server, &query, &headers).await;
            match opened {
                Ok(_) => assert!(allowed, "{origin}"),
                Err(refused) => {
                    assert!(!allowed && refused.status() == 403, "{origin}: {refused:?}");
                    let body = refused.into_body().unwrap_or_default();
                    assert_eq!(
                        String::from_utf8_lossy(&body),
                        r#"{"detail":"Origin not allowed"}"#
                    );
                }
            }
            let answer =
                Rest::send(Rest::request(&server, "GET", "/test").header("origin", origin)).await;
            let shown = answer.header("access-control-allow-origin");
            assert_eq!(shown, if allowed { origin } else { "" });
        }
    }
    let same = format!("http://{}", server.addr);
    soon("the handshake", handshake(&server, &query, &[("origin", &same)])).await.unwrap();
}

/// A stream that is attaching when the session is revoked must end, too.
#[tokio::test]
async fn a_session_revoked_while_a_stream_attaches_has_no_stream_afterwards() {
    let store = DelayedStore::new();
    let server = Setup { storage: unshared(&store), ..Setup::default() }.start().await;
    let token = Token::parse(&create(&server).await).unwrap();
    store.hold(Call::Read);
    let attaching = tokio::spawn({
        let (gateway, token) = (server.gateway.clone(), token.clone());
        async move { gateway.attach(&Caller::default(), &token, None).await }
    });
    store.holds(1).await;
    let revoking = tokio::spawn({
        let gateway = server.gateway.clone();
        async move { gateway.revoke_token(&Caller::default(), &token, Revocation::Session).await }
    });
    // The revocation may wait for the attach. It has begun once all tasks wait.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.release();
    soon("the revocation", revoking).await.unwrap().unwrap();
    if let Ok((mut attachment, _)) = attaching.await.unwrap() {
        let end = tokio::time::timeout(Duration::from_secs(1), attachment.next()).await;
        assert!(end.expect("a stream of a revoked session lives on").is_err());
    }
}

#[tokio::test]
async fn a_replay_under_way_ends_with_its_session() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    for turn in 0..4 {
        client.say(&format!("{turn}"), None).await.unwrap();
        client.reply().await;
    }
    let token = Token::parse(&token).unwrap();
    let epoch =
        server.gateway.authenticate(&Caller::default(), &token).await.unwrap().session.epoch;
    let start = Position::new(epoch, 0);
    let (mut attachment, _) =
        server.gateway.attach(&Caller::default(), &token, Some(&start)).await.unwrap();
    attachment.next().await.unwrap();
    server.gateway.revoke_token(&Caller::default(), &token, Revocation::Session).await.unwrap();
    let next = attachment.next().await.map_err(|error| error.kind());
    assert!(matches!(next, Err(ErrorKind::SessionRevoked)), "read after the end: {next:?}");
}

/// An operator takes the session away while its reply ends.
#[tokio::test]
async fn a_reply_to_a_session_that_is_gone_ends_the_streams_as_revoked_and_is_no_fault() {
    let (store, log) = (DelayedStore::new(), Log::begin());
    let responder = Scripted::new(&[Step::Gate, Step::End]).0;
    let gate = responder.gate.clone();
    let gateway = core(&store, responder).await;
    let (mut attachment, token) = watched(&gateway).await;
    gateway.send(&Caller::default(), &token, new_message("hello")).await.unwrap();
    store.revoke(attachment.session(), Timestamp::of_wall_clock()).await.unwrap();
    gate.add_permits(1);
    let reading = async {
        loop {
            if let Err(error) = attachment.next().await {
                return error.kind();
            }
        }
    };
    assert_eq!(soon("the end", reading).await, ErrorKind::SessionRevoked);
    let log = log.text();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}
