//! `/chat`: RFC 6455, and the three codecs.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::support::{Rest, Scripted, Setup, Socket, Step, create, handshake, soon};

const JSON: &str = "duologue.v1.json";
const PROTO: &str = "duologue.v1.proto";

async fn json(socket: &mut Socket) -> Value {
    serde_json::from_str(&socket.next_text().await).unwrap()
}

#[tokio::test]
async fn plain_text_in_plain_reply_out_in_order() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    assert_eq!(socket.protocol, None);
    for turn in 0..12 {
        socket.text(&format!("{turn}")).await;
    }
    for turn in 0..12 {
        assert_eq!(socket.next_text().await, format!("Echo: {turn}"));
    }
}

#[tokio::test]
async fn a_plain_connection_is_answered_for_its_own_messages_and_no_others() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let query = format!("?token={token}");
    let (mut one, mut other) =
        (Socket::open(&server, &query, "").await, Socket::open(&server, &query, "").await);
    one.text("mine").await;
    assert_eq!(one.next_text().await, "Echo: mine");
    other.text("yours").await;
    assert_eq!(other.next_text().await, "Echo: yours");
}

#[tokio::test]
async fn a_refused_plain_message_is_answered_by_one_error_frame_in_its_place() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::Say("ok"), Step::End]);
    let gate = responder.gate.clone();
    let mut setup = Setup::answering(responder);
    setup.session.max_queued_turns = 1;
    let server = setup.start().await;
    let token = create(&server).await;
    let mut watcher = crate::support::Transport::Json.open(&server, &token, None).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    socket.text("one").await;
    watcher.messages(1).await;
    // This refusal is known before the reply: it must not overtake it.
    socket.text("").await;
    let mut probe = Socket::open(&server, &format!("?token={token}"), "").await;
    probe.text("full").await;
    assert_eq!(probe.next_text().await, "Error: Too many messages wait for their reply");
    gate.add_permits(1);
    assert_eq!(socket.next_text().await, "ok");
    assert_eq!(socket.next_text().await, "Error: The text is empty");
}

#[tokio::test]
async fn plain_flooding_is_held_back_by_the_pipe_and_loses_nothing() {
    const TURNS: usize = 500;
    let mut setup = Setup::default();
    setup.session.max_queued_turns = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let socket = Socket::open(&server, &format!("?token={token}"), "").await;
    let (mut sink, mut stream) = socket.stream.split();
    let flood = async {
        for turn in 0..TURNS {
            sink.send(Message::text(turn.to_string())).await.unwrap();
        }
    };
    let read = async {
        for turn in 0..TURNS {
            let text = stream.next().await.unwrap().unwrap();
            assert_eq!(text.to_text().unwrap(), format!("Echo: {turn}"));
        }
    };
    soon("the answers", async { tokio::join!(flood, read) }).await;
}

#[tokio::test]
async fn every_way_a_token_may_travel_opens_the_session_and_none_is_echoed() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let (query, header) = (format!("?token={token}"), format!("Bearer {token}"));
    let entry = format!("{JSON}, bearer.{token}");
    let first = format!("bearer.{token},{PROTO},{JSON}");
    for (query, headers, codec) in [
        (query.as_str(), vec![("sec-websocket-protocol", JSON)], JSON),
        ("", vec![("authorization", header.as_str()), ("sec-websocket-protocol", JSON)], JSON),
        ("", vec![("sec-websocket-protocol", entry.as_str())], JSON),
        ("", vec![("sec-websocket-protocol", first.as_str())], PROTO),
    ] {
        let mut socket = handshake(&server, query, &headers).await.unwrap();
        assert_eq!(socket.protocol.as_deref(), Some(codec));
        if codec == JSON {
            socket.text(r#"{"send":{"text":"hi"}}"#).await;
            assert!(json(&mut socket).await["opened"].is_object(), "a send attaches first");
            assert!(json(&mut socket).await["accepted"].is_object());
        }
    }
    for headers in [vec![("authorization", header.as_str())], vec![]] {
        let query = if headers.is_empty() { query.as_str() } else { "" };
        let mut socket = handshake(&server, query, &headers).await.unwrap();
        socket.text("hi").await;
        assert_eq!(socket.next_text().await, "Echo: hi");
    }
    let mut socket = Socket::open(&server, "", JSON).await;
    socket.text(&format!(r#"{{"open":{{"token":"{token}"}}}}"#)).await;
    assert!(json(&mut socket).await["opened"].is_object());
}

#[tokio::test]
async fn a_plain_connection_without_a_valid_token_is_refused_before_the_upgrade() {
    let server = Setup::default().start().await;
    for query in ["", "?token=", "?token=nonsense", "?token=e3b0c442-98fc-4c14-9afb-f4c8996fb924"] {
        let refused = handshake(&server, query, &[]).await.err().unwrap();
        assert_eq!(refused.status(), 403, "{query}");
        assert_eq!(refused.headers()["content-type"], "application/json");
    }
    let answer = Rest::send(
        Rest::request(&server, "GET", "/chat")
            .header("upgrade", "websocket")
            .header("connection", "upgrade"),
    )
    .await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, "13"));
}

#[tokio::test]
async fn a_structured_connection_gets_an_error_frame_before_the_close() {
    let server = Setup::default().start().await;
    for query in ["?token=nonsense", "?token=e3b0c442-98fc-4c14-9afb-f4c8996fb924"] {
        let mut socket = Socket::open(&server, query, JSON).await;
        socket.text(r#"{"open":{}}"#).await;
        let error = json(&mut socket).await;
        assert_eq!(
            (error["error"]["code"].as_str(), error["error"]["final"].as_bool()),
            (Some("session_expired"), Some(true))
        );
        assert_eq!(socket.closed().await, 4001);
    }
    let mut socket = Socket::open(&server, "", JSON).await;
    socket.text(r#"{"send":{"text":"hi"}}"#).await;
    assert_eq!(json(&mut socket).await["error"]["code"], "missing_token");
    assert_eq!(socket.closed().await, 1008);
}

#[tokio::test]
async fn a_stream_that_does_not_open_in_time_is_closed_and_one_with_a_token_is_attached() {
    let mut setup = Setup::default();
    setup.transport.open_timeout = Duration::from_millis(50);
    setup.transport.open_grace = Duration::from_millis(50);
    let server = setup.start().await;
    for protocol in [JSON, PROTO] {
        let mut socket = Socket::open(&server, "", protocol).await;
        assert_eq!(socket.closed().await, 4004, "{protocol}");
    }
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), JSON).await;
    assert!(json(&mut socket).await["opened"].is_object());
}

#[tokio::test]
async fn frames_of_the_wrong_type_close_1003() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let query = format!("?token={token}");
    for (protocol, frame) in [
        ("", Message::binary(vec![1])),
        (JSON, Message::binary(vec![1])),
        (PROTO, Message::text("{}")),
    ] {
        let mut socket = Socket::open(&server, &query, protocol).await;
        socket.send(frame).await;
        assert_eq!(socket.closed().await, 1003, "{protocol:?}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_1007_also_across_fragments() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    for protocol in ["", JSON] {
        let mut socket = Socket::open(&server, &format!("?token={token}"), protocol).await;
        let frame = Frame::message(vec![b'a', 0xff], OpCode::Data(Data::Text), true);
        socket.send(Message::Frame(frame)).await;
        assert_eq!(socket.closed().await, 1007, "{protocol:?}");
    }
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    for (bytes, kind, last) in [(&[0xc3], Data::Text, false), (&[0x28], Data::Continue, true)] {
        socket.send(Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(kind), last))).await;
    }
    assert_eq!(socket.closed().await, 1007);
}

#[tokio::test]
async fn fragments_are_put_together_with_pings_between_them() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    let text = "Grüße 🦀".as_bytes();
    for (at, byte) in text.iter().enumerate() {
        let kind = if at == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(vec![*byte], OpCode::Data(kind), at + 1 == text.len());
        socket.send(Message::Frame(frame)).await;
        socket.send(Message::Ping(vec![*byte].into())).await;
    }
    assert_eq!(socket.next_text().await, "Echo: Grüße 🦀");
}

#[tokio::test]
async fn pings_are_answered_with_their_payload() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    socket.send(Message::Ping("are you there".into())).await;
    let pong = soon("the pong", socket.stream.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn frames_beyond_the_limit_close_1009_with_a_close_frame_really_sent() {
    let mut setup = Setup::default();
    setup.session.messages.content.max_text_size = 1000;
    setup.session.messages.content.max_size = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    for (protocol, size) in [("", 1003), ("", 1 << 20), (JSON, 1 << 20), (PROTO, 1 << 20)] {
        let mut socket = Socket::open(&server, &format!("?token={token}"), protocol).await;
        let frame = if protocol == PROTO {
            Message::binary(vec![b'x'; size])
        } else {
            Message::text("x".repeat(size))
        };
        // The gateway may close while this is still being written.
        let _written_or_not = socket.stream.send(frame).await;
        assert_eq!(socket.closed().await, 1009, "{protocol:?} {size}");
    }
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    for part in 0..3 {
        let kind = if part == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(vec![b'x'; 400], OpCode::Data(kind), false);
        let _written_or_not = socket.stream.send(Message::Frame(frame)).await;
    }
    assert_eq!(socket.closed().await, 1009, "the sum of fragments counts");
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    socket.text(&"x".repeat(1000)).await;
    assert_eq!(socket.next_text().await.len(), 1006);
}

#[tokio::test]
async fn a_bad_frame_is_answered_with_an_error_and_the_stream_continues() {
    let mut setup = Setup::default();
    setup.session.messages.content.max_text_size = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), JSON).await;
    socket.text(r#"{"open":{}}"#).await;
    json(&mut socket).await;
    let long = format!(r#"{{"send":{{"text":"{}","clientMessageId":"m9"}}}}"#, "x".repeat(1001));
    for (frame, code) in [
        ("nonsense", "bad_frame"),
        ("{}", "bad_frame"),
        (r#"{"send":{"text":"a","shout":true}}"#, "bad_frame"),
        (r#"{"send":{"text":""}}"#, "invalid_argument"),
        (r#"{"send":{"text":"a\u0000b"}}"#, "invalid_argument"),
        (r#"{"send":{"text":"a","clientMessageId":"a b"}}"#, "invalid_argument"),
        (&long, "message_too_large"),
    ] {
        socket.text(frame).await;
        let error = json(&mut socket).await;
        assert_eq!(
            (error["error"]["code"].as_str(), error["error"]["final"].as_bool()),
            (Some(code), Some(false)),
            "{frame}"
        );
    }
    socket.text(r#"{"ping":{}}"#).await;
    assert!(json(&mut socket).await["pong"].is_object());
    socket.text(r#"{"send":{"text":"still here"}}"#).await;
    assert_eq!(json(&mut socket).await["accepted"]["seq"], 1);
}

#[tokio::test]
async fn a_silent_stream_is_given_signs_of_life_and_a_dead_one_is_closed() {
    let mut setup = Setup::default();
    setup.transport.heartbeat = Duration::from_millis(50);
    let server = setup.start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), JSON).await;
    socket.text(r#"{"open":{}}"#).await;
    assert_eq!(json(&mut socket).await["opened"]["heartbeatIntervalMs"], 50);
    for _ in 0..5 {
        assert!(json(&mut socket).await["pong"].is_object());
    }
    let mut plain = Socket::open(&server, &format!("?token={token}"), "").await;
    let ping = soon("a ping", plain.stream.next()).await.unwrap().unwrap();
    assert!(matches!(ping, Message::Ping(_)));

    // A client that never answers: its frames are read, its pongs never written.
    let raw = crate::silence::raw_websocket(&server, &format!("?token={token}")).await;
    crate::silence::ends_by_itself(raw).await;
}

#[tokio::test]
async fn a_violation_of_the_protocol_closes_1002() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    let frame = Frame::message(vec![b'x'], OpCode::Data(Data::Continue), true);
    socket.send(Message::Frame(frame)).await;
    assert_eq!(socket.closed().await, 1002);
}

#[tokio::test]
async fn a_close_is_answered_with_the_same_code() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: 1000.into(),
        reason: "bye".into(),
    };
    socket.send(Message::Close(Some(frame))).await;
    assert_eq!(socket.closed().await, 1000);
    assert!(soon("the end", socket.stream.next()).await.is_none());
}

/// It is not read while it waits for many answers: its silence is the gateway's doing.
#[tokio::test]
async fn a_plain_client_that_is_held_back_is_not_taken_for_dead() {
    let (responder, _) = Scripted::new(&[Step::Gate, Step::Say("ok"), Step::End]);
    let gate = responder.gate.clone();
    let mut setup = Setup::answering(responder);
    setup.session.max_queued_turns = 1000;
    setup.transport.heartbeat = Duration::from_millis(100);
    let server = setup.start().await;
    let token = create(&server).await;
    let mut socket = Socket::open(&server, &format!("?token={token}"), "").await;
    for _ in 0..80 {
        socket.text("x").await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(1), async {
        while let Some(Ok(Message::Ping(_) | Message::Pong(_))) = socket.stream.next().await {}
    });
    assert!(ended.await.is_err(), "nothing is due, and something came");
    gate.add_permits(80);
    for _ in 0..80 {
        assert_eq!(socket.next_text().await, "ok");
    }
}
