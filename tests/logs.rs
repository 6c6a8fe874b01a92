//! What is logged, and what never is.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    process::Process,
    support::{Address, Rest, Transport, create, soon},
};
use duologue::proto::{self, chat_service_client::ChatServiceClient};

const CANARY: &str = "canary-in-a-text-4711";

async fn connect(request: impl IntoClientRequest) -> WebSocketStream<tokio::net::TcpStream> {
    let request = request.into_client_request().unwrap();
    let tcp =
        tokio::net::TcpStream::connect(request.uri().authority().unwrap().as_str()).await.unwrap();
    client_async(request, tcp).await.unwrap().0
}

/// Talks through every transport of a process, with a canary in each place that is secret.
async fn talk(port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}");
    let client = reqwest::Client::new();
    let created =
        client.post(format!("{url}/token?name=Ada")).send().await.unwrap().text().await.unwrap();
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let token = created["token"].as_str().unwrap().to_owned();

    let mut plain = connect(format!("ws://127.0.0.1:{port}/chat?token={token}")).await;
    plain.send(Message::text(CANARY)).await.unwrap();
    assert!(plain.next().await.unwrap().unwrap().to_text().unwrap().contains(CANARY));
    plain.close(None).await.unwrap();

    let mut request = format!("ws://127.0.0.1:{port}/chat").into_client_request().unwrap();
    let entries = format!("duologue.v1.json, bearer.{token}");
    request.headers_mut().insert("sec-websocket-protocol", entries.parse().unwrap());
    let mut socket = connect(request).await;
    for frame in [
        format!(r#"{{"open":{{"token":"{token}"}}}}"#),
        format!(r#"{{"send":{{"text":"{CANARY}"}}}}"#),
        CANARY.into(),
    ] {
        socket.send(Message::text(frame)).await.unwrap();
        socket.next().await.unwrap().unwrap();
    }
    drop(socket);

    let body = json!({"text": CANARY, "nonsense": CANARY});
    client.post(format!("{url}/messages?token={token}")).json(&body).send().await.unwrap();
    client.post(format!("{url}/messages?token={token}&text={CANARY}")).send().await.unwrap();
    client.get(format!("{url}/refresh_token?token={token}")).send().await.unwrap();
    drop(client.get(format!("{url}/events?token={token}")).send().await.unwrap());

    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut grpc = ChatServiceClient::new(channel);
    let send = crate::support::send_text(&token, CANARY, None);
    grpc.send_message(send).await.unwrap();
    let mut call = tonic::Request::new(proto::RevokeTokenRequest::default());
    call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    grpc.revoke_token(call).await.unwrap();
    token
}

fn parsed(log: &[String]) -> Vec<serde_json::Value> {
    log.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn with_message<'a>(lines: &'a [serde_json::Value], message: &str) -> Vec<&'a serde_json::Value> {
    lines.iter().filter(|line| line["message"] == message).collect()
}

#[tokio::test]
async fn no_token_and_no_text_is_logged_even_at_trace_level() {
    for environment in ["development", "production"] {
        let flags = ["--app-env", environment, "--log", "trace", "--simulated-reply", "{text}"];
        let process = Process::start(&flags).await;
        let token = talk(process.port).await;
        process.signal("TERM").await;
        let (code, log) = process.ended().await;
        assert_eq!(code, Some(0));
        let log = log.join("\n");
        let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
        for secret in [CANARY, &token, &token.replace('-', ""), &hex, "?token", "name=Ada"] {
            assert!(!log.contains(secret), "{secret:?} is in the log:\n{log}");
        }
    }
}

#[tokio::test]
async fn sessions_and_streams_are_logged_when_they_begin_and_end() {
    let process = Process::start(&["--simulated-reply", "{text}", "--app-env", "production"]).await;
    talk(process.port).await;
    process.signal("TERM").await;
    let (_, log) = process.ended().await;
    let lines = parsed(&log);
    let of = |message: &str| with_message(&lines, message);
    assert_eq!((of("session started").len(), of("session ended").len()), (1, 1));
    assert_eq!(of("session ended")[0]["reason"], "revoked");
    assert_eq!(of("stream opened").len(), 3, "two WebSockets and one SSE");
    let closed = of("stream closed");
    assert_eq!(closed.len(), 3);
    let plain = closed.iter().find(|line| line["codec"] == "plain").unwrap();
    assert_eq!(
        (&plain["protocol"], &plain["received"], &plain["sent"]),
        (&json!("websocket"), &json!(1), &json!(1))
    );
    assert_eq!(
        (&plain["code"], &plain["session"]),
        (&json!(1005), &of("session started")[0]["session"])
    );
    assert!(plain["seconds"].is_number());
}

#[tokio::test]
async fn each_stream_that_was_opened_is_closed_in_the_log_when_the_process_ends() {
    const STREAMS: usize = 48;
    // The streams of HTTP/2 are tasks beside their connection's, and race with the end.
    for transport in Transport::ALL.into_iter().chain([Transport::Grpc; 20]) {
        let gateway = Process::start_in(&[("TOKIO_WORKER_THREADS", "4")], &[]).await;
        let token = create(&gateway.address()).await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(transport.open(&gateway.address(), &token, None).await);
        }
        // All clients disconnect at the moment of the shutdown.
        drop(streams);
        tokio::task::yield_now().await;
        gateway.signal("TERM").await;
        let (code, log) = gateway.ended().await;
        let lines = |what: &str| log.iter().filter(|line| line.contains(what)).count();
        assert_eq!(code, Some(0), "{transport:?}");
        assert_eq!(lines("stream opened"), STREAMS, "{transport:?}");
        assert_eq!(lines("stream closed"), STREAMS, "{transport:?}");
    }
}

async fn history_status(address: &Address, token: &str) -> u16 {
    Rest::call(address, "GET", &format!("/refresh_token?token={token}")).await.status
}

#[tokio::test]
async fn the_account_of_a_stream_is_the_same_over_every_protocol() {
    let flags = ["--simulated-reply", "{text}", "--app-env", "production", "--log", "debug"];
    let process = Process::start(&flags).await;
    let address = process.address();
    let token = create(&address).await;
    let unknown = history_status(&address, "00000000-0000-4000-8000-000000000000").await;
    assert_eq!(unknown, 400);
    let mut streams = Vec::new();
    for transport in Transport::ALL {
        streams.push(transport.open(&address, &token, None).await);
    }
    // One stream sends a message; all of them receive the turn.
    streams[0].say("hello", None).await.unwrap();
    for stream in &mut streams {
        stream.reply().await;
    }
    drop(streams);
    process.signal("TERM").await;
    let (_, log) = process.ended().await;
    let lines = parsed(&log);
    let of = |message: &str| with_message(&lines, message);
    for message in ["session started", "token refused", "stream opened"] {
        assert_eq!(of(message)[0]["address"], "127.0.0.1", "{message}");
    }
    let closed = of("stream closed");
    assert_eq!(closed.len(), Transport::ALL.len());
    for line in closed {
        // The user message, the start of the reply, its delta, and the reply; and `go_away`, if the
        // shutdown has begun before the gateway has noticed that the client is gone.
        let expected = 4 + u32::from(line["reason"] == "draining");
        assert_eq!(line["sent"], expected, "{line}");
        let received = u32::from(line["protocol"] == "grpc");
        assert_eq!(line["received"], received, "{line}");
    }
}

/// A full pipe without a reader.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The capacity of a pipe on Linux, unless it was changed: pipe(7).
    std::io::Write::write_all(&mut writer, &[b'\n'; 65536]).unwrap();
    (reader, writer)
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_neither_requests_nor_probes_nor_signals() {
    for environment in ["development", "production"] {
        // The ports cannot be read from the log.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (addr, ops_addr) = (free(), free());
        let (_reader, writer) = full_pipe();
        let flags = [
            "--app-env",
            environment,
            "--log",
            "debug",
            "--store",
            "memory",
            "--addr",
            &addr.to_string(),
            "--ops-addr",
            &ops_addr.to_string(),
            "--address-sessions-per-minute",
            "0",
        ];
        let mut child = crate::process::command(&flags).stderr(writer).spawn().unwrap();
        let client = reqwest::Client::new();
        let get = async |url: String| client.get(url).send().await;
        soon("the start", async {
            while get(format!("http://{addr}/healthz")).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        for _ in 0..1000 {
            let created = client.post(format!("http://{addr}/token?name=Ada")).send();
            assert_eq!(soon("an answer", created).await.unwrap().status(), 200);
        }
        for address in [addr, ops_addr] {
            let probe = soon("a probe", get(format!("http://{address}/healthz"))).await.unwrap();
            assert_eq!(probe.status(), 200);
        }
        let pid = child.id().unwrap().to_string();
        std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
        let ended = soon("the end", child.wait()).await.unwrap();
        assert_eq!(ended.code(), Some(0), "{environment}");
    }
}

#[tokio::test]
async fn lines_that_a_peer_without_a_token_can_cause_are_limited_and_counted() {
    let process = Process::start(&["--address-sessions-per-minute", "0"]).await;
    let client = reqwest::Client::new();
    for _ in 0..600 {
        let url = format!("http://127.0.0.1:{}/token?name=Ada", process.port);
        assert_eq!(client.post(url).send().await.unwrap().status(), 200);
    }
    // Unsolicited answers to pings, which h2 warns about one by one.
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", process.port)).await.unwrap();
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for _ in 0..20_000 {
        flood.extend_from_slice(b"\0\0\x08\x06\x01\0\0\0\0abcdefgh");
    }
    let _may_be_cut = tokio::io::AsyncWriteExt::write_all(&mut stream, &flood).await;
    drop(stream);
    process.signal("TERM").await;
    let (_, log) = process.ended().await;
    let started = log.iter().filter(|line| line.contains("session started")).count();
    assert!((200..450).contains(&started), "{started}");
    assert!(log.len() < started + 50, "{} lines", log.len());
}
