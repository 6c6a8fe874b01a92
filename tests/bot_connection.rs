//! The connection to a bot: lost, silent, refused, encrypted.

use std::{sync::atomic::Ordering, time::Duration};

use duologue::responder::grpc;

use crate::bot::{CA, attached, calls_over_tls, complete, failed, gateway, mute, turn};
use crate::support::{
    Act, Authority, LineState, Setup, TestBot, Transport, calls, line, proto::MessageStatus,
    tls_line,
};

#[tokio::test]
async fn a_line_that_is_cut_before_the_first_word_costs_nothing() {
    let mut bot = TestBot::start(&[&[Act::Hang], &[Act::Say("well"), Act::done()]]).await;
    let (addr, control) = line(bot.addr).await;
    let server = gateway(grpc::Settings { retries: 1, ..calls(addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    bot.called().await;
    control.send(LineState::Cut).unwrap();
    assert!(bot.let_go().await);
    control.send(LineState::Good).unwrap();
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Complete, "well"));
}

#[tokio::test]
async fn a_line_that_is_cut_fails_the_reply_with_what_came_and_the_next_goes_over_a_new_one() {
    let mut bot =
        TestBot::start(&[&[Act::Say("so far"), Act::Hang], &[Act::Say("well"), Act::done()]]).await;
    let (addr, control) = line(bot.addr).await;
    let server = gateway(grpc::Settings { retries: 1, ..calls(addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    client.delta().await;
    control.send(LineState::Cut).unwrap();
    let reply = client.reply().await.1;
    assert_eq!(
        (reply.status(), reply.text.as_str(), reply.failure.unwrap().code.as_str()),
        (MessageStatus::Failed, "so far", "upstream_truncated")
    );
    assert!(bot.let_go().await);
    control.send(LineState::Good).unwrap();
    assert_eq!(turn(&mut client, "go").await, complete("well"));
}

#[tokio::test]
async fn a_line_that_has_gone_silent_is_noticed_by_a_ping() {
    let bot = TestBot::start(&[&[Act::Say("so far"), Act::Hang]]).await;
    let (addr, control) = line(bot.addr).await;
    let keep_alive = Duration::from_millis(200);
    let server = gateway(grpc::Settings { keep_alive, ..calls(addr) }).await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    client.delta().await;
    let early = tokio::time::timeout(keep_alive * 5, client.next()).await;
    assert!(early.is_err(), "the bot answers its pings: {early:?}");
    control.send(LineState::Silent).unwrap();
    let reply = client.reply().await.1;
    assert_eq!(reply.failure.unwrap().code, "upstream_truncated");
}

#[tokio::test]
async fn the_gateway_does_not_wait_for_its_bot_and_finds_it_when_it_comes() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = gateway(calls(free)).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "one").await, failed("", "upstream_unavailable"));
    let _bot = TestBot::start_at(free, &[&[Act::Say("here"), Act::done()]]).await;
    assert_eq!(turn(&mut client, "two").await, complete("here"));
}

#[tokio::test]
async fn what_is_no_bot_is_not_taken_for_one() {
    // The gateway itself serves gRPC, and no bot.
    let other = Setup::default().start().await;
    let server = gateway(calls(other.addr)).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "go").await, failed("", "upstream_rejected"));

    // Accepts connections and sends nothing.
    let folder = tempfile::tempdir().unwrap();
    let settings = calls_over_tls(mute().await.0, CA, folder.path());
    let settings = grpc::Settings { connect_timeout: Duration::from_millis(200), ..settings };
    let server = gateway(settings).await;
    let mut client = attached(&server, Transport::Grpc).await;
    assert_eq!(turn(&mut client, "go").await, failed("", "upstream_connect_timeout"));
}

#[tokio::test]
async fn replies_that_wait_for_the_same_connection_fail_together() {
    let (addr, came) = mute().await;
    let folder = tempfile::tempdir().unwrap();
    let connect_timeout = Duration::from_secs(1);
    let settings = grpc::Settings {
        connect_timeout,
        first_content_timeout: connect_timeout * 2,
        ..calls_over_tls(addr, CA, folder.path())
    };
    let server = gateway(settings).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(attached(&server, Transport::Grpc).await);
    }
    for client in &mut clients {
        client.say("go", None).await.unwrap();
    }
    for client in &mut clients {
        let reply = client.reply().await.1;
        assert_eq!(reply.failure.unwrap().code, "upstream_connect_timeout");
    }
    let attempts = came.load(Ordering::Relaxed);
    assert!(attempts <= 2, "{attempts} attempts to connect");
}

#[tokio::test]
async fn a_bot_is_called_over_tls_where_its_authority_is_known_and_it_speaks_http2() {
    let bot = TestBot::start(&[&[Act::Say("safe"), Act::done()]]).await;
    let (own, foreign) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let unavailable = || failed("", "upstream_unavailable");
    for (trusted, protocols, answer) in [
        (&own, &[b"h2".as_slice()][..], complete("safe")),
        (&own, &[b"http/1.1"], unavailable()),
        (&own, &[], unavailable()),
        (&foreign, &[b"h2"], unavailable()),
    ] {
        let addr = tls_line(bot.addr, own.server(protocols)).await;
        let settings = calls_over_tls(addr, &trusted.pem, folder.path());
        let server = gateway(settings).await;
        let mut client = attached(&server, Transport::Grpc).await;
        assert_eq!(turn(&mut client, "go").await, answer, "{protocols:?}");
    }
}

#[tokio::test]
async fn a_file_of_authorities_that_is_none_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let endpoint = grpc::Endpoint::parse("https://127.0.0.1:1").unwrap();
    let settings = grpc::Settings { ca_cert: Some(path.clone()), ..grpc::Settings::new(endpoint) };
    let broken = CA.replace("MIIB", "AAAA");
    for content in [None, Some(""), Some("a letter"), Some(broken.as_str())] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let refused = grpc::Bot::new(settings.clone()).unwrap_err();
        assert!(refused.contains(path.to_str().unwrap()), "{content:?}: {refused}");
    }
    std::fs::write(&path, CA).unwrap();
    assert!(grpc::Bot::new(settings).is_ok());
}
