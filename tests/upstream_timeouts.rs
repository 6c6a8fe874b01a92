//! Each kind of silence of an upstream ends in its own failure, and no sooner.

use std::time::Duration;

use duologue::responder::openai::{Endpoint, UpstreamSettings};
use tokio::time::Instant;

use crate::{
    support::{
        Attached, Clock, Running, Setup, Transport, create,
        upstream::{Asked, CHUNKED, DONE, HEAD, Upstream, delta, finish, responder_with},
    },
    upstream::failure,
};

const CONNECT: Duration = Duration::from_secs(3);
const FIRST_CONTENT: Duration = Duration::from_secs(5);
const CHUNK: Duration = Duration::from_secs(2);
const TOTAL: Duration = Duration::from_secs(9);

const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n";
const CALL: &str = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"1\"}}]}}]}\n\n";
const THOUGHT: &str = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm\"}}]}\n\n";

struct Conversation {
    clock: Clock,
    client: Attached,
    _server: Running,
}

impl Conversation {
    async fn with(mut upstream: UpstreamSettings) -> Self {
        upstream.defaults.connect_timeout = CONNECT;
        upstream.defaults.first_content_timeout = FIRST_CONTENT;
        upstream.defaults.chunk_timeout = CHUNK;
        upstream.defaults.retries = 0;
        let responder = responder_with(vec![upstream], |all| all.total_timeout = TOTAL);
        let server = Setup::answering(responder).start().await;
        let clock = Clock::hold();
        let mut client = Transport::Json.open(&server, &create(&server).await, None).await;
        client.say("Hi", None).await.unwrap();
        Self { clock, client, _server: server }
    }

    /// Returns the end of the reply and its time if the upstream writes this each second.
    async fn end(&mut self, mut asked: Asked, each_second: &str) -> (String, String, Duration) {
        let began = Instant::now();
        let saying = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if !each_second.is_empty() && !asked.try_write(each_second).await {
                    std::future::pending::<()>().await;
                }
            }
        };
        let reply = tokio::select! {
            reply = self.clock.until(self.client.reply()) => reply.1,
            () = saying => unreachable!("it speaks for ever"),
        };
        (failure(&reply).to_owned(), reply.text, began.elapsed())
    }
}

/// The clock goes in steps; nothing is exact to less than this.
const STEP: Duration = Duration::from_millis(500);

#[tokio::test]
async fn silence_ends_a_reply_in_each_phase_with_its_own_failure() {
    let (a, end) = (delta("a"), finish("stop"));
    for (before, each_second, code, text, after) in [
        // Nothing at all, and half a head.
        ("", "", "upstream_first_content_timeout", "", FIRST_CONTENT),
        ("HTTP/1.1 200 OK\r\ncontent-", "", "upstream_first_content_timeout", "", FIRST_CONTENT),
        // A head and then silence; signs of life that are no text.
        (HEAD, "", "upstream_chunk_timeout", "", CHUNK),
        (&format!("{HEAD}{ROLE}"), "", "upstream_chunk_timeout", "", CHUNK),
        (HEAD, ": wait\n\n", "upstream_first_content_timeout", "", FIRST_CONTENT),
        (HEAD, ROLE, "upstream_first_content_timeout", "", FIRST_CONTENT),
        // Reasoning is content.
        (HEAD, THOUGHT, "upstream_total_timeout", "", TOTAL),
        (&format!("{HEAD}{THOUGHT}"), "", "upstream_chunk_timeout", "", CHUNK),
        (&format!("{HEAD}{THOUGHT}"), ": wait\n\n", "upstream_chunk_timeout", "", CHUNK),
        (&format!("{HEAD}{THOUGHT}"), CALL, "upstream_total_timeout", "", TOTAL),
        // After text only more of the answer counts.
        (&format!("{HEAD}{a}"), "", "upstream_chunk_timeout", "a", CHUNK),
        (&format!("{HEAD}{a}"), ": wait\n\n", "upstream_chunk_timeout", "a", CHUNK),
        (&format!("{HEAD}{a}"), ROLE, "upstream_chunk_timeout", "a", CHUNK),
        (&format!("{HEAD}{a}"), THOUGHT, "upstream_total_timeout", "a", TOTAL),
        (&format!("{HEAD}{a}"), &delta("b"), "upstream_total_timeout", "abbbbbbbb", TOTAL),
        // The reply is complete.
        (&format!("{HEAD}{a}{end}"), "", "", "a", CHUNK),
        (&format!("{HEAD}{a}{end}"), ": wait\n\n", "", "a", CHUNK),
        // A body of an error that does not come.
        ("HTTP/1.1 500 Oops\r\ncontent-length: 9\r\n\r\n", "", "upstream_unavailable", "", CHUNK),
    ] {
        let mut upstream = Upstream::start().await;
        let mut talk = Conversation::with(upstream.settings("one")).await;
        let mut asked = upstream.asked().await;
        asked.write(before).await;
        let (told, said, elapsed) = talk.end(asked, each_second).await;
        let case = format!("{before} then {each_second}");
        assert_eq!((told.as_str(), said.as_str()), (code, text), "{case}");
        assert!(elapsed + STEP > after && elapsed < after + STEP, "{elapsed:?}: {case}");
    }
}

#[tokio::test]
async fn an_answer_that_goes_on_may_take_its_time() {
    let mut upstream = Upstream::start().await;
    let mut talk = Conversation::with(upstream.settings("one")).await;
    let mut asked = upstream.asked().await;
    asked.write(CHUNKED).await;
    for sign in [": wait\n\n", ROLE, &delta("a"), THOUGHT, &delta("b")] {
        talk.clock.pass(CHUNK - STEP).await;
        asked.chunk(sign).await;
        talk.clock.rest().await;
    }
    asked.chunk(&[&finish("stop"), DONE].concat()).await;
    let reply = talk.client.reply().await.1;
    // Two text parts with reasoning between.
    assert_eq!((failure(&reply), reply.text.as_str()), ("", "a\n\nb"));
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_has_its_own_timeout() {
    // A full accept queue takes no further connection.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(addr).unwrap();
    let endpoint = Endpoint::parse(&format!("http://{addr}")).unwrap();
    let mut talk = Conversation::with(UpstreamSettings::new("full", endpoint)).await;
    let began = Instant::now();
    let reply = talk.clock.until(talk.client.reply()).await.1;
    assert_eq!(failure(&reply), "upstream_connect_timeout");
    assert!(began.elapsed() + STEP > CONNECT);
}

/// Open WebUI and some proxies send `finish_reason: "stop"` with the first, empty chunk.
#[tokio::test]
async fn a_finish_reason_before_any_text_does_not_end_the_reply() {
    let mut upstream = Upstream::start().await;
    let mut talk = Conversation::with(upstream.settings("one")).await;
    let mut asked = upstream.asked().await;
    asked.write(format!("{HEAD}{}", finish("stop"))).await;
    talk.clock.pass(Duration::from_millis(2500)).await;
    asked.write(format!("{}{}{DONE}", delta("late"), finish("stop"))).await;
    let reply = talk.clock.until(talk.client.reply()).await.1;
    assert_eq!((reply.text.as_str(), failure(&reply)), ("late", ""));
    drop(talk);

    // Without any text, the time for it ends the reply.
    let mut talk = Conversation::with(upstream.settings("one")).await;
    let mut asked = upstream.asked().await;
    asked.write(format!("{HEAD}{}", finish("stop"))).await;
    let (code, text, after) = talk.end(asked, "").await;
    assert_eq!((code.as_str(), text.as_str()), ("", ""));
    assert!(after >= FIRST_CONTENT - Duration::from_secs(1), "{after:?}");
}
