//! A model over TLS and HTTP/2, where replies share a connection and a stop must not end it.

use bytes::Bytes;
use duologue::responder::openai::{Endpoint, OpenAi, Settings, UpstreamSettings};
use h2::{
    Reason, SendStream,
    server::{Connection, SendResponse},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::server::TlsStream;

use crate::{
    support::{
        Attached, Authority, Clock, Running, Setup, Transport, create, piece_of,
        proto::MessageStatus,
        soon,
        upstream::{answer, delta},
    },
    upstream::failure,
};

/// Listens, and hands each request to the test with the number of its connection.
struct Upstream {
    port: u16,
    asked: mpsc::UnboundedReceiver<(usize, SendResponse<Bytes>)>,
    /// Tells every connection to take no more requests.
    away: tokio::sync::broadcast::Sender<()>,
}

impl Upstream {
    async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, asked) = mpsc::unbounded_channel();
        let (away, _) = tokio::sync::broadcast::channel(1);
        let (acceptor, leaving) = (authority.server(&[b"h2"]), away.clone());
        tokio::spawn(async move {
            for number in 1.. {
                let stream = listener.accept().await.unwrap().0;
                stream.set_nodelay(true).unwrap();
                // A client that does not trust the certificate goes away.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let connection = h2::server::handshake(stream).await.unwrap();
                tokio::spawn(serve(number, connection, requests.clone(), leaving.subscribe()));
            }
        });
        Self { port, asked, away }
    }

    /// The next request: its connection, and the stream for the answer.
    async fn asked(&mut self) -> (usize, SendStream<Bytes>) {
        let (connection, mut respond) = soon("a request", self.asked.recv()).await.unwrap();
        let head = http::Response::builder().header("content-type", "text/event-stream");
        let stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        (connection, stream)
    }
}

async fn serve(
    number: usize,
    mut connection: Connection<TlsStream<TcpStream>, Bytes>,
    requests: mpsc::UnboundedSender<(usize, SendResponse<Bytes>)>,
    mut away: tokio::sync::broadcast::Receiver<()>,
) {
    loop {
        tokio::select! {
            request = connection.accept() => match request {
                Some(Ok((_, respond))) => requests.send((number, respond)).unwrap(),
                Some(Err(_)) | None => return,
            },
            _ = away.recv() => connection.graceful_shutdown(),
        }
    }
}

fn send(stream: &mut SendStream<Bytes>, text: String, is_last: bool) {
    stream.send_data(text.into(), is_last).unwrap();
}

struct Conversation {
    upstream: Upstream,
    client: Attached,
    _server: Running,
}

/// A client of a gateway whose upstream has a trusted or an untrusted certificate.
async fn talk(is_trusted: bool) -> Conversation {
    talk_with(is_trusted, 0).await
}

async fn talk_with(is_trusted: bool, retries: u32) -> Conversation {
    let authority = Authority::new();
    let upstream = Upstream::start(&authority).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &authority.pem).unwrap();
    let endpoint = Endpoint::parse(&format!("https://localhost:{}", upstream.port)).unwrap();
    let mut settings = UpstreamSettings::new("one", endpoint);
    settings.ca_cert = is_trusted.then(|| file.path().to_owned());
    settings.defaults.retries = retries;
    let server = Setup::answering(OpenAi::new(&Settings::one(settings)).unwrap()).start().await;
    let token = create(&server).await;
    let client = Transport::Json.open(&server, &token, None).await;
    Conversation { upstream, client, _server: server }
}

#[tokio::test]
async fn a_stop_resets_its_stream_and_leaves_the_connection_to_the_others() {
    let Conversation { mut upstream, mut client, _server } = talk(true).await;
    client.say("one", None).await.unwrap();
    let (first, mut stream) = upstream.asked().await;
    send(&mut stream, delta("so far"), false);
    assert_eq!(piece_of(&client.delta().await), "so far");
    client.stop().await;
    let reset = soon("a reset", std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reset.unwrap(), Reason::CANCEL);
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Stopped, "so far"));

    client.say("two", None).await.unwrap();
    let (second, mut stream) = upstream.asked().await;
    assert_eq!(first, second, "another connection");
    send(&mut stream, answer("whole"), true);
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Complete, "whole"));
}

#[tokio::test]
async fn a_stream_that_is_reset_is_a_truncated_reply() {
    let Conversation { mut upstream, mut client, _server } = talk(true).await;
    client.say("one", None).await.unwrap();
    let (_, mut stream) = upstream.asked().await;
    send(&mut stream, delta("so far"), false);
    assert_eq!(piece_of(&client.delta().await), "so far");
    stream.send_reset(Reason::INTERNAL_ERROR);
    let reply = client.reply().await.1;
    assert_eq!((failure(&reply), reply.text.as_str()), ("upstream_truncated", "so far"));
}

#[tokio::test]
async fn a_server_that_goes_away_ends_what_it_began_and_is_connected_to_anew() {
    let Conversation { mut upstream, mut client, _server } = talk(true).await;
    client.say("one", None).await.unwrap();
    let (first, mut stream) = upstream.asked().await;
    send(&mut stream, delta("be"), false);
    assert_eq!(piece_of(&client.delta().await), "be");
    upstream.away.send(()).unwrap();
    send(&mut stream, answer("gun"), true);
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Complete, "begun"));
    client.say("two", None).await.unwrap();
    let (second, mut stream) = upstream.asked().await;
    assert_ne!(first, second);
    send(&mut stream, answer("again"), true);
    assert_eq!(client.reply().await.1.text, "again");
}

/// RFC 9113, section 8.7: it was not processed, and may be sent again.
#[tokio::test]
async fn a_request_that_was_refused_before_it_was_looked_at_is_made_again_at_once() {
    let Conversation { mut upstream, mut client, _server } = talk_with(true, 1).await;
    client.say("one", None).await.unwrap();
    let (_, mut stream) = upstream.asked().await;
    send(&mut stream, answer("a"), true);
    assert_eq!(client.reply().await.1.text, "a");
    let clock = Clock::hold();
    let began = tokio::time::Instant::now();
    client.say("two", None).await.unwrap();
    let (_, mut refused) = soon("a request", upstream.asked.recv()).await.unwrap();
    refused.send_reset(Reason::REFUSED_STREAM);
    let (_, mut stream) = upstream.asked().await;
    assert_eq!(began.elapsed(), std::time::Duration::ZERO, "no time had to pass");
    send(&mut stream, answer("b"), true);
    assert_eq!(client.reply().await.1.text, "b");
    drop(clock);
}

#[tokio::test]
async fn a_server_with_an_untrusted_certificate_gets_no_request() {
    let Conversation { mut upstream, mut client, _server } = talk(false).await;
    client.say("one", None).await.unwrap();
    assert_eq!(failure(&client.reply().await.1), "upstream_unavailable");
    assert!(upstream.asked.try_recv().is_err());
}

#[test]
fn a_file_of_authorities_that_holds_none_stops_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "none").unwrap();
    let endpoint = Endpoint::parse("https://localhost:1").unwrap();
    for (path, why) in [
        (file.path(), "it holds no certificate in PEM form"),
        ("/no/such/file".as_ref(), "No such file"),
    ] {
        let mut settings = UpstreamSettings::new("one", endpoint.clone());
        settings.ca_cert = Some(path.to_owned());
        let refused = OpenAi::new(&Settings::one(settings)).unwrap_err();
        let expected = format!("upstream `one`: ca_cert {}: {why}", path.display());
        assert!(refused.starts_with(&expected), "{refused}");
    }
}
