//! Silent peers are disconnected at every stage of a connection.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
};

use crate::support::{Rest, Running, Setup, create, soon};

const BRIEF: Duration = Duration::from_millis(100);

async fn impatient() -> Running {
    let mut setup = Setup::default();
    setup.server.head_timeout = BRIEF;
    setup.server.idle_timeout = BRIEF;
    setup.server.keep_alive = BRIEF;
    setup.transport.call_timeout = BRIEF;
    setup.start().await
}

/// A WebSocket without a library: it answers nothing by itself.
pub async fn raw_websocket(server: &Running, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = format!(
        "GET /chat{query} HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.addr
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = soon("the handshake", stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455, section 1.3: {answer}");
    stream
}

/// Reads until the gateway ends the connection.
pub async fn ends_by_itself(mut stream: TcpStream) {
    let mut sink = [0; 1024];
    soon("the end", async { while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {} })
        .await;
}

#[tokio::test]
async fn half_a_request_and_no_request_at_all_are_ended() {
    let server = impatient().await;
    let half = [
        &b""[..],
        b"PRI * HT",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"GET /te",
        b"GET /test HTTP/1.1\r\nhost: x\r\nx-slow: ",
    ];
    for bytes in half {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        ends_by_itself(stream).await;
    }
}

#[tokio::test]
async fn an_idle_kept_connection_is_closed() {
    let server = impatient().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET /test HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    ends_by_itself(stream).await;
}

#[tokio::test]
async fn a_body_that_never_comes_is_answered_and_not_waited_for() {
    let server = impatient().await;
    let token = create(&server).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST /messages?token={token} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = soon("the answer", stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(
        answer.starts_with("HTTP/1.1 504")
            && answer.contains(r#"{"detail":"The deadline passed"}"#),
        "{answer}"
    );
    ends_by_itself(stream).await;
}

#[tokio::test]
async fn streams_in_use_are_not_idle() {
    let server = impatient().await;
    let token = create(&server).await;
    let mut events =
        Rest::request(&server, "GET", &format!("/events?token={token}")).send().await.unwrap();
    let mut socket = crate::support::Socket::open(&server, &format!("?token={token}"), "").await;
    let mut grpc = crate::support::Transport::Grpc.open(&server, &token, None).await;
    // Several deadlines pass, as those see who are idle.
    for _ in 0..6 {
        socket.text("still here").await;
        assert_eq!(socket.next_text().await, "Echo: still here");
        ends_by_itself(TcpStream::connect(server.addr).await.unwrap()).await;
    }
    assert!(soon("an event", events.chunk()).await.unwrap().is_some());
    grpc.messages(2).await;
}

#[tokio::test]
async fn a_call_with_one_request_does_not_wait_for_it_for_ever() {
    let server = impatient().await;
    for method in ["duologue.v1.ChatService/Subscribe", "grpc.health.v1.Health/Watch"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let head = format!(
            "POST /{method} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web\r\ncontent-length: 100\r\n\r\n\0"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = soon(method, stream.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.contains("grpc-status: 4"), "{method}: {answer}");
    }
}

/// The responses wait in the kernel and in the gateway; both waits are limited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_that_nobody_reads_are_ended() {
    let mut setup = Setup::default();
    setup.server.write_timeout = 5 * BRIEF;
    // Where the stream lags so early that the kernel holds all of it, nothing is left to
    // be written, and the connection is idle.
    setup.server.idle_timeout = 5 * BRIEF;
    let server = setup.start().await;
    let token = create(&server).await;
    let secret = duologue::session::Token::parse(&token).unwrap();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!("GET /events?token={token} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    soon("the head", stream.read(&mut answer)).await.unwrap();
    // More than the kernel holds, and no faster than one who reads can follow.
    let text = "x".repeat(60 << 10);
    let mut reader = crate::support::Transport::Sse.open(&server, &token, None).await;
    for _ in 0..200 {
        let new_message = duologue::session::NewMessage::new(text.as_str(), None);
        server
            .gateway
            .send(&duologue::session::Caller::default(), &secret, new_message)
            .await
            .unwrap();
        reader.reply().await;
    }
    // A connection that ends with something unread is reset, and one learns of a reset
    // without reading.
    stream.write_all(&b"GET /test HTTP/1.1\r\nhost: x\r\n\r\n".repeat(4096)).await.unwrap();
    server
        .gateway
        .revoke_token(
            &duologue::session::Caller::default(),
            &secret,
            duologue::session::Revocation::Session,
        )
        .await
        .unwrap();
    let end = soon("the end of the connection", stream.ready(Interest::ERROR)).await.unwrap();
    assert!(end.is_error());
}

/// The peer keeps its window closed and answers every PING, so the HTTP library does not poll the
/// body and would not notice that the session has ended.
#[tokio::test]
async fn an_http2_peer_that_never_opens_its_window_is_ended() {
    let mut setup = Setup::default();
    setup.server.write_timeout = BRIEF;
    let server = setup.start().await;
    let token = create(&server).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (client, connection) =
        builder.initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut unread = Vec::new();
    for path in ["test", "events"] {
        let request = http::Request::get(server.url(&format!("/{path}?token={token}")));
        unread.push(client.send_request(request.body(()).unwrap(), true).unwrap().0);
    }
    let _however_it_ends = soon("the end", connection).await.unwrap();
}
