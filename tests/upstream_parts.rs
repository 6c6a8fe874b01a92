//! Replies of a model that are more than text: reasoning, tool calls, images, sources.

use proto::part::Content;
use serde_json::{Value, json};

use crate::support::{
    Event, Setup, Transport, create, piece_of,
    proto::{self, MessageStatus},
    upstream::{DONE, HEAD, Upstream, answer, delta, finish, refusal, responder, usage},
};
use crate::upstream::{Conversation, failure};

/// An event with these fields in its delta.
fn event(delta: Value) -> String {
    format!("data: {}\n\n", json!({"model": "large-1", "choices": [{"index": 0, "delta": delta}]}))
}

/// A piece of a tool call. Without an id it continues the call.
fn call(index: u32, id: &str, arguments: &str) -> String {
    let function = json!({"name": "weather", "arguments": arguments});
    let call = match id {
        "" => json!({"index": index, "function": {"arguments": arguments}}),
        id => json!({"index": index, "id": id, "type": "function", "function": function}),
    };
    event(json!({"tool_calls": [call]}))
}

/// Returns the kinds and contents of the parts of a reply, in short.
fn parts(reply: &proto::Message) -> Vec<String> {
    let short = reply.parts.iter().map(|part| match part.content.as_ref().unwrap() {
        Content::Text(text) => format!("text {text}"),
        Content::Reasoning(text) => format!("reasoning {text}"),
        Content::ToolCall(call) => format!("call {} {} {}", call.id, call.name, call.arguments),
        Content::File(file) => format!("file {} {}", file.media_type, file.url),
        Content::Source(source) => format!("source {} {:?}", source.id, source.url),
        other => panic!("{other:?}"),
    });
    short.collect()
}

fn result(id: &str, output: &str) -> proto::Part {
    let (tool_call_id, output) = (id.into(), output.into());
    let result = proto::ToolResult { tool_call_id, output, ..Default::default() };
    proto::Part { content: Some(Content::ToolResult(result)), ..Default::default() }
}

fn weather() -> proto::TurnOptions {
    let tool = proto::Tool {
        name: "weather".into(),
        description: Some("The weather of a city".into()),
        parameters: Some("{\"type\":\"object\"}".into()),
    };
    proto::TurnOptions { tools: vec![tool], ..Default::default() }
}

#[tokio::test]
async fn calls_end_a_reply_and_their_results_return_to_the_model() {
    for transport in Transport::ALL {
        let mut talk = Conversation::through(transport, |_| {}).await;
        let options = Some(weather());
        let question = proto::Send { text: "Warm?".into(), options, ..Default::default() };
        talk.client.send(question).await.unwrap();
        let asked = talk.upstream.asked().await;
        let function = json!({
            "name": "weather", "description": "The weather of a city",
            "parameters": {"type": "object"},
        });
        assert_eq!(asked.body["tools"], json!([{"type": "function", "function": function}]));
        // Two calls at the same time.
        let calls = [
            delta("Let me see."),
            call(0, "c1", "{\"city\":"),
            call(1, "c2", "{}"),
            call(0, "", "\"Oslo\"}"),
            finish("tool_calls"),
            DONE.into(),
        ];
        asked.answer(&format!("{HEAD}{}", calls.concat())).await;
        let (events, reply) = talk.client.reply().await;
        assert_eq!((reply.status(), failure(&reply)), (MessageStatus::Complete, ""));
        assert_eq!(reply.finish_reason.as_deref(), Some("tool_calls"));
        let expected =
            ["text Let me see.", "call c1 weather {\"city\":\"Oslo\"}", "call c2 weather {}"];
        assert_eq!(parts(&reply), expected, "{transport:?}");
        let whole = events.iter().filter(|event| matches!(event, Event::ReplyPart(_)));
        assert_eq!(whole.count(), 2, "each call comes whole at its end: {events:?}");

        let parts = vec![result("c1", "\"4 °C\"")];
        let answered = proto::Send { parts, options: Some(weather()), ..Default::default() };
        talk.client.send(answered).await.unwrap();
        let asked = talk.upstream.asked().await;
        let sent = |id: &str, arguments: &str| {
            json!({"id": id, "type": "function",
                "function": {"name": "weather", "arguments": arguments}})
        };
        let calls = [sent("c1", "{\"city\":\"Oslo\"}"), sent("c2", "{}")];
        let mut messages = vec![
            json!({"role": "user", "content": "Warm?"}),
            json!({"role": "assistant", "content": "Let me see.", "tool_calls": calls}),
            json!({"role": "tool", "tool_call_id": "c1", "content": "4 °C"}),
            json!({"role": "tool", "tool_call_id": "c2", "content": "no result"}),
        ];
        assert_eq!(asked.body["messages"], json!(messages), "{transport:?}");
        asked.answer(&format!("{HEAD}{}", answer("It is cold."))).await;
        assert_eq!(talk.client.reply().await.1.text, "It is cold.");

        talk.client.say("Thanks", None).await.unwrap();
        messages.push(json!({"role": "assistant", "content": "It is cold."}));
        messages.push(json!({"role": "user", "content": "Thanks"}));
        assert_eq!(talk.upstream.asked().await.body["messages"], json!(messages));
    }
}

#[tokio::test]
async fn calls_of_every_server_are_complete_replies() {
    let function = json!({"name": "weather", "arguments": "{}"});
    let legacy = [event(json!({"function_call": function})), finish("function_call")].concat();
    let stop = [call(0, "c1", "{}"), finish("stop")].concat();
    let object =
        json!({"tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": {}}}]});
    let object = [event(object), finish("tool_calls")].concat();
    let document = json!({"choices": [{"finish_reason": "tool_calls", "message": {
        "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }}]});
    for bytes in [
        format!("{HEAD}{legacy}{DONE}"),
        format!("{HEAD}{stop}{DONE}"),
        format!("{HEAD}{object}{DONE}"),
        refusal("200 OK", "", &document.to_string()),
    ] {
        let reply = Conversation::start().await.hear(&bytes).await;
        assert_eq!((reply.status(), failure(&reply)), (MessageStatus::Complete, ""), "{bytes}");
        assert_eq!(reply.finish_reason.as_deref(), Some("tool_calls"), "{bytes}");
        let parts = parts(&reply);
        assert!(parts.len() == 1 && parts[0].ends_with("weather {}"), "{parts:?}: {bytes}");
    }
}

#[tokio::test]
async fn a_call_that_grows_after_its_end_fails_the_reply_and_keeps_the_text() {
    let pieces = [call(0, "c1", "{}"), call(1, "c2", "{"), call(0, "", "{}")].concat();
    let bytes = format!("{HEAD}{}{pieces}{}{DONE}", delta("a"), finish("tool_calls"));
    let reply = Conversation::start().await.hear(bytes).await;
    assert_eq!((failure(&reply), reply.text.as_str()), ("upstream_protocol", "a"));
}

#[tokio::test]
async fn reasoning_is_a_part_of_its_own_and_is_not_sent_back() {
    for name in ["reasoning_content", "reasoning"] {
        let mut talk = Conversation::start().await;
        talk.client.say("Hi", None).await.unwrap();
        let asked = talk.upstream.asked().await;
        let thoughts = [event(json!({name: "Hm, "})), event(json!({name: "let me think"}))];
        asked.answer(&format!("{HEAD}{}{}", thoughts.concat(), answer("a"))).await;
        let (events, reply) = talk.client.reply().await;
        assert_eq!((reply.text.as_str(), failure(&reply)), ("a", ""));
        assert_eq!(parts(&reply), ["reasoning Hm, let me think", "text a"]);
        let live: String = events
            .iter()
            .filter_map(|event| match event {
                Event::Delta(delta) => Some(piece_of(delta)),
                _ => None,
            })
            .collect();
        assert_eq!(live, "Hm, let me thinka");
        talk.client.say("Again", None).await.unwrap();
        let asked = talk.upstream.asked().await;
        assert_eq!(asked.body["messages"][1], json!({"role": "assistant", "content": "a"}));
    }
}

#[tokio::test]
async fn images_and_documents_reach_the_model() {
    let mut talk = Conversation::start().await;
    let file = |media_type: &str, name: Option<&str>| proto::Part {
        content: Some(Content::File(proto::File {
            media_type: media_type.into(),
            url: format!("data:{media_type};base64,AAAA"),
            name: name.map(Into::into),
            size: None,
        })),
        ..Default::default()
    };
    let text = |text: &str| proto::Part {
        content: Some(Content::Text(text.into())),
        ..Default::default()
    };
    let parts = vec![
        text("What is this?"),
        file("image/png", None),
        file("application/pdf", Some("a.pdf")),
    ];
    talk.client.send(proto::Send { parts, ..Default::default() }).await.unwrap();
    let asked = talk.upstream.asked().await;
    let expected = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    ]}]);
    assert_eq!(asked.body["messages"], expected);
    asked.answer(&format!("{HEAD}{}", answer("A cat"))).await;
    talk.client.reply().await;
    // A later question is asked with the image.
    talk.client.say("And its name?", None).await.unwrap();
    assert_eq!(talk.upstream.asked().await.body["messages"][0], expected[0]);
}

#[tokio::test]
async fn a_large_image_leaves_room_for_the_conversation() {
    let mut talk = Conversation::start().await;
    talk.hear(format!("{HEAD}{}", answer("a"))).await;
    let url = format!("data:image/png;base64,{}", "A".repeat(1 << 19));
    let file = proto::File { media_type: "image/png".into(), url, ..Default::default() };
    let part = proto::Part { content: Some(Content::File(file)), ..Default::default() };
    talk.client.send(proto::Send { parts: vec![part], ..Default::default() }).await.unwrap();
    talk.upstream.asked().await.answer(&format!("{HEAD}{}", answer("b"))).await;
    talk.client.reply().await;
    talk.client.say("c", None).await.unwrap();
    let asked = talk.upstream.asked().await;
    assert_eq!(asked.body["messages"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn images_and_sources_of_a_reply_are_parts() {
    let image = event(json!({"images": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]}));
    let source = event(json!({"annotations": [{"type": "url_citation", "url_citation": {
        "url": "https://example.org/", "title": "Example", "start_index": 1, "end_index": 3,
    }}]}));
    let body = [delta("aé漢."), source, image, finish("stop"), DONE.into()].concat();
    let reply = Conversation::start().await.hear(format!("{HEAD}{body}")).await;
    let expected = [
        "text aé漢.",
        "source s1 Some(\"https://example.org/\")",
        "file image/png data:image/png;base64,AAAA",
    ];
    assert_eq!(parts(&reply), expected);
    let citation = &reply.parts[0].citations[0];
    let range = (citation.source_id.as_str(), citation.start, citation.end);
    assert_eq!(range, ("s1", Some(1), Some(6)), "in bytes");
}

#[tokio::test]
async fn a_refusal_is_a_text_and_its_finish_reason_says_so() {
    let refused = event(json!({"refusal": "I cannot help with that."}));
    for (reason, expected) in [("stop", "refusal"), ("content_filter", "content_filter")] {
        let body = format!("{HEAD}{refused}{}{DONE}", finish(reason));
        let reply = Conversation::start().await.hear(body).await;
        assert_eq!(reply.text, "I cannot help with that.");
        assert_eq!(reply.finish_reason.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn clients_see_the_model_and_the_details_of_the_usage() {
    let details = json!({"choices": [], "usage": {
        "prompt_tokens": 31, "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }});
    let body = [
        event(json!({"content": "a"})),
        finish("stop"),
        format!("data: {details}\n\n"),
        DONE.into(),
    ];
    for transport in Transport::ALL {
        let mut talk = Conversation::through(transport, |_| {}).await;
        let reply = talk.hear(format!("{HEAD}{}", body.concat())).await;
        assert_eq!(reply.model.as_deref(), Some("large-1"), "{transport:?}");
        let expected = proto::Usage {
            input_tokens: 31,
            output_tokens: 7,
            cached_input_tokens: Some(20),
            reasoning_tokens: Some(5),
            ..Default::default()
        };
        assert_eq!(reply.usage, Some(expected), "{transport:?}");
    }
}

#[tokio::test]
async fn options_are_sent_within_the_limits_of_the_operator() {
    let mut talk = Conversation::with(|one| {
        one.model = Some("large".into());
        one.defaults.max_tokens = Some(99);
        one.defaults.temperature = Some(1.0);
    })
    .await;
    for (asked_for, limit) in [(50, 50), (500, 99)] {
        let options = proto::TurnOptions {
            instructions: Some("Be brief.".into()),
            max_output_tokens: Some(asked_for),
            temperature: Some(0.5),
            tool_choice: Some("required".into()),
            ..weather()
        };
        let send = proto::Send { text: "Hi".into(), options: Some(options), ..Default::default() };
        talk.client.send(send).await.unwrap();
        let asked = talk.upstream.asked().await;
        let expected = json!({"role": "system", "content": "Be brief."});
        assert_eq!(asked.body["messages"][0], expected);
        assert_eq!(asked.body["max_tokens"], limit);
        assert_eq!(asked.body["temperature"], 0.5);
        assert_eq!(asked.body["tool_choice"], "required");
        assert_eq!(asked.body["model"], "large");
        asked.answer(&format!("{HEAD}{}", answer("a"))).await;
        talk.client.reply().await;
    }
    // By default the operator alone chooses the model.
    let options = proto::TurnOptions { model: Some("dear".into()), ..Default::default() };
    let send = proto::Send { text: "Hi".into(), options: Some(options), ..Default::default() };
    assert_eq!(talk.client.send(send).await.unwrap_err().code, "invalid_argument");
    assert!(talk.upstream.is_idle());
}

/// Signatures of thoughts and details of reasoning, without which servers refuse to continue.
#[tokio::test]
async fn data_of_a_server_returns_to_it_and_to_no_other() {
    let (mut one, mut two) = (Upstream::start().await, Upstream::start().await);
    let upstreams = vec![one.settings("one"), two.settings("two")];
    let server = Setup::answering(responder(upstreams)).start().await;
    let mut client = Transport::Json.open(&server, &create(&server).await, None).await;
    client.say("Warm?", None).await.unwrap();
    let signature = json!({"google": {"thought_signature": "secret"}});
    let body = [
        event(json!({"reasoning_content": "Hm", "reasoning_details": [
            {"type": "reasoning.text", "index": 0, "text": "H"},
            {"type": "reasoning.text", "index": 0, "text": "m", "signature": "secret"},
        ]})),
        event(json!({"tool_calls": [{"index": 0, "id": "c1", "extra_content": signature,
            "function": {"name": "weather", "arguments": "{}"}}]})),
        finish("tool_calls"),
        usage(3, 2),
        DONE.into(),
    ];
    one.asked().await.answer(&format!("{HEAD}{}", body.concat())).await;
    let (events, reply) = client.reply().await;
    assert!(!format!("{events:?} {reply:?}").contains("secret"), "clients do not see it");
    let parts = vec![result("c1", "1")];
    client.send(proto::Send { parts, ..Default::default() }).await.unwrap();
    let asked = one.asked().await;
    let message = &asked.body["messages"][1];
    let details =
        json!([{"type": "reasoning.text", "index": 0, "text": "Hm", "signature": "secret"}]);
    assert_eq!(message["reasoning_details"], details);
    assert_eq!(message["reasoning_content"], "Hm");
    assert_eq!(message["tool_calls"][0]["extra_content"], signature);
    asked.answer(&refusal("503 Service Unavailable", "", "")).await;
    let asked = two.asked().await;
    assert!(!asked.body.to_string().contains("secret"), "{}", asked.body);
    assert_eq!(asked.body["messages"][1].get("reasoning_content"), None);
}
