//! The operations port: metrics and probes.

use std::time::Duration;

use duologue::{server::Operations, telemetry, transport::Hosts};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use tonic::Status;

use crate::{
    process::{Process, command},
    support::{
        Act, Address, Clock, Rest, Setup, Socket, TestBot, Transport, create, soon,
        upstream::{HEAD, Upstream, answer, refusal},
    },
};

/// A gateway with a second port, and where that is.
async fn start(flags: &[&str]) -> (Process, Address) {
    let gateway = Process::start(&[&["--ops-addr", "127.0.0.1:0"], flags].concat()).await;
    let told = gateway.before.iter().find_map(|line| {
        let (_, url) = line.split_once("metrics at http://")?;
        url.strip_suffix("/metrics")?.parse().ok()
    });
    (gateway, Address { addr: told.expect("it says where") })
}

async fn scrape(operations: &Address) -> String {
    let answer = reqwest::get(operations.url("/metrics")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
    answer.text().await.unwrap()
}

/// The value of a series.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
}

fn open_streams(page: &str) -> f64 {
    let streams = page.lines().filter(|line| line.starts_with("duologue_streams{"));
    streams.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn what_happens_is_counted_through_every_transport_and_names_nobody() {
    let flags = ["--simulated-reply", "canary-reply-7391", "--max-text-size", "1KiB"];
    let (gateway, operations) = start(&flags).await;
    let address = gateway.address();
    let token = create(&address).await;
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        let mut client = transport.open(&address, &token, None).await;
        client.say("canary-text-5512", Some(&format!("{transport:?}"))).await.unwrap();
        client.reply().await;
        assert!(
            client
                .say("canary-text-5512", Some(&format!("{transport:?}")))
                .await
                .unwrap()
                .duplicate
        );
        clients.push(client);
    }
    let mut plain = Socket::open(&address, &format!("?token={token}"), "").await;
    plain.text(&"x".repeat(1025)).await;
    let _closed = plain.stream.next().await;
    let refused = Rest::call(&address, "GET", "/refresh_token?token=none").await;
    assert_eq!(refused.status, 400);

    let page = scrape(&operations).await;
    let transports = Transport::ALL.len() as f64;
    assert_eq!(value(&page, "duologue_sessions_started_total"), 1.0);
    assert_eq!(value(&page, "duologue_sessions_active"), 1.0);
    assert_eq!(value(&page, "duologue_messages_total"), transports);
    assert_eq!(value(&page, "duologue_duplicates_total"), transports);
    assert_eq!(value(&page, r#"duologue_replies_total{status="complete"}"#), transports);
    assert_eq!(value(&page, "duologue_replies_running"), 0.0);
    assert_eq!(value(&page, "duologue_reply_seconds_count"), transports);
    assert_eq!(value(&page, "duologue_first_delta_seconds_count"), transports);
    assert!(value(&page, r#"duologue_tokens_total{direction="out",figures="estimated"}"#) > 0.0);
    assert_eq!(value(&page, r#"duologue_refusals_total{code="session_expired"}"#), 1.0);
    drop(plain);
    soon("the plain stream to be gone", async {
        while open_streams(&scrape(&operations).await) > transports {}
    })
    .await;
    assert_eq!(open_streams(&scrape(&operations).await), transports);
    assert!(value(&page, "process_resident_memory_bytes") > 1e6);
    assert!(page.contains("duologue_build_info{version="), "{page}");
    for secret in [token.as_str(), "canary", "Ada"] {
        assert!(!page.contains(secret), "{secret}");
    }
    // Each series is explained.
    for line in page.lines().filter(|line| line.starts_with("duologue_")) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let explained = |name: &str| page.contains(&format!("# HELP {name} "));
        assert!(explained(name) || family.is_some_and(explained), "{name}");
    }
}

#[tokio::test]
async fn attempts_are_counted_by_upstream_and_outcome() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("upstreams.toml");
    let entry = |name: &str, upstream: &Upstream| {
        format!("[[upstream]]\nname = \"{name}\"\nbase_url = \"http://{}\"\n", upstream.addr)
    };
    std::fs::write(&file, entry("near", &first) + &entry("far", &second)).unwrap();
    first.always(refusal("429 Too Many Requests", "retry-after: 60\r\n", ""));
    second.always(format!("{HEAD}{}", answer("here")));
    let flags = ["--responder", "openai", "--config", file.to_str().unwrap()];
    let (gateway, operations) = start(&flags).await;
    let token = create(&gateway.address()).await;
    let mut client = Transport::Json.open(&gateway.address(), &token, None).await;
    for _ in 0..2 {
        client.say("hello", None).await.unwrap();
        assert_eq!(client.reply().await.1.text, "here");
    }
    let page = scrape(&operations).await;
    let attempts =
        |labels: &str| value(&page, &format!("duologue_upstream_attempts_total{{{labels}}}"));
    assert_eq!(attempts(r#"upstream="near",outcome="upstream_rate_limited""#), 1.0);
    assert_eq!(attempts(r#"upstream="far",outcome="answered""#), 2.0);
}

#[tokio::test]
async fn the_calls_to_a_bot_are_counted_by_outcome() {
    let away = [Act::Fail(Status::unavailable("not yet"))];
    let late = [Act::Say("so far"), Act::Fail(Status::internal("late"))];
    let bot = TestBot::start(&[&away, &late, &[Act::done()]]).await;
    let endpoint = format!("http://{}", bot.addr);
    let (gateway, operations) = start(&["--responder", "grpc", "--bot-endpoint", &endpoint]).await;
    let token = create(&gateway.address()).await;
    let mut client = Transport::Json.open(&gateway.address(), &token, None).await;
    for _ in 0..2 {
        client.say("hello", None).await.unwrap();
        client.reply().await;
    }
    let page = scrape(&operations).await;
    let calls = |outcome: &str| {
        let labels = format!("{{upstream=\"bot\",outcome=\"{outcome}\"}}");
        value(&page, &format!("duologue_upstream_attempts_total{labels}"))
    };
    assert_eq!((calls("upstream_unavailable"), calls("answered")), (1.0, 2.0));
    assert!(!page.contains(r#"outcome="upstream_failed""#), "it had begun to answer: {page}");
}

#[tokio::test]
async fn the_commits_of_the_store_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("duologue.db").display());
    let (gateway, operations) = start(&["--store", &store]).await;
    let token = create(&gateway.address()).await;
    let mut client = Transport::Json.open(&gateway.address(), &token, None).await;
    client.say("hello", None).await.unwrap();
    client.reply().await;
    // The session, the message, the reply, at least; what sweeps adds to them.
    let page = scrape(&operations).await;
    let commits = value(&page, "duologue_store_commit_seconds_count");
    let writes = value(&page, "duologue_store_writes_total");
    assert!(commits >= 3.0 && writes >= commits, "{commits} {writes}");
    assert!(value(&page, "duologue_store_commit_seconds_sum") > 0.0);
}

#[tokio::test]
async fn a_revoked_session_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("duologue.db").display());
    let (gateway, operations) = start(&["--store", &store]).await;
    let address = gateway.address();
    let tokens = [create(&address).await, create(&address).await];
    let mut streams = Vec::new();
    for token in &tokens {
        streams.push(Transport::Json.open(&address, token, None).await);
    }
    let run = async |arguments: &[&str]| {
        let arguments = [&["--store", store.as_str(), "sessions"], arguments].concat();
        let output = soon("a command", command(&arguments).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = run(&["list"]).await;
    run(&["delete", listed.split('\t').next().unwrap()]).await;
    let url = address.url(&format!("/token?token={}", tokens[1]));
    assert_eq!(reqwest::Client::new().delete(url).send().await.unwrap().status(), 204);
    for stream in streams {
        assert_eq!(stream.ended().await.0.as_deref(), Some("session_revoked"));
    }
    let revoked = r#"duologue_sessions_ended_total{reason="revoked"}"#;
    soon("the count", async { while value(&scrape(&operations).await, revoked) < 2.0 {} }).await;
    assert_eq!(value(&scrape(&operations).await, revoked), 2.0);
}

#[tokio::test]
async fn the_operations_port_answers_during_a_drain() {
    let (gateway, operations) = start(&["--simulated-delay", "1h"]).await;
    let ready = Rest::call(&operations, "GET", "/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, r#"{"detail":"ready"}"#));
    let token = create(&gateway.address()).await;
    let mut client = Transport::Json.open(&gateway.address(), &token, None).await;
    client.say("wait", None).await.unwrap();
    client.reply_started().await;
    gateway.signal("TERM").await;
    soon("its readiness to end", async {
        while Rest::call(&operations, "GET", "/readyz").await.status == 200 {}
    })
    .await;
    let page = scrape(&operations).await;
    assert_eq!(value(&page, "duologue_draining"), 1.0);
    assert_eq!(value(&page, "duologue_replies_running"), 1.0);
    assert_eq!(Rest::call(&operations, "GET", "/healthz").await.status, 200);
}

#[tokio::test]
async fn nothing_else_is_there_and_nothing_of_it_on_the_public_port() {
    let (gateway, operations) = start(&[]).await;
    assert_eq!(Rest::call(&operations, "GET", "/token?name=Ada").await.status, 404);
    assert_eq!(Rest::call(&gateway.address(), "GET", "/metrics").await.status, 404);
    let client = reqwest::Client::new();
    let posted = client.post(operations.url("/metrics")).send().await.unwrap();
    assert_eq!(
        (posted.status().as_u16(), &posted.headers()["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
    let head = client.head(operations.url("/metrics")).send().await.unwrap();
    assert_eq!(head.status(), 200);
}

#[tokio::test]
async fn the_operations_port_refuses_a_foreign_host() {
    let (_gateway, operations) = start(&["--host", "metrics.example"]).await;
    let client = reqwest::Client::new();
    for path in ["/metrics", "/healthz", "/readyz"] {
        for (host, status) in [
            ("metrics.example:3501", 200),
            ("localhost:3501", 200),
            ("127.0.0.1", 200),
            ("[::1]:3501", 200),
            ("evil.example", 403),
            ("metrics.example.evil:3501", 403),
        ] {
            let request = client.get(operations.url(path)).header("host", host);
            assert_eq!(request.send().await.unwrap().status(), status, "{path} {host}");
        }
    }
}

#[tokio::test]
async fn a_peer_that_sends_or_reads_nothing_releases_its_permit() {
    /// Of 30 seconds; what fills the buffers of the kernel takes some, too.
    const MORE_THAN_A_DEADLINE: Duration = Duration::from_secs(300);
    let server = Setup::default().start().await;
    let metrics = telemetry::collect().unwrap();
    let operations =
        Operations::bind(([127, 0, 0, 1], 0).into(), metrics, Hosts::default()).unwrap();
    let addr = operations.local_addr().unwrap().tcp().unwrap();
    tokio::spawn(operations.serve(server.gateway.clone()));
    let clock = Clock::hold();
    for silence in ["", "GET /met", "GET /metrics HTTP/1.1\r\ncontent-length: 100\r\n\r\n"] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(silence.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(MORE_THAN_A_DEADLINE, stream.read_to_end(&mut answer));
        assert!(clock.until(ended).await.is_ok(), "{silence}");
    }
    // It sends requests and reads no response.
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let requests = b"GET /metrics HTTP/1.1\r\n\r\n".repeat(100);
    let asking = async { while stream.write_all(&requests).await.is_ok() {} };
    assert!(clock.until(timeout(MORE_THAN_A_DEADLINE, asking)).await.is_ok());
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start_and_off_needs_none() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let flags = ["--addr", "127.0.0.1:0", "--store", "memory", "--ops-addr", &addr];
    let output = soon("its end", command(&flags).output()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(&addr) && log.contains("--ops-addr"), "{log}");
    let quiet = Process::start(&["--ops-addr", "off"]).await;
    assert!(!quiet.before.iter().any(|line| line.contains("metrics")), "{:?}", quiet.before);
}
