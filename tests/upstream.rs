//! Responses of a model server, and the replies that result.

use duologue::responder::openai::UpstreamSettings;
use serde_json::json;

use crate::support::{
    Attached, Event, Rest, Running, Setup, Transport, create,
    proto::{self, MessageStatus},
    upstream::{DONE, HEAD, Upstream, delta, finish, refusal, responder, usage},
};

/// A gateway with one upstream, and a client.
pub struct Conversation {
    pub upstream: Upstream,
    pub server: Running,
    pub client: Attached,
}

impl Conversation {
    pub async fn start() -> Self {
        Self::through(Transport::Json, |_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut UpstreamSettings)) -> Self {
        Self::through(Transport::Json, change).await
    }

    pub(crate) async fn through(
        transport: Transport,
        change: impl FnOnce(&mut UpstreamSettings),
    ) -> Self {
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
pub(crate) const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";

/// The text `a` in another place than `delta.content`.
pub(crate) fn in_place(name: &str) -> String {
    let choice = match name {
        "text" => json!({"index": 0, "text": "a"}),
        name => json!({"index": 0, "delta": {}, name: {"role": "assistant", "content": "a"}}),
    };
    format!("data: {}\n\n", json!({"choices": [choice]}))
}

/// Every ending, as (what the upstream writes, status, failure, text, finish_reason).
pub(crate) fn endings() -> Vec<(String, MessageStatus, &'static str, &'static str, &'static str)> {
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
async fn every_ending_has_its_status_and_reveals_nothing_of_the_upstream() {
    for transport in Transport::ALL {
        let mut talk = Conversation::through(transport, |_| {}).await;
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
            // The digits of a time or an id may be those of the port.
            let (id, in_reply_to, created_at) = (String::new(), None, None);
            let told = proto::Message { id, in_reply_to, created_at, ..reply.clone() };
            let told = format!("{told:?}");
            for secret in ["secret", "127.0.0.1", &talk.upstream.addr.port().to_string()] {
                assert!(!told.contains(secret), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn rest_shows_the_failure_and_the_usage_of_a_reply() {
    let mut talk = Conversation::start().await;
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

pub(crate) fn trimmed(events: &[Event]) -> Vec<bool> {
    let started = events.iter().filter_map(|event| match event {
        Event::ReplyStarted(started) => Some(started.context_trimmed),
        _ => None,
    });
    started.collect()
}
