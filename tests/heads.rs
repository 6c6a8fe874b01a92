//! Heads of requests and responses: what HTTP forbids is refused, and every response carries the
//! headers that protect it.

use std::time::Duration;

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Clock, Rest, Running, Setup, Socket, Transport, create, soon};

/// Sends bytes as they are, and returns the response up to the end of the connection or of what
/// arrives at once.
async fn raw(server: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = vec![0; 4096];
    let read = soon("the response", stream.read(&mut response)).await.unwrap();
    String::from_utf8_lossy(&response[..read]).into_owned()
}

#[tokio::test]
async fn a_head_that_http_forbids_is_refused_before_routing() {
    let server = Setup::default().start().await;
    for (head, status) in [
        ("GET /test HTTP/1.1\r\nhost: x\r\n", 200),
        ("GET /test HTTP/1.1\r\nhost: [::1]:3500\r\n", 200),
        ("GET /test HTTP/1.0\r\n", 200),
        ("GET /test HTTP/1.1\r\n", 400),
        ("GET /test HTTP/1.1\r\nhost: a\r\nhost: a\r\n", 400),
        ("GET /test HTTP/1.0\r\nhost: a\r\nhost: b\r\n", 400),
        ("GET /test HTTP/1.1\r\nhost: \r\n", 400),
        ("GET /test HTTP/1.1\r\nhost: a b\r\n", 400),
        ("GET /test HTTP/1.1\r\nhost: ada@a\r\n", 400),
        ("GET /test HTTP/1.1\r\nhost: a/b\r\n", 400),
        ("GET /test HTTP/1.1\r\nhost: a:b\r\n", 400),
        ("GET /nowhere HTTP/1.1\r\n", 400),
        ("POST /test HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n", 400),
        ("POST /test HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n", 400),
    ] {
        let response = raw(&server, &format!("{head}\r\n")).await;
        let version = if response.starts_with("HTTP/1.0") { "1.0" } else { "1.1" };
        assert!(response.starts_with(&format!("HTTP/{version} {status}")), "{head}: {response}");
        if status == 400 && response.contains("content-type") {
            assert!(response.contains(r#"{"detail":"The "#), "{head}: {response}");
        }
    }
}

#[tokio::test]
async fn a_websocket_key_must_be_sixteen_bytes_in_base64() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    for (key, status) in [
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 101),
        ("", 400),
        ("sec-websocket-key: \r\n", 400),
        ("sec-websocket-key: short\r\n", 400),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZ!==\r\n", 400),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQAA\r\n", 400),
        (
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            400,
        ),
    ] {
        let request = format!(
            "GET /chat?token={token} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n{key}\r\n"
        );
        let response = raw(&server, &request).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{key}: {response}");
    }
}

#[tokio::test]
async fn every_response_is_kept_out_of_caches_frames_and_referrers() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    for (method, path) in [
        ("GET", "/test".to_owned()),
        ("POST", "/token?name=Ada".into()),
        ("POST", "/token?name=".into()),
        ("GET", format!("/refresh_token?token={token}")),
        ("POST", format!("/messages?token={token}&text=Hi")),
        ("GET", format!("/events?token={token}")),
        ("GET", "/nowhere".into()),
        ("PUT", "/test".into()),
        ("GET", "/openapi.json".into()),
        ("GET", "/docs/".into()),
        ("DELETE", format!("/token?token={token}")),
    ] {
        let response = Rest::request(&server, method, &path).send().await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        let case = format!("{method} {path}");
        assert_eq!(header("cache-control"), "no-store", "{case}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{case}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{case}");
        if path.starts_with("/docs") {
            assert_eq!(header("x-frame-options"), "DENY");
            assert_eq!(header("content-security-policy"), "frame-ancestors 'none'");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_or_compressed_is_refused_and_names_no_type_of_ours() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let send = async |body: &str, encoding: &str| {
        let request = Rest::request(&server, "POST", &format!("/messages?token={token}"))
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_ENCODING, encoding)
            .body(body.to_owned());
        Rest::send(request).await
    };
    for body in [r#"["Hi","m1"]"#, r#""Hi""#, "7", "null", "true", " [1]"] {
        let response = send(body, "identity").await;
        assert_eq!(response.status, 422, "{body}");
        assert_eq!(response.json()["detail"][0]["type"], "model_attributes_type", "{body}");
    }
    for body in
        ["{", r#"{"text":7}"#, "Hi", &format!(r#"{{"text":{{"{}":1}}}}"#, "x".repeat(60_000))]
    {
        let response = send(body, "identity").await;
        assert_eq!(response.status, 422, "{body}");
        assert!(
            !response.body.contains("MessageBody") && response.body.len() < 700,
            "{}",
            response.body
        );
    }
    for encoding in ["gzip", "br", "identity, gzip"] {
        assert_eq!(send(r#"{"text":"Hi"}"#, encoding).await.status, 415, "{encoding}");
    }
    assert_eq!(send(r#"{"text":"Hi"}"#, "identity").await.status, 202);
}

#[tokio::test]
async fn an_error_repeats_no_more_than_a_little_of_what_it_is_about() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let long = "x".repeat(60_000);
    let mut socket = Socket::open(&server, &format!("?token={token}"), "duologue.v1.json").await;
    for frame in [format!(r#"{{"{long}":{{}}}}"#), format!(r#"{{"send":{{"{long}":1}}}}"#)] {
        socket.text(&frame).await;
        let refusal = loop {
            let frame = socket.next_text().await;
            if frame.contains("bad_frame") {
                break frame;
            }
        };
        assert!(refusal.len() < 700, "{} bytes", refusal.len());
    }
    let path = format!("/refresh_token?token={token}&after={long}");
    let response = Rest::call(&server, "GET", &path).await;
    assert_eq!(response.status, 422);
    assert!(response.body.len() < 700, "{} bytes", response.body.len());
}

#[tokio::test]
async fn an_empty_last_event_id_does_not_override_the_position() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut stream = Transport::Json.open(&server, &token, None).await;
    stream.say("Hi", None).await.unwrap();
    stream.reply().await;
    let position = Rest::call(&server, "GET", &format!("/refresh_token?token={token}")).await;
    let epoch = position.json()["position"]["epoch"].as_str().unwrap().to_owned();
    let path = format!("/events?token={token}&position={epoch}:0");
    let request = Rest::request(&server, "GET", &path).header("last-event-id", "");
    let mut events = request.send().await.unwrap();
    let mut seen = String::new();
    while !seen.contains("Echo: Hi") {
        let chunk = soon("the replay", events.chunk()).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(seen.contains(r#""recovered":true"#), "{seen}");
}

#[tokio::test]
async fn a_kept_connection_may_be_idle_for_two_minutes() {
    let server = Setup::default().start().await;
    let clock = Clock::hold();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let mut response = [0; 1024];
    for _ in 0..2 {
        stream.write_all(b"GET /test HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let read = clock.until(stream.read(&mut response)).await.unwrap();
        assert!(response[..read].starts_with(b"HTTP/1.1 200"));
        clock.pass(Duration::from_secs(110)).await;
    }
    clock.pass(Duration::from_secs(130)).await;
    let ended = clock.until(stream.read(&mut response)).await;
    assert!(ended.is_ok_and(|read| read == 0));
}
