//! The request to a model: its fields, and the part of the conversation in it.

use duologue::responder::openai::UpstreamSettings;
use secrecy::SecretString;
use serde_json::json;

use crate::support::{
    Setup, Transport, create,
    proto::MessageStatus,
    upstream::{self, CHUNKED, HEAD, Upstream, answer, delta, refusal, responder},
};
use crate::upstream::{Conversation, ROLE, failure, trimmed};

#[tokio::test]
async fn a_request_is_what_was_configured_and_carries_nothing_of_the_session() {
    let mut talk = Conversation::with(|one| {
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
    let mut talk = Conversation::start().await;
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
    let mut talk = Conversation::start().await;
    talk.client.say("one", None).await.unwrap();
    talk.upstream.asked().await.answer(&format!("{HEAD}{}", answer("eins"))).await;
    talk.client.reply().await;
    // A failed reply without text is left out. A failed reply with text is sent.
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
async fn queued_messages_see_the_replies_before_them() {
    let mut talk = Conversation::start().await;
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
async fn a_long_conversation_is_trimmed_and_clients_see_it() {
    let mut upstream = Upstream::start().await;
    let responder = upstream::responder_with(vec![upstream.settings("one")], |settings| {
        settings.system_prompt = Some("Conversation to {name}.".into());
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
    assert_eq!(told[0], "system: Conversation to Ada. user: question 0");
    assert_eq!(
        told[3],
        "system: Conversation to Ada. user: question 1 assistant: answer 1 user: question 2 \
         assistant: answer 2 user: question 3"
    );
}

/// The reply alone is larger than what the responder wants to see.
#[tokio::test]
async fn a_history_that_is_left_out_completely_counts_as_trimmed() {
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

#[tokio::test]
async fn a_context_that_the_upstream_refuses_is_trimmed_once_more_and_tried_once() {
    let refused = "{\"error\":{\"code\":400,\"message\":\"request (99 tokens) exceeds the available context size (9 tokens)\",\"type\":\"exceed_context_size_error\"}}";
    let refused = refusal("400 Bad Request", "", refused);
    // An empty answer may mean the same.
    for refused in [refused, HEAD.to_owned()] {
        let mut talk = Conversation::start().await;
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
    let mut talk = Conversation::start().await;
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
    let mut talk = Conversation { upstream, server, client };
    talk.client.say("Hi", None).await.unwrap();
    let asked = talk.upstream.asked().await;
    let line = "POST /openai/deployments/d/chat/completions?api-version=2024-06-01 HTTP/1.1";
    assert_eq!(asked.line, line);
}

#[tokio::test]
async fn a_model_that_requires_max_completion_tokens_gets_it() {
    let with_limit = |settings: &mut UpstreamSettings| settings.defaults.max_tokens = Some(7);
    // Known by its name.
    let mut talk = Conversation::with(|settings| {
        with_limit(settings);
        settings.model = Some("openai/gpt-5-mini".into());
    })
    .await;
    talk.client.say("Hi", None).await.unwrap();
    let body = talk.upstream.asked().await.body;
    assert_eq!((body["max_completion_tokens"].as_u64(), body.get("max_tokens")), (Some(7), None));

    // Learned from its refusal, once.
    let mut talk = Conversation::with(with_limit).await;
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
