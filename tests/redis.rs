//! Several gateways as processes on one server of Redis or Valkey.

use std::{
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use duologue::proto::{ReplyStarted, Role, Send};

use crate::{
    process::{Process, command},
    support::{
        Authority, Event, RedisServer, Rest, Transport, create, history, piece_of, programs, soon,
    },
};

/// A reply of two hundred words, which takes four seconds.
fn long() -> String {
    (0..200).fold(String::new(), |mut text, number| {
        let _ = write!(text, "word{number} ");
        text
    })
}

async fn gateway(server: &RedisServer, flags: &[&str]) -> Process {
    let store = format!("redis://127.0.0.1:{}", server.port());
    Process::start(&[&["--store", &store], flags].concat()).await
}

fn servers() -> impl Iterator<Item = RedisServer> {
    programs().into_iter().map(|program: PathBuf| RedisServer::start(program, &[]))
}

#[tokio::test]
async fn a_server_that_cannot_be_used_stops_the_start_with_one_line() {
    let flags = ["--requirepass", "canary-right", "--maxmemory-policy", "allkeys-lru"];
    let server = RedisServer::start_with_password("redis-server".into(), &flags, "canary-right");
    let port = server.port();
    for (store, problem) in [
        (format!("redis://127.0.0.1:{port}"), "needs a password"),
        (format!("redis://:canary-wrong@127.0.0.1:{port}"), "invalid username-password pair"),
        (format!("redis://:canary-right@127.0.0.1:{port}"), "maxmemory-policy to noeviction"),
        (format!("rediss://:canary-right@127.0.0.1:{port}"), "cannot use rediss://[redacted]@"),
        ("redis://:canary-right@127.0.0.1:1".to_owned(), "refused"),
    ] {
        let flags = ["--addr", "127.0.0.1:0", "--store", &store];
        let output = soon("the end", command(&flags).output()).await.unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), log.lines().count()), (Some(1), 1), "{store}: {log}");
        assert!(log.contains(problem) && !log.contains("canary"), "{store}: {log}");
    }
}

#[tokio::test]
async fn a_reply_of_a_killed_gateway_is_begun_again_by_another() {
    for server in servers() {
        let reply = long();
        let flags = ["--simulated-reply", reply.trim(), "--simulated-delay", "20ms"];
        let (one, two) = (gateway(&server, &flags).await, gateway(&server, &flags).await);
        let token = create(&one.address()).await;
        let mut there = Transport::Grpc.open(&two.address(), &token, None).await;
        let path = format!("/messages?token={token}&text=Hi");
        assert_eq!(Rest::call(&one.address(), "POST", &path).await.status, 202);
        let mut deltas = 0;
        while deltas < 10 {
            if let Event::Delta(_) = soon("a delta", there.next()).await {
                deltas += 1;
            }
        }
        one.kill().await;
        let died = Instant::now();
        let second = loop {
            if let Event::ReplyStarted(started) = soon("the second attempt", there.next()).await {
                let ReplyStarted { attempt, .. } = started;
                break attempt;
            }
        };
        assert_eq!(second, 2);
        assert!(died.elapsed() <= Duration::from_secs(5), "{:?}", died.elapsed());
        let answer = loop {
            if let Event::Message(message) = soon("the reply", there.next()).await
                && message.role() == Role::Assistant
            {
                break message;
            }
        };
        assert_eq!(answer.text, reply.trim());
        assert_eq!(history(&two.address(), Transport::Grpc, &token).await.len(), 2);
        two.signal("TERM").await;
        assert_eq!(two.ended().await.0, Some(0));
    }
}

#[tokio::test]
async fn streams_survive_a_server_that_is_away_for_some_seconds() {
    for server in servers() {
        let (one, two) = (gateway(&server, &[]).await, gateway(&server, &[]).await);
        let token = create(&one.address()).await;
        let mut there = Transport::Json.open(&two.address(), &token, None).await;
        server.signal("STOP");
        let path = format!("/messages?token={token}&text=Hi");
        let began = Instant::now();
        let refused = Rest::call(&one.address(), "POST", &path).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
        let ready = Rest::call(&one.address(), "GET", "/readyz").await;
        assert_eq!(
            (ready.status, &*ready.body),
            (200, r#"{"degraded":["store"],"detail":"ready"}"#)
        );
        server.signal("CONT");
        let send = Send { text: "Hello Bot".into(), ..Default::default() };
        there.send(send).await.unwrap();
        loop {
            if let Event::Message(message) = soon("the reply", there.next()).await
                && message.role() == Role::Assistant
            {
                break;
            }
        }
        for process in [one, two] {
            process.signal("TERM").await;
            assert_eq!(process.ended().await.0, Some(0));
        }
    }
}

#[tokio::test]
async fn a_reply_in_progress_goes_on_while_the_server_is_away() {
    for server in servers() {
        let reply = long();
        let flags = ["--simulated-reply", reply.trim(), "--simulated-delay", "20ms"];
        let (one, two) = (gateway(&server, &flags).await, gateway(&server, &flags).await);
        let token = create(&one.address()).await;
        let mut here = Transport::Json.open(&one.address(), &token, None).await;
        let mut there = Transport::Grpc.open(&two.address(), &token, None).await;
        here.say("Hi", None).await.unwrap();
        while !matches!(soon("a delta", there.next()).await, Event::Delta(_)) {}
        server.signal("STOP");
        // The reply ends, and an operation fails.
        let mut content = 0;
        while content < reply.trim().len() {
            if let Event::Delta(delta) = soon("a delta", here.next()).await {
                content += piece_of(&delta).len();
            }
        }
        let path = format!("/refresh_token?token={token}");
        assert_eq!(Rest::call(&one.address(), "GET", &path).await.status, 503);
        server.signal("CONT");
        for stream in [&mut here, &mut there] {
            let answer = loop {
                match soon("the reply", stream.next()).await {
                    Event::Message(message) if message.role() == Role::Assistant => break message,
                    Event::ReplyStarted(started) => assert_eq!(started.attempt, 1),
                    _ => {}
                }
            };
            assert_eq!(answer.text, reply.trim());
        }
        assert_eq!(history(&two.address(), Transport::Grpc, &token).await.len(), 2);
        for process in [one, two] {
            process.signal("TERM").await;
            assert_eq!(process.ended().await.0, Some(0));
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_death_of_a_server_that_writes_always() {
    for program in programs() {
        let flags = ["--appendonly", "yes", "--appendfsync", "always"];
        let server = RedisServer::start(program, &flags);
        let (one, two) = (gateway(&server, &[]).await, gateway(&server, &[]).await);
        let token = create(&one.address()).await;
        let mut there = Transport::Grpc.open(&two.address(), &token, None).await;
        for round in 0..3_usize {
            let accepted = there.say(&format!("m{round}"), None).await.unwrap();
            assert_eq!(accepted.seq as usize, 2 * round + 1);
            server.kill();
            server.restart();
            loop {
                if let Event::Message(message) = soon("the reply", there.next()).await
                    && message.role() == Role::Assistant
                {
                    break;
                }
            }
        }
        for process in [one, two] {
            let log = history(&process.address(), Transport::Grpc, &token).await;
            assert_eq!(log.len(), 6);
            process.signal("TERM").await;
            assert_eq!(process.ended().await.0, Some(0));
        }
    }
}

#[tokio::test]
async fn a_server_with_tls_is_used_with_its_own_authority_and_password_variable() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.issue(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let ca = path("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, cert, key) = (free.to_string(), path("cert.pem"), path("key.pem"));
    let flags = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "canary-right",
    ];
    // The wheel of Valkey has no TLS.
    let _server = RedisServer::start_with_password("redis-server".into(), &flags, "canary-right");
    let store = format!("rediss://localhost:{port}");
    let password = [("DUOLOGUE_REDIS_PASSWORD", "canary-right")];
    let flags = ["--store", &store, "--redis-ca-cert", &ca];
    let gateway = Process::start_in(&password, &flags).await;
    let token = create(&gateway.address()).await;
    let mut stream = Transport::Json.open(&gateway.address(), &token, None).await;
    stream.say("Hi", None).await.unwrap();
    stream.reply().await;
    gateway.signal("TERM").await;
    assert_eq!(gateway.ended().await.0, Some(0));
    // Without the authority the certificate is not trusted.
    let flags = ["--addr", "127.0.0.1:0", "--store", &store];
    let output = soon("the end", command(&flags).output()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), log.lines().count()), (Some(1), 1), "{log}");
    assert!(log.contains("certificate"), "{log}");
}
