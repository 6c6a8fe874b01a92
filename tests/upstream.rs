//! What a model's server says, in whichever bytes, and what becomes of it.

use duologue::responder::openai::UpstreamSettings;
use secrecy::SecretString;
use serde_json::json;

use crate::support::{
    Attached, Event, Rest, Running, Setup, Transport, create,
    proto::{self, MessageStatus},
    upstream::{
        self, CHUNKED, DONE, HEAD, Upstream, answer, delta, finish, refusal, responder, usage,
    },
};

/// A gateway before one upstream, and somebody who talks to it.
pub struct Talk {
    pub upstream: Upstream,
    pub server: Running,
    pub client: Attached,
}

impl Talk {
    pub async fn start() -> Self {
        Self::through(Transport::Json, |_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut UpstreamSettings)) -> Self {
        Self::through(Transport::Json, change).await
    }

    async fn through(transport: Transport, change: impl FnOnce(&mut UpstreamSettings)) -> Self {
        let upstream = Upstream::start().await;
        let mut settings = upstream.settings("one");
        settings.defaults.retries = 0;
        change(&mut settings);
        let server = Setup::answering(responder(vec![settings])).start().await;
        let token = create(&server).await;
        let client = transport.open(&server, &token, None).await;
        Self { upstream, server, client }
    }

    /// The reply to a message, for which the upstream writes these bytes.
    pub async fn hear(&mut self, bytes: impl AsRef<str>) -> proto::Message {
        self.client.say("Hi", None).await.unwrap();
        self.upstream.asked().await.answer(bytes.as_ref()).await;
        self.client.reply().await.1
    }
}

pub fn failure(reply: &proto::Message) -> &str {
    reply.failure.as_ref().map_or("", |failure| failure.code.as_str())
}

/// How most answers begin.
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";

/// The text `a` in another place than `delta.content`.
fn in_place(name: &str) -> String {
    let choice = match name {
        "text" => json!({"index": 0, "text": "a"}),
        name => json!({"index": 0, "delta": {}, name: {"role": "assistant", "content": "a"}}),
    };
    format!("data: {}\n\n", json!({"choices": [choice]}))
}

/// Every ending, as (what the upstream writes, status, failure, text, finish_reason).
fn endings() -> Vec<(String, MessageStatus, &'static str, &'static str, &'static str)> {
    use MessageStatus::{Complete, Failed};
    let error = "data: {\"error\":{\"message\":\"secret words\",\"type\":\"server_error\",\"code\":null}}\n\n";
    let a = delta("a");
    vec![
        (
            format!("{HEAD}{ROLE}{a}{}{}{DONE}", finish("stop"), usage(3, 2)),
            Complete,
            "",
            "a",
            "stop",
        ),
        (format!("{HEAD}{a}{}{DONE}", finish("length")), Complete, "", "a", "length"),
        (
            format!("{HEAD}{a}{}{DONE}", finish("content_filter")),
            Complete,
            "",
            "a",
            "content_filter",
        ),
        (format!("{HEAD}{a}{}{DONE}", finish("as_it_came")), Complete, "", "a", "as_it_came"),
        (format!("{HEAD}{a}{}", finish("stop")), Complete, "", "a", "stop"),
        (format!("{HEAD}{}{DONE}", finish("stop")), Complete, "", "", "stop"),
        (format!("{HEAD}{a}{}", finish("stop").trim_end()), Complete, "", "a", "stop"),
        (format!("{HEAD}{a}{DONE}"), Failed, "upstream_truncated", "a", ""),
        (format!("{HEAD}{a}"), Failed, "upstream_truncated", "a", ""),
        (format!("{HEAD}{a}data: {{\"choices\":[{{\"del"), Failed, "upstream_truncated", "a", ""),
        // A reason before the last text: not to be trusted unless the end comes in good order.
        (format!("{HEAD}{}{a}", finish("stop")), Failed, "upstream_truncated", "a", ""),
        (format!("{HEAD}{}{a}{DONE}", finish("stop")), Complete, "", "a", "stop"),
        // Something for nothing in the place of a reason.
        (format!("{HEAD}{a}").replace("null", "\"null\""), Failed, "upstream_truncated", "a", ""),
        (format!("{HEAD}{a}").replace("null", "false"), Failed, "upstream_truncated", "a", ""),
        // What comes after the reason is not worth the reply.
        (format!("{HEAD}{a}{}data: {{\"choi", finish("stop")), Complete, "", "a", "stop"),
        (format!("{HEAD}{a}{}data: secret words\n\n", finish("stop")), Complete, "", "a", "stop"),
        // Another answer to the same question.
        (
            format!("{HEAD}{a}{}", (delta("b") + &finish("stop")).replace("x\":0", "x\":1")),
            Failed,
            "upstream_truncated",
            "a",
            "",
        ),
        (
            format!("{HEAD}{a}{}", finish(&format!("odd\n{}", "y".repeat(99)))),
            Complete,
            "",
            "a",
            "oddyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        ),
        (
            HEAD.replace("event-stream", "html") + "<html>secret words</html>",
            Failed,
            "upstream_protocol",
            "",
            "",
        ),
        (
            HEAD.replace("connection", "content-encoding: gzip\r\nconnection") + "\u{1f}",
            Failed,
            "upstream_protocol",
            "",
            "",
        ),
        (HEAD.into(), Failed, "upstream_truncated", "", ""),
        (format!("{HEAD}: nothing but comments\n\n: \n\n"), Failed, "upstream_truncated", "", ""),
        (format!("{HEAD}{DONE}"), Failed, "upstream_truncated", "", ""),
        (format!("{HEAD}{a}{error}{DONE}"), Failed, "upstream_failed", "a", ""),
        (
            format!("{HEAD}{a}{}{error}{DONE}", finish("stop")),
            Failed,
            "upstream_failed",
            "a",
            "stop",
        ),
        (format!("{HEAD}{error}{DONE}"), Failed, "upstream_failed", "", ""),
        (
            format!("{HEAD}{a}event: error\ndata: secret words\n\n"),
            Failed,
            "upstream_failed",
            "a",
            "",
        ),
        (format!("{HEAD}{a}data: secret words\n\n"), Failed, "upstream_truncated", "a", ""),
        (format!("{HEAD}{a}data: {{secret words}}\n\n"), Failed, "upstream_protocol", "a", ""),
        // Reasons that mean failure, and errors inside a choice.
        (format!("{HEAD}{a}{}{DONE}", finish("abort")), Failed, "upstream_failed", "a", ""),
        (format!("{HEAD}{}{DONE}", finish("error")), Failed, "upstream_failed", "", ""),
        (
            format!(
                "{HEAD}{a}data: {{\"choices\":[{{\"delta\":{{}},\"error\":{{\"message\":\"secret words\"}}}}]}}\n\n{DONE}"
            ),
            Failed,
            "upstream_failed",
            "a",
            "",
        ),
        // The text in another place. Where it is repeated, it counts once.
        (
            format!("{HEAD}{}{}{DONE}", in_place("message"), finish("stop")),
            Complete,
            "",
            "a",
            "stop",
        ),
        (format!("{HEAD}{}{}{DONE}", in_place("text"), finish("stop")), Complete, "", "a", "stop"),
        (
            format!("{HEAD}{a}{}{}{DONE}", in_place("message"), finish("stop")),
            Complete,
            "",
            "a",
            "stop",
        ),
        // A reply without text is complete only if nothing was ignored.
        (
            format!(
                "{HEAD}data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":0}}]}}}}]}}\n\n{}{DONE}",
                finish("tool_calls")
            ),
            Failed,
            "upstream_protocol",
            "",
            "",
        ),
        (
            format!("{HEAD}data: {{\"response\":\"a\"}}\n\n{}{DONE}", finish("stop")),
            Failed,
            "upstream_protocol",
            "",
            "",
        ),
        // Events that are no objects.
        (
            format!("{HEAD}data: null\n\n{a}data: ping\n\n{}{DONE}", finish("stop")),
            Complete,
            "",
            "a",
            "stop",
        ),
        // A repeated name: the last value counts.
        (
            format!(
                "{HEAD}{}{}{DONE}",
                a.replace("\"content\"", "\"content\":\"x\",\"content\""),
                finish("stop")
            ),
            Complete,
            "",
            "a",
            "stop",
        ),
        // The only choice counts, whatever its index.
        (
            format!("{HEAD}{}{DONE}", (a.clone() + &finish("stop")).replace("x\":0", "x\":1")),
            Complete,
            "",
            "a",
            "stop",
        ),
        // Any status of success, under any type, streamed or not.
        (
            format!(
                "{}{a}{}{DONE}",
                HEAD.replace("text/event-stream", "application/json"),
                finish("stop")
            ),
            Complete,
            "",
            "a",
            "stop",
        ),
        (
            format!("{}{a}{}{DONE}", HEAD.replace("200 OK", "201 Created"), finish("stop")),
            Complete,
            "",
            "a",
            "stop",
        ),
        (
            refusal(
                "200 OK",
                "",
                "\n{\"choices\":[{\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\n\"usage\":{\"prompt_tokens\":19.0,\"completion_tokens\":2.0,\"total_tokens\":21.0}}",
            ),
            Complete,
            "",
            "a",
            "stop",
        ),
        (
            refusal("200 OK", "", "{\"error\":{\"message\":\"secret words\"}}"),
            Failed,
            "upstream_failed",
            "",
            "",
        ),
        (refusal("200 OK", "", "{\"choices\":[]}"), Failed, "upstream_truncated", "", ""),
        (refusal("200 OK", "", "{\"models\":[]}"), Failed, "upstream_protocol", "", ""),
        (
            refusal("401 Unauthorized", "", "{\"error\":{\"message\":\"secret words\"}}"),
            Failed,
            "upstream_auth",
            "",
            "",
        ),
        (refusal("400 Bad Request", "", "secret words"), Failed, "upstream_rejected", "", ""),
        (
            refusal("404 Not Found", "", "{\"error\":\"secret words\"}"),
            Failed,
            "upstream_rejected",
            "",
            "",
        ),
        (
            refusal("302 Found", "location: http://127.0.0.1:1/\r\n", ""),
            Failed,
            "upstream_rejected",
            "",
            "",
        ),
        (
            refusal("307 Temporary Redirect", "location: /elsewhere\r\n", ""),
            Failed,
            "upstream_rejected",
            "",
            "",
        ),
        (
            refusal("503 Service Unavailable", "", "{\"detail\":\"secret words\"}"),
            Failed,
            "upstream_unavailable",
            "",
            "",
        ),
        (
            refusal("500 Internal Server Error", "", &"secret words".repeat(99_999)),
            Failed,
            "upstream_unavailable",
            "",
            "",
        ),
        (
            refusal("429 Too Many Requests", "", "{\"error\":{\"code\":\"rate_limit_exceeded\"}}"),
            Failed,
            "upstream_rate_limited",
            "",
            "",
        ),
        (
            refusal("429 Too Many Requests", "", "{\"error\":{\"code\":\"insufficient_quota\"}}"),
            Failed,
            "upstream_quota",
            "",
            "",
        ),
        (
            refusal("400 Bad Request", "", "{\"error\":{\"code\":\"context_length_exceeded\"}}"),
            Failed,
            "context_too_long",
            "",
            "",
        ),
        ("NONSENSE\r\n\r\n".into(), Failed, "upstream_unavailable", "", ""),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
                .to_owned()
                + &a,
            Failed,
            "upstream_truncated",
            "a",
            "",
        ),
    ]
}

#[tokio::test]
async fn every_ending_is_told_as_what_it_is_and_nothing_of_the_upstream_with_it() {
    for transport in Transport::ALL {
        let mut talk = Talk::through(transport, |_| {}).await;
        for (bytes, status, code, text, reason) in endings() {
            // Without a history, of which something could be left out.
            let token = create(&talk.server).await;
            talk.client = transport.open(&talk.server, &token, None).await;
            let reply = talk.hear(&bytes).await;
            let shown = &bytes[..bytes.len().min(300)];
            assert_eq!((reply.status(), failure(&reply)), (status, code), "{transport:?}: {shown}");
            assert_eq!(reply.text, text, "{shown}");
            assert_eq!(reply.finish_reason.as_deref().unwrap_or_default(), reason, "{shown}");
            let usage = reply.usage.expect("each reply says what it cost");
            assert_eq!(usage.estimated, !bytes.contains("total_tokens"), "{shown}");
            let told = format!("{reply:?}");
            for secret in ["secret", "127.0.0.1", &talk.upstream.addr.port().to_string()] {
                assert!(!told.contains(secret), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn the_log_of_rest_says_why_a_reply_failed_and_what_it_cost() {
    let mut talk = Talk::start().await;
    let token = create(&talk.server).await;
    talk.client = Transport::Json.open(&talk.server, &token, None).await;
    talk.hear(format!("{HEAD}{}{}{}", delta("so far"), usage(3, 2), DONE)).await;
    let log = Rest::call(&talk.server, "POST", &format!("/refresh_token?token={token}")).await;
    let log = log.json();
    assert_eq!(log["messages"][0].get("failure"), None);
    let reply = &log["messages"][1];
    let failure = json!({"code": "upstream_truncated", "message": "The reply ended too early"});
    let usage = json!({"input_tokens": 3, "output_tokens": 2, "estimated": false});
    assert_eq!((&reply["failure"], &reply["usage"]), (&failure, &usage), "{reply}");
    assert_eq!((&reply["status"], &reply["msg"]), (&json!("failed"), &json!("so far")));
}

#[tokio::test]
async fn text_is_the_same_wherever_its_bytes_are_cut_and_however_lines_end() {
    let text = "é日🦀\n\"x\"";
    for end in ["\n", "\r\n", "\r"] {
        let data = answer(text).replace('\n', end);
        let body = format!(": hello{end}{end}{data}");
        let mut talk = Talk::start().await;
        for at in 0..=body.len() {
            talk.client.say("Hi", None).await.unwrap();
            let mut asked = talk.upstream.asked().await;
            let (one, two) = body.as_bytes().split_at(at);
            asked.write(HEAD).await;
            asked.write(one).await;
            // Let the first part travel by itself.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            asked.write(two).await;
            drop(asked);
            let reply = talk.client.reply().await.1;
            assert_eq!((reply.text.as_str(), failure(&reply)), (text, ""), "{end:?} cut at {at}");
        }
    }
}

#[tokio::test]
async fn what_the_standard_of_events_allows_is_understood() {
    let mut talk = Talk::start().await;
    let no_space = answer("a").replace("data: ", "data:");
    let multi_line = "data: {\"choices\":[{\"delta\":\ndata: {\"content\":\"a\"},\ndata: \"finish_reason\":\"stop\"}]}\n\n";
    let other_fields = format!("id: 1\nretry: 5\nevent: message\n{}", answer("a"));
    for body in [no_space, multi_line.into(), other_fields] {
        let reply = talk.hear(format!("{HEAD}{body}")).await;
        assert_eq!((reply.text.as_str(), failure(&reply)), ("a", ""), "{body}");
    }
}

#[tokio::test]
async fn what_a_model_thinks_is_no_part_of_its_answer() {
    let mut talk = Talk::start().await;
    for name in ["reasoning_content", "reasoning"] {
        let thought = json!({"choices": [{"delta": {name: "Hm, let me think"}}]});
        let reply = talk.hear(format!("{HEAD}data: {thought}\n\n{}", answer("a"))).await;
        assert_eq!((reply.text.as_str(), failure(&reply)), ("a", ""));
    }
}

#[tokio::test]
async fn usage_is_exact_where_the_upstream_says_it() {
    let mut talk = Talk::start().await;
    for told in [
        format!("{}{}{DONE}", finish("stop"), usage(31, 7)),
        // In the last piece, or in each, growing.
        format!("{}{}{}{DONE}", usage(31, 1), finish("stop"), usage(31, 7)),
    ] {
        let reply = talk.hear(format!("{HEAD}{}{told}", delta("a"))).await;
        let exact = proto::Usage { input_tokens: 31, output_tokens: 7, estimated: false };
        assert_eq!(reply.usage, Some(exact));
    }
}

#[tokio::test]
async fn a_line_that_never_ends_is_cut_off() {
    let mut talk = Talk::start().await;
    talk.client.say("Hi", None).await.unwrap();
    let mut asked = talk.upstream.asked().await;
    asked.write(format!("{HEAD}{}data: ", delta("a"))).await;
    let reply = tokio::select! {
        (_, reply) = talk.client.reply() => reply,
        () = asked.flood(&[b'x'; 1 << 16]) => unreachable!("it floods for ever"),
    };
    assert_eq!((reply.text.as_str(), failure(&reply)), ("a", "upstream_protocol"));
    asked.let_go().await;
}

#[tokio::test]
async fn a_reset_at_any_moment_ends_the_reply() {
    let mut talk = Talk::start().await;
    for (bytes, code, text) in [
        (String::new(), "upstream_unavailable", ""),
        ("HTTP/1.1 200 OK\r\ncontent-ty".into(), "upstream_unavailable", ""),
        (CHUNKED.into(), "upstream_truncated", ""),
        (format!("{CHUNKED}3\r\n: x"), "upstream_truncated", ""),
    ] {
        talk.client.say("Hi", None).await.unwrap();
        let mut asked = talk.upstream.asked().await;
        asked.write(&bytes).await;
        asked.reset();
        let reply = talk.client.reply().await.1;
        assert_eq!((failure(&reply), reply.text.as_str()), (code, text), "{bytes}");
    }
    // After text, once it has been seen: a reset may overtake what was sent before.
    let (more, end) = (delta("a"), finish("stop"));
    for (chunk, code) in [
        (more.clone(), "upstream_truncated"),
        (format!("{more}{end}"), ""),
        (format!("{end}{more}"), "upstream_truncated"),
    ] {
        talk.client.say("Hi", None).await.unwrap();
        let mut asked = talk.upstream.asked().await;
        asked.write(CHUNKED).await;
        asked.chunk(&chunk).await;
        assert_eq!(talk.client.delta().await.text, "a");
        asked.reset();
        let reply = talk.client.reply().await.1;
        assert_eq!((failure(&reply), reply.text.as_str()), (code, "a"));
    }
}

#[tokio::test]
async fn a_missing_reason_is_accepted_where_the_operator_says_so() {
    let accept = |one: &mut UpstreamSettings| one.defaults.accept_missing_finish_reason = true;
    for (body, code) in [
        (format!("{}{DONE}", delta("a")), ""),
        (delta("a"), "upstream_truncated"),
        (DONE.into(), "upstream_truncated"),
    ] {
        let reply = Talk::with(accept).await.hear(format!("{HEAD}{body}")).await;
        assert_eq!((failure(&reply), reply.finish_reason.as_deref()), (code, None), "{body}");
    }
}

#[tokio::test]
async fn a_request_is_what_was_configured_and_carries_nothing_of_the_session() {
    let mut talk = Talk::with(|one| {
        one.api_key = Some(SecretString::from("sk-canary"));
        one.model = Some("large".into());
        one.defaults.temperature = Some(0.3);
        one.defaults.max_tokens = Some(99);
        one.headers.insert("x-title", "Chat".parse().unwrap());
        one.body.insert("top_p".into(), json!(0.5));
        one.body.insert("stream_options".into(), json!(null));
    })
    .await;
    talk.client.say("Hi", Some("m1")).await.unwrap();
    let asked = talk.upstream.asked().await;
    assert_eq!(asked.line, "POST /v1/chat/completions HTTP/1.1");
    let body = json!({
        "messages": [{"role": "user", "content": "Hi"}],
        "model": "large", "stream": true, "temperature": 0.3, "max_tokens": 99, "top_p": 0.5,
    });
    assert_eq!(asked.body, body);
    assert_eq!(asked.headers["authorization"], "Bearer sk-canary");
    let mut names: Vec<_> = asked.headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-title",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let mut talk = Talk::start().await;
    let body = answer("a");
    let whole = format!("{CHUNKED}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let (again, mut requests) = tokio::sync::mpsc::unbounded_channel();
    talk.client.say("Hi", None).await.unwrap();
    let asked = talk.upstream.asked().await;
    tokio::spawn(asked.serve(whole, again));
    assert_eq!(talk.client.reply().await.1.text, "a");
    talk.client.say("Hi", None).await.unwrap();
    assert_eq!(talk.client.reply().await.1.text, "a");
    assert!(requests.recv().await.is_some() && talk.upstream.is_idle());
}

#[tokio::test]
async fn the_model_reads_the_conversation_and_no_empty_reply() {
    let mut talk = Talk::start().await;
    talk.client.say("one", None).await.unwrap();
    talk.upstream.asked().await.answer(&format!("{HEAD}{}", answer("eins"))).await;
    talk.client.reply().await;
    // It fails without a text: left out. It fails within the text: told.
    for (question, said) in [("two", ""), ("three", "drei, a")] {
        talk.client.say(question, None).await.unwrap();
        let body = if said.is_empty() { ROLE.into() } else { delta(said) };
        talk.upstream.asked().await.answer(&format!("{HEAD}{body}")).await;
        assert_eq!(talk.client.reply().await.1.status(), MessageStatus::Failed);
    }
    talk.client.say("four", None).await.unwrap();
    let asked = talk.upstream.asked().await;
    assert_eq!(
        asked.conversation().join(" | "),
        "user: one | assistant: eins | user: three | assistant: drei, a | user: four"
    );
}

#[tokio::test]
async fn messages_that_waited_are_told_with_the_replies_to_those_before_them() {
    let mut talk = Talk::start().await;
    for text in ["one", "two", "three"] {
        talk.client.say(text, None).await.unwrap();
    }
    for (reply, told) in [
        ("eins", "user: one"),
        ("zwei", "user: one | assistant: eins | user: two"),
        ("drei", "user: one | assistant: eins | user: two | assistant: zwei | user: three"),
    ] {
        let asked = talk.upstream.asked().await;
        assert_eq!(asked.conversation().join(" | "), told);
        asked.answer(&format!("{HEAD}{}", answer(reply))).await;
        assert_eq!(talk.client.reply().await.1.text, reply);
    }
}

#[tokio::test]
async fn a_long_conversation_is_trimmed_and_that_is_told() {
    let mut upstream = Upstream::start().await;
    let responder = upstream::responder_with(vec![upstream.settings("one")], |settings| {
        settings.system_prompt = Some("Talk to {name}.".into());
        settings.context_tokens = 60;
    });
    let server = Setup::answering(responder).start().await;
    let mut client = Transport::Grpc.open(&server, &create(&server).await, None).await;
    let mut told = Vec::new();
    for n in 0..4 {
        client.say(&format!("question {n}"), None).await.unwrap();
        let asked = upstream.asked().await;
        told.push(asked.conversation().join(" "));
        asked.answer(&format!("{HEAD}{}", answer(&format!("answer {n}")))).await;
        let (events, _) = client.reply().await;
        assert_eq!(trimmed(&events), [n == 3], "{n}");
    }
    assert_eq!(told[0], "system: Talk to Ada. user: question 0");
    assert_eq!(
        told[3],
        "system: Talk to Ada. user: question 1 assistant: answer 1 user: question 2 \
         assistant: answer 2 user: question 3"
    );
}

/// The reply alone is larger than what the responder wants to see.
#[tokio::test]
async fn a_conversation_that_is_left_out_as_a_whole_is_told_as_trimmed() {
    let mut upstream = Upstream::start().await;
    let responder = upstream::responder_with(vec![upstream.settings("one")], |settings| {
        settings.context_tokens = 60;
    });
    let server = Setup::answering(responder).start().await;
    let mut client = Transport::Json.open(&server, &create(&server).await, None).await;
    for (n, reply) in ["long ".repeat(99), "short".into()].into_iter().enumerate() {
        client.say("Hi", None).await.unwrap();
        let asked = upstream.asked().await;
        assert_eq!(asked.conversation(), ["user: Hi"]);
        asked.answer(&format!("{HEAD}{}", answer(&reply))).await;
        assert_eq!(trimmed(&client.reply().await.0), [n > 0]);
    }
}

fn trimmed(events: &[Event]) -> Vec<bool> {
    let started = events.iter().filter_map(|event| match event {
        Event::ReplyStarted(started) => Some(started.context_trimmed),
        _ => None,
    });
    started.collect()
}

#[tokio::test]
async fn a_context_that_the_upstream_refuses_is_trimmed_once_more_and_tried_once() {
    let refused = "{\"error\":{\"code\":400,\"message\":\"request (99 tokens) exceeds the available context size (9 tokens)\",\"type\":\"exceed_context_size_error\"}}";
    let refused = refusal("400 Bad Request", "", refused);
    // An empty answer may mean the same.
    for refused in [refused, HEAD.to_owned()] {
        let mut talk = Talk::start().await;
        for text in ["one", "two"] {
            talk.client.say(text, None).await.unwrap();
            talk.upstream.asked().await.answer(&format!("{HEAD}{}", answer("a"))).await;
            talk.client.reply().await;
        }
        talk.client.say("three", None).await.unwrap();
        let asked = talk.upstream.asked().await;
        assert_eq!(asked.conversation().len(), 5);
        asked.answer(&refused).await;
        let asked = talk.upstream.asked().await;
        assert_eq!(asked.conversation(), ["user: two", "assistant: a", "user: three"]);
        asked.answer(&format!("{HEAD}{}", answer("b"))).await;
        let (events, reply) = talk.client.reply().await;
        assert_eq!((reply.text.as_str(), trimmed(&events)), ("b", vec![false, true]), "{refused}");
    }
}

#[tokio::test]
async fn a_message_that_fits_no_context_fails() {
    let refused = "{\"error\":{\"code\":\"context_length_exceeded\"}}";
    let refused = refusal("400 Bad Request", "", refused);
    let mut talk = Talk::start().await;
    talk.hear(format!("{HEAD}{}", answer("a"))).await;
    talk.client.say("three", None).await.unwrap();
    for _ in 0..2 {
        talk.upstream.asked().await.answer(&refused).await;
    }
    let reply = talk.client.reply().await.1;
    assert_eq!(failure(&reply), "context_too_long");
    assert!(talk.upstream.is_idle());
}

#[tokio::test]
async fn a_query_in_the_base_url_is_sent_with_every_request() {
    let upstream = Upstream::start().await;
    let url = format!("http://{}/openai/deployments/d?api-version=2024-06-01", upstream.addr);
    let endpoint = duologue::responder::openai::Endpoint::parse(&url).unwrap();
    let server =
        Setup::answering(responder(vec![UpstreamSettings::new("azure", endpoint)])).start().await;
    let client = Transport::Json.open(&server, &create(&server).await, None).await;
    let mut talk = Talk { upstream, server, client };
    talk.client.say("Hi", None).await.unwrap();
    let asked = talk.upstream.asked().await;
    let line = "POST /openai/deployments/d/chat/completions?api-version=2024-06-01 HTTP/1.1";
    assert_eq!(asked.line, line);
}

#[tokio::test]
async fn a_model_that_requires_max_completion_tokens_gets_it() {
    let with_limit = |settings: &mut UpstreamSettings| settings.defaults.max_tokens = Some(7);
    // Known by its name.
    let mut talk = Talk::with(|settings| {
        with_limit(settings);
        settings.model = Some("openai/gpt-5-mini".into());
    })
    .await;
    talk.client.say("Hi", None).await.unwrap();
    let body = talk.upstream.asked().await.body;
    assert_eq!((body["max_completion_tokens"].as_u64(), body.get("max_tokens")), (Some(7), None));

    // Learned from its refusal, once.
    let mut talk = Talk::with(with_limit).await;
    talk.client.say("Hi", None).await.unwrap();
    let asked = talk.upstream.asked().await;
    assert_eq!(asked.body["max_tokens"], 7);
    let error = json!({"error": {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter",
    }});
    asked.answer(&refusal("400 Bad Request", "", &error.to_string())).await;
    let asked = talk.upstream.asked().await;
    assert_eq!(asked.body["max_completion_tokens"], 7);
    asked.answer(&format!("{HEAD}{}", answer("a"))).await;
    assert_eq!(talk.client.reply().await.1.text, "a");
    talk.client.say("Again", None).await.unwrap();
    assert_eq!(talk.upstream.asked().await.body["max_completion_tokens"], 7);
}
