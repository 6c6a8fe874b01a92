//! The bot responder: its requests, its outcomes, and stops.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use duologue::{proto::ReplyOutcome, responder::grpc};
use http::HeaderMap;
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    process::Process,
    support::{
        Act, Attached, Running, Setup, TestBot, Transport, answering, calls, create, piece_of,
        proto::{self, MessageStatus},
        stub,
    },
};

/// The certificate of an unknown CA.
pub(crate) const CA: &str = "-----BEGIN CERTIFICATE-----
MIIBejCCAR+gAwIBAgIUTSJQ6FCMdHH5S3gTKWRqr36tF+EwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGQSB0ZXN0MCAXDTI2MTEyMjE5MTkxNloYDzIxMjYxMDI5MTkx
OTE2WjARMQ8wDQYDVQQDDAZBIHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASqICaltI+Wo5akfg8dAWhGtzZYZ+267NHAR5rj8oijvqq9trryS8E+pqKZ6vb6
TQHq9Tq5luoH16de322DEW3to1MwUTAdBgNVHQ4EFgQU2OkSu3yT9pEaeaVuCe8K
VzxFSDAwHwYDVR0jBBgwFoAU2OkSu3yT9pEaeaVuCe8KVzxFSDAwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAliDspFKkPkrk4/NnliAxFZHhC81G
4IL+G2ASXYAvD1kCIQDBg4jbSb+KU9YFiI4U+VdVJSds1PhpBPFY2Ho8vS9iHg==
-----END CERTIFICATE-----
";

/// A gateway that calls a bot so.
pub(crate) async fn gateway(settings: grpc::Settings) -> Running {
    Setup::answering(grpc::Bot::new(settings).unwrap()).start().await
}

pub(crate) async fn attached(server: &Running, transport: Transport) -> Attached {
    transport.open(server, &create(server).await, None).await
}

/// One turn: the reply, and its failure's code if it has one.
pub(crate) async fn turn(
    client: &mut Attached,
    text: &str,
) -> (MessageStatus, String, Option<String>) {
    client.say(text, None).await.unwrap();
    ending(client.reply().await.1)
}

/// Returns the status, the text and the failure's code of a reply.
pub(crate) fn ending(reply: proto::Message) -> (MessageStatus, String, Option<String>) {
    (reply.status(), reply.text, reply.failure.map(|failure| failure.code))
}

pub(crate) fn failed(text: &str, code: &str) -> (MessageStatus, String, Option<String>) {
    (MessageStatus::Failed, text.into(), Some(code.into()))
}

pub(crate) fn complete(text: &str) -> (MessageStatus, String, Option<String>) {
    (MessageStatus::Complete, text.into(), None)
}

#[tokio::test]
async fn a_bot_answers_through_every_transport_word_by_word() {
    let script = [Act::Say("Hello "), Act::Gate, Act::Say("Ada"), Act::done()];
    let mut bot = TestBot::start(&[&script]).await;
    let server = gateway(calls(bot.addr)).await;
    for transport in Transport::ALL {
        let mut client = attached(&server, transport).await;
        client.say("Hi", None).await.unwrap();
        assert_eq!(piece_of(&client.delta().await), "Hello ", "{transport:?}");
        bot.gate.add_permits(1);
        assert_eq!(piece_of(&client.delta().await), "Ada", "{transport:?}");
        let reply = client.reply().await.1;
        assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Complete, "Hello Ada"));
        assert_eq!(reply.finish_reason.as_deref(), Some("stop"));
        assert!(!bot.let_go().await, "a reply that is over was not stopped");
    }
}

#[tokio::test]
async fn a_bot_is_given_the_conversation_and_what_it_needs_to_know() {
    let stopped = [Act::Say("so f"), Act::Hang];
    let refused = ReplyOutcome {
        failure: Some(proto::Failure { code: "no_stock".into(), message: "Sold out".into() }),
        ..Default::default()
    };
    let refused = [Act::Say("No"), Act::Outcome(refused)];
    let mut bot = TestBot::start(&[&stopped, &refused, &[Act::Say("yes"), Act::done()]]).await;
    let settings = grpc::Settings {
        token: Some("s3cret".into()),
        total_timeout: Duration::from_secs(77),
        max_reply_size: 12_345,
        ..calls(bot.addr)
    };
    let server = gateway(settings).await;
    let mut client = attached(&server, Transport::Grpc).await;
    let session = client.opened.session.clone().unwrap();

    client.say("one", Some("m1")).await.unwrap();
    client.delta().await;
    client.stop().await;
    let first = client.reply().await.1;
    let (request, metadata) = bot.called().await;
    assert_eq!((request.session_id, request.name), (session.id.clone(), "Ada".into()));
    assert_eq!((request.reply_id, request.attempt), (first.id, 1));
    assert_eq!((request.history, request.history_trimmed), (vec![], false));
    assert_eq!(request.max_reply_bytes, 12_345);
    let message = request.message.unwrap();
    assert_eq!((message.seq, message.text.as_str()), (1, "one"));
    assert_eq!(message.client_message_id.as_deref(), Some("m1"));
    assert_eq!(metadata.get("authorization").unwrap(), "Bearer s3cret");
    let timeout = metadata.get("grpc-timeout").unwrap().to_str().unwrap();
    let millis = match timeout.split_at(timeout.len() - 1) {
        (number, "n") => number.parse::<u64>().unwrap() / 1_000_000,
        (number, "u") => number.parse::<u64>().unwrap() / 1000,
        (number, "m") => number.parse::<u64>().unwrap(),
        (number, "S") => number.parse::<u64>().unwrap() * 1000,
        other => panic!("{other:?}"),
    };
    assert!((1..=77_000).contains(&millis), "{timeout}");

    assert_eq!(turn(&mut client, "two").await, failed("No", "no_stock"));
    let (request, _) = bot.called().await;
    let seen: Vec<_> =
        request.history.iter().map(|m| (m.seq, m.role(), m.text.as_str(), m.status())).collect();
    let user = proto::Role::User;
    let assistant = proto::Role::Assistant;
    let none = MessageStatus::Unspecified;
    assert_eq!(
        seen,
        [(1, user, "one", none), (2, assistant, "so f", MessageStatus::Stopped)],
        "a reply that was stopped, too"
    );
    assert_eq!(turn(&mut client, "three").await, complete("yes"));
    let (request, _) = bot.called().await;
    assert_eq!(request.session_id, session.id);
    assert_eq!(request.history.len(), 4);
    assert_eq!(request.history[3].failure.as_ref().unwrap().code, "no_stock");
}

#[tokio::test]
async fn a_bot_receives_a_limited_history_and_clients_see_that_it_is_trimmed() {
    let mut bot = TestBot::start(&[&[Act::Say("x"), Act::done()]]).await;
    for (history, told) in [(2, true), (0, false)] {
        let server = gateway(grpc::Settings { history, ..calls(bot.addr) }).await;
        let mut client = attached(&server, Transport::Json).await;
        for turn in 0..3 {
            client.say("x", None).await.unwrap();
            assert_eq!(client.reply_started().await.context_trimmed, told && turn > 1);
            client.reply().await;
            let (request, _) = bot.called().await;
            let seqs: Vec<_> = request.history.iter().map(|message| message.seq).collect();
            let expected: Vec<u32> = (1..=2 * turn).collect();
            let expected = &expected[expected.len().saturating_sub(history as usize)..];
            assert_eq!(seqs, expected);
            assert_eq!(request.history_trimmed, expected.len() < 2 * turn as usize);
        }
    }
}

#[tokio::test]
async fn a_stop_from_any_transport_reaches_the_bot_also_before_its_first_word() {
    let scripts: [&[Act]; 3] =
        [&[Act::Hang], &[Act::Say(""), Act::Hang], &[Act::Say("so far"), Act::Hang]];
    for script in scripts {
        let mut bot = TestBot::start(&[script]).await;
        let server = gateway(calls(bot.addr)).await;
        for transport in Transport::ALL {
            let mut client = attached(&server, transport).await;
            client.say("go", None).await.unwrap();
            bot.called().await;
            let spoke = matches!(script[0], Act::Say("so far"));
            if spoke {
                client.delta().await;
            }
            client.stop().await;
            assert!(bot.let_go().await, "{transport:?} {script:?}");
            let reply = client.reply().await.1;
            let text = if spoke { "so far" } else { "" };
            assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Stopped, text));
            assert!(reply.usage.is_some_and(|usage| usage.estimated), "{transport:?}");
        }
    }
}

/// The table of docs/PROTOCOL.md.
#[tokio::test]
async fn every_status_has_its_reason_and_its_text_is_not_shown() {
    let rows = [
        (Code::Ok, "upstream_truncated", "upstream_truncated"),
        (Code::Unavailable, "upstream_unavailable", "upstream_truncated"),
        (Code::ResourceExhausted, "upstream_rate_limited", "upstream_rate_limited"),
        (Code::DeadlineExceeded, "upstream_total_timeout", "upstream_total_timeout"),
        (Code::Unauthenticated, "upstream_auth", "upstream_auth"),
        (Code::PermissionDenied, "upstream_auth", "upstream_auth"),
        (Code::Unimplemented, "upstream_rejected", "upstream_rejected"),
        (Code::InvalidArgument, "upstream_rejected", "upstream_rejected"),
        (Code::NotFound, "upstream_rejected", "upstream_rejected"),
        (Code::FailedPrecondition, "upstream_rejected", "upstream_rejected"),
        (Code::Cancelled, "upstream_failed", "upstream_failed"),
        (Code::Unknown, "upstream_failed", "upstream_failed"),
        (Code::AlreadyExists, "upstream_failed", "upstream_failed"),
        (Code::Aborted, "upstream_failed", "upstream_failed"),
        (Code::OutOfRange, "upstream_failed", "upstream_failed"),
        (Code::Internal, "upstream_failed", "upstream_failed"),
        (Code::DataLoss, "upstream_failed", "upstream_failed"),
    ];
    let status = |code| match code {
        Code::Ok => vec![],
        code => vec![Act::Fail(Status::new(code, "at db7.internal, password hunter2"))],
    };
    for (code, before, after) in rows {
        let late = [vec![Act::Say("so far")], status(code)].concat();
        let bot = TestBot::start(&[&status(code), &late]).await;
        let server = gateway(calls(bot.addr)).await;
        let mut client = attached(&server, Transport::Json).await;
        client.say("go", None).await.unwrap();
        let reply = client.reply().await.1;
        assert!(!format!("{reply:?}").contains("hunter2"), "{reply:?}");
        let failure = reply.failure.unwrap();
        assert_eq!((failure.code.as_str(), reply.text.as_str()), (before, ""), "{code:?}");
        assert_eq!(turn(&mut client, "again").await, failed("so far", after), "{code:?}");
    }
}

/// gRPC's table: doc/http-grpc-status-mapping.md.
#[tokio::test]
async fn responses_of_a_proxy_map_to_grpc_codes() {
    let refused = [("grpc-status", "3"), ("content-type", "application/grpc")];
    for (status, code) in [
        (429, "upstream_unavailable"),
        (502, "upstream_unavailable"),
        (503, "upstream_unavailable"),
        (504, "upstream_unavailable"),
        (401, "upstream_auth"),
        (403, "upstream_auth"),
        (404, "upstream_rejected"),
        (400, "upstream_failed"),
        (500, "upstream_failed"),
        (302, "upstream_failed"),
        (200, "upstream_failed"),
    ] {
        let page = (head(status, &[("content-type", "text/html")]), "<html>", HeaderMap::new());
        let no_more = (head(200, &refused), "", HeaderMap::new());
        let server = gateway(calls(answering(vec![page.clone()]).await)).await;
        let mut client = attached(&server, Transport::Grpc).await;
        assert_eq!(turn(&mut client, "go").await, failed("", code), "{status}");

        let settings = calls(answering(vec![page, no_more]).await);
        let server = gateway(grpc::Settings { retries: 1, ..settings }).await;
        let mut client = attached(&server, Transport::Grpc).await;
        let again = if code == "upstream_unavailable" { "upstream_rejected" } else { code };
        assert_eq!(turn(&mut client, "go").await, failed("", again), "{status}");
    }
}

#[tokio::test]
async fn details_of_a_status_that_are_broken_do_not_count_and_the_status_does() {
    let broken = [("grpc-status", "16"), ("grpc-status-details-bin", "no base64!")];
    let grpc = [("content-type", "application/grpc")];
    let trailers = head(200, &broken).headers().clone();
    let early = (head(200, &[&grpc[..], &broken].concat()), "", HeaderMap::new());
    // A frame of a delta that says "hi".
    let hi = "\0\0\0\0\u{6}\n\u{4}\n\u{2}hi";
    let late = (head(200, &grpc), hi, trailers);
    for (answer, text) in [(early, ""), (late, "hi")] {
        let server = gateway(calls(answering(vec![answer]).await)).await;
        let mut client = attached(&server, Transport::Grpc).await;
        assert_eq!(turn(&mut client, "go").await, failed(text, "upstream_auth"));
    }
}

pub(crate) fn head(status: u16, headers: &[(&'static str, &'static str)]) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = status.try_into().unwrap();
    for (name, value) in headers {
        head.headers_mut().insert(*name, value.parse().unwrap());
    }
    head
}

#[tokio::test]
async fn neither_the_token_nor_a_text_is_logged_however_the_bot_quotes_them() {
    const SAID: &str = "canary is my PIN";
    let quotes = "bad credentials: Bearer s3cr3t for Ada, who says: CANARY is my p\u{131}n";
    let fail = Act::Fail(Status::internal(quotes));
    let late = [Act::Say("so far"), fail.clone()];
    let bot = TestBot::start(&[&[fail], &late]).await;
    let endpoint = format!("http://{}", bot.addr);
    let flags = ["--responder", "grpc", "--bot-endpoint", &endpoint, "--bot-token", "s3cr3t"];
    let process = Process::start(&[&flags[..], &["--log", "trace"]].concat()).await;
    let server = process.address();
    let mut client = Transport::Grpc.open(&server, &create(&server).await, None).await;
    for text in ["", "so far"] {
        assert_eq!(turn(&mut client, SAID).await, failed(text, "upstream_failed"));
    }
    process.signal("TERM").await;
    let log = process.ended().await.1.join("\n");
    let told = "Internal: bad credentials: … for …, who …: … is";
    assert_eq!(log.matches(told).count(), 2, "{log}");
    let log = log.to_lowercase();
    for secret in ["s3cr3t", "ada,", "canary"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn an_unavailable_bot_is_called_again_until_its_first_text() {
    let away = [Act::Fail(Status::unavailable("not yet"))];
    let well = [Act::Say("here"), Act::done()];
    let mut bot = TestBot::start(&[&away, &well, &away, &away, &well]).await;
    let server = gateway(grpc::Settings { retries: 1, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "one").await, complete("here"));
    let (first, second) = (bot.called().await.0, bot.called().await.0);
    assert_eq!(first, second, "the same reply under the same id");
    assert_eq!(turn(&mut client, "two").await, failed("", "upstream_unavailable"));
    assert_eq!(turn(&mut client, "three").await, complete("here"));
}

#[tokio::test]
async fn an_exhausted_bot_is_not_called_before_its_retry_delay() {
    let after = |wait| {
        let details = ErrorDetails::with_retry_info(Some(wait));
        Act::Fail(Status::with_error_details(Code::ResourceExhausted, "later", details))
    };
    let soon_again = [after(Duration::from_millis(1))];
    let too_late = [after(Duration::from_secs(3600))];
    let bare = [Act::Fail(Status::resource_exhausted("later"))];
    let well = [Act::Say("here"), Act::done()];
    let mut bot = TestBot::start(&[&soon_again, &well, &bare, &well, &too_late, &well]).await;
    let server = gateway(grpc::Settings { retries: 1, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "one").await, complete("here"));
    assert_eq!(turn(&mut client, "two").await, failed("", "upstream_rate_limited"));
    assert_eq!(turn(&mut client, "three").await, complete("here"));
    for _ in 0..4 {
        bot.called().await;
    }
    let refused = failed("", "upstream_rate_limited");
    assert_eq!(turn(&mut client, "four").await, refused, "the reply would be over by then");
    bot.called().await;
    let mut another = attached(&server, Transport::Json).await;
    assert_eq!(turn(&mut another, "five").await, refused);
    assert!(bot.is_idle(), "it asked to be left alone by all");
}

#[tokio::test]
async fn a_reply_that_would_be_over_before_the_bot_may_be_called_fails_at_once() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(30)));
    let later = Status::with_error_details(Code::ResourceExhausted, "later", details);
    let bot = TestBot::start(&[&[Act::Fail(later)]]).await;
    let total_timeout = Duration::from_secs(15);
    let server = gateway(grpc::Settings { total_timeout, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    for _ in 0..2 {
        assert_eq!(turn(&mut client, "go").await, failed("", "upstream_rate_limited"));
    }
}

#[tokio::test]
async fn the_usage_that_a_bot_reports_is_summed_up() {
    let tokens = |input_tokens, output_tokens, estimated| {
        let counts = proto::Usage { input_tokens, output_tokens, ..Default::default() };
        proto::Usage { estimated, ..counts }
    };
    let usage = |input_tokens, estimated| tokens(input_tokens, 5, estimated);
    let outcome = |usage| Act::Outcome(ReplyOutcome { usage: Some(usage), ..Default::default() });
    let (exact, rough) = ([outcome(usage(100, false))], [outcome(usage(7, true))]);
    let bot = TestBot::start(&[&exact, &rough, &[Act::Say("12345678"), Act::done()]]).await;
    let server = gateway(calls(bot.addr)).await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    let mut replies = Vec::new();
    for _ in 0..3 {
        client.say("1234", None).await.unwrap();
        replies.push(client.reply().await.1.usage.unwrap());
    }
    // Three messages of one token each, and the two empty replies between them.
    let own = tokens(3, 2, true);
    assert_eq!(replies, [usage(100, false), usage(7, true), own]);
    let request = proto::RefreshTokenRequest { token, ..Default::default() };
    let session = stub(&server).await.refresh_token(request).await.unwrap().into_inner();
    assert_eq!(session.usage, Some(tokens(110, 12, true)));
}

#[tokio::test]
async fn a_bot_that_panics_fails_its_reply_and_answers_the_next() {
    let bot = TestBot::start(&[
        &[Act::Say("so far"), Act::Gate, Act::Panic],
        &[Act::Say("well"), Act::done()],
    ])
    .await;
    let server = gateway(grpc::Settings { retries: 1, ..calls(bot.addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    client.delta().await;
    bot.gate.add_permits(1);
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Failed, "so far"));
    assert_eq!(turn(&mut client, "go").await, complete("well"));
}

/// A host that takes connections and shakes no hands: how many came.
pub(crate) async fn mute() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, came) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            held.push(stream);
        }
    });
    (addr, came)
}

/// How a gateway calls a bot over TLS.
pub(crate) fn calls_over_tls(addr: SocketAddr, pem: &str, folder: &Path) -> grpc::Settings {
    let endpoint = grpc::Endpoint::parse(&format!("https://localhost:{}", addr.port())).unwrap();
    let ca_cert = folder.join("ca.pem");
    std::fs::write(&ca_cert, pem).unwrap();
    grpc::Settings { endpoint, ca_cert: Some(ca_cert), ..calls(addr) }
}

#[tokio::test]
async fn reflection_does_not_list_the_responder_service() {
    let server = Setup::default().start().await;
    let channel = tonic::transport::Channel::from_shared(server.url("")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client = proto::responder_service_client::ResponderServiceClient::new(channel);
    let answer = client.respond(proto::RespondRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    let descriptors = String::from_utf8_lossy(proto::DESCRIPTORS);
    assert!(descriptors.contains("ChatService") && !descriptors.contains("ResponderService"));
}
