use serde_json::{Value, json};

use super::*;
use crate::responder::openai::chat_message::ChatContent;
use crate::session::{
    Content, Data, File, MessageId, Metadata, Name, Part, PartContent, ReplyFields, Role,
    SessionId, Status, Timestamp, Tool, ToolCall, ToolResult, TurnOptions, UserFields,
};

fn message(seq: u32, content: Content, role: Role) -> Arc<Message> {
    let (id, created_at) = (MessageId::generate(), Timestamp::default());
    Arc::new(Message { seq, id, content, created_at, metadata: Metadata::default(), role })
}

fn user(seq: u32, text: &str) -> Arc<Message> {
    message(seq, Content::of_text(text), Role::User(UserFields::default()))
}

fn user_parts(seq: u32, parts: Vec<PartContent>) -> Arc<Message> {
    let parts = parts.into_iter().map(Part::from).collect();
    message(seq, Content::of_parts(parts), Role::User(UserFields::default()))
}

fn reply(seq: u32, text: &str, to: &Message, status: Status) -> Arc<Message> {
    let role = Role::Assistant(ReplyFields::new(to.id, to.seq, status));
    message(seq, Content::of_text(text), role)
}

fn reply_parts(seq: u32, parts: Vec<Part>, to: &Message) -> Arc<Message> {
    let role = Role::Assistant(ReplyFields::new(to.id, to.seq, Status::Complete));
    message(seq, Content::of_parts(parts), role)
}

/// Questions and replies; the last question has none yet.
fn prompt(turns: &[(&str, &str)], last: &str) -> Prompt {
    let mut history = Vec::new();
    for (question, response_stream) in turns {
        let seq = u32::try_from(history.len()).unwrap() + 1;
        let question = user(seq, question);
        history.push(Arc::clone(&question));
        history.push(reply(seq + 1, response_stream, &question, Status::Complete));
    }
    let message = user(u32::try_from(history.len()).unwrap() + 1, last);
    Prompt {
        session: SessionId::generate(),
        name: Name::trusted("Ada {name}"),
        reply: MessageId::generate(),
        attempt: 1,
        metadata: Metadata::default(),
        is_trimmed: false,
        history,
        message,
    }
}

fn budget(context_tokens: u32) -> Budget {
    Budget { system_prompt: None, context_tokens, answer_tokens: 0 }
}

fn messages_of(context: &Context) -> Vec<(&'static str, String)> {
    let lines = context.lines(None).into_iter();
    let text = |content: Option<ChatContent<'_>>| match content {
        Some(ChatContent::Text(text)) => text.into_owned(),
        other => format!("{other:?}"),
    };
    lines.map(|line| (line.role, text(line.content))).collect()
}

fn texts(context: &Context) -> String {
    messages_of(context).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
}

#[test]
fn everything_that_fits_is_sent_in_order() {
    let prompt = prompt(&[("a", "A"), ("b", "B")], "c");
    let system_prompt = Some("You talk to {name}, {name}.".to_owned());
    let budget = Budget { system_prompt, ..budget(1000) };
    let context = Context::new(&prompt, &budget);
    let expected = [
        ("system", "You talk to Ada {name}, Ada {name}."),
        ("user", "a"),
        ("assistant", "A"),
        ("user", "b"),
        ("assistant", "B"),
        ("user", "c"),
    ];
    assert_eq!(messages_of(&context), expected.map(|(role, text)| (role, text.to_owned())));
    assert!(!context.is_trimmed());
}

#[test]
fn the_oldest_turns_go_first_and_the_last_message_never() {
    // Each turn costs 10 tokens, the last message 5.
    let prompt = prompt(&[("a", "A"), ("b", "B"), ("c", "C")], "d");
    for (room, expected) in [
        (35, "a A b B c C d"),
        (34, "b B c C d"),
        (25, "b B c C d"),
        (24, "c C d"),
        (15, "c C d"),
        (14, "d"),
        (0, "d"),
    ] {
        let context = Context::new(&prompt, &budget(room));
        assert_eq!(texts(&context), expected, "{room}");
        assert_eq!(context.is_trimmed(), room < 35, "{room}");
        let reserved = Budget { answer_tokens: 100, ..budget(room + 100) };
        assert_eq!(texts(&Context::new(&prompt, &reserved)), expected, "{room}");
    }
}

#[test]
fn a_context_that_was_refused_loses_half_of_its_history() {
    let prompt = prompt(&[("a", "A"), ("b", "B"), ("c", "C")], "d");
    let mut context = Context::new(&prompt, &budget(1000));
    assert_eq!(context.tokens(), 35);
    for expected in ["c C d", "d"] {
        context = context.halved().unwrap();
        assert_eq!(texts(&context), expected);
        assert!(context.is_trimmed());
    }
    assert!(context.halved().is_none());
}

#[test]
fn turns_without_both_sides_are_left_out_and_that_is_no_trimming() {
    let (one, two, three) = (user(1, "one"), user(2, "two"), user(3, "three"));
    let failed = Status::Stopped;
    // Queued together: the replies stand behind all of them.
    let replies = [
        reply(4, "", &one, failed.clone()),
        reply(5, "half of two", &two, Status::Interrupted),
        reply(6, " \n", &three, failed),
    ];
    let mut prompt = prompt(&[], "four");
    prompt.history = [vec![one, two, three], replies.into()].concat();
    let context = Context::new(&prompt, &budget(1000));
    assert_eq!(texts(&context), "two half of two four");
    assert!(!context.is_trimmed());
}

#[test]
fn a_history_that_begins_in_the_middle_is_a_trimmed_one() {
    let mut prompt = prompt(&[("a", "A"), ("b", "B")], "c");
    prompt.history.drain(..2);
    prompt.is_trimmed = true;
    let context = Context::new(&prompt, &budget(1000));
    assert_eq!(texts(&context), "b B c");
    assert!(context.is_trimmed());
}

fn call(id: &str, arguments: &str) -> Part {
    PartContent::ToolCall(ToolCall {
        id: id.into(),
        name: "weather".into(),
        arguments: arguments.into(),
        plain_text: false,
        responder_executed: false,
    })
    .into()
}

fn result(id: &str, output: &str) -> PartContent {
    PartContent::ToolResult(ToolResult {
        tool_call_id: id.into(),
        output: output.into(),
        is_error: false,
        files: Vec::new(),
    })
}

fn sent(prompt: &Prompt, room: u32) -> Value {
    serde_json::to_value(Context::new(prompt, &budget(room)).lines(None)).unwrap()
}

/// A question, two calls, and the message that brings a result for one of them.
fn with_calls() -> Prompt {
    let mut prompt = prompt(&[("old", "OLD")], "x");
    let question = user(3, "How warm is it?");
    let broken = call("c3", "{\"city\":");
    let parts = vec![call("c1", "{\"city\":\"Oslo\"}"), call("c2", ""), broken];
    let called = reply_parts(4, parts, &question);
    prompt.history.extend([question, called]);
    prompt.message = user_parts(5, vec![result("c1", "\"4 °C\""), result("c3", "1")]);
    prompt
}

#[test]
fn results_follow_their_calls_and_open_calls_get_a_result() {
    let function = |arguments: &str| json!({"name": "weather", "arguments": arguments});
    let expected = json!([
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "OLD"},
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": function("{\"city\":\"Oslo\"}")},
            {"id": "c2", "type": "function", "function": function("{}")},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "4 °C"},
        {"role": "tool", "tool_call_id": "c2", "content": "no result"},
    ]);
    assert_eq!(sent(&with_calls(), 1000), expected);
}

#[test]
fn calls_whose_results_are_last_are_never_left_out() {
    let lines = sent(&with_calls(), 0);
    let roles: Vec<_> = lines.as_array().unwrap().iter().map(|line| &line["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool"]);
}

#[test]
fn a_history_never_begins_with_results() {
    let mut prompt = with_calls();
    let last = Arc::clone(&prompt.message);
    prompt.history.push(Arc::clone(&last));
    prompt.history.push(reply(6, "It is cold.", &last, Status::Complete));
    prompt.message = user(7, "Thanks");
    for room in (0..200).step_by(5) {
        let lines = sent(&prompt, room);
        assert_eq!(lines[0]["role"], "user", "{room}: {lines}");
    }
    // A user who does not answer a call gets "no result" in the prompt.
    let mut prompt = with_calls();
    prompt.message = user(5, "Never mind");
    let lines = sent(&prompt, 1000);
    let last = lines.as_array().unwrap().last_chunk::<3>().unwrap().clone();
    assert_eq!(last[0]["content"], "no result");
    assert_eq!(last[2], json!({"role": "user", "content": "Never mind"}));
}

#[test]
fn images_and_documents_are_parts_of_the_content() {
    let file = |media_type: &str, url: &str, name: Option<&str>| {
        PartContent::File(File {
            media_type: media_type.into(),
            url: url.into(),
            name: name.map(Into::into),
            size: None,
        })
    };
    let mut prompt = prompt(&[], "x");
    prompt.message = user_parts(
        1,
        vec![
            PartContent::Text("What is this?".into()),
            file("image/png", "data:image/png;base64,AA==", None),
            file("application/pdf", "data:application/pdf;base64,BB==", Some("a.pdf")),
            file("audio/wav", "data:audio/wav;base64,CC==", None),
            file("application/pdf", "https://example.org/b.pdf", Some("b.pdf")),
        ],
    );
    let expected = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BB=="}},
        {"type": "input_audio", "input_audio": {"data": "CC==", "format": "wav"}},
        {"type": "text", "text": "[file b.pdf: https://example.org/b.pdf]"},
    ]}]);
    assert_eq!(sent(&prompt, 1000), expected);
}

#[test]
fn instructions_follow_the_system_prompt_and_never_replace_it() {
    let mut prompt = prompt(&[], "x");
    let options = TurnOptions { instructions: Some("Be brief.".into()), ..TurnOptions::default() };
    let fields = UserFields { options: Some(Arc::new(options)), ..UserFields::default() };
    prompt.message = message(1, Content::of_text("x"), Role::User(fields));
    assert_eq!(texts(&Context::new(&prompt, &budget(1000))), "Be brief. x");
    let system_prompt = Some("You are a bot.".to_owned());
    let context = Context::new(&prompt, &Budget { system_prompt, ..budget(1000) });
    assert_eq!(texts(&context), "You are a bot.\n\nBe brief. x");
}

#[test]
fn a_reply_of_several_steps_is_several_messages() {
    let mut prompt = prompt(&[], "Thanks");
    let question = user(1, "How warm is it?");
    let parts = vec![
        PartContent::Reasoning("Hm".into()).into(),
        Part::text("Let me "),
        Part::text("see."),
        call("c1", "{}"),
        call("c2", "{}"),
        result("c2", "[4]").into(),
        Part::text("And there:"),
        call("c3", "{}"),
        result("c3", "5").into(),
        Part::text("4 and 5."),
    ];
    prompt.history = vec![Arc::clone(&question), reply_parts(2, parts, &question)];
    let calls = |ids: &[&str]| {
        let function = json!({"name": "weather", "arguments": "{}"});
        let call = |id: &&str| json!({"id": id, "type": "function", "function": function});
        ids.iter().map(call).collect::<Value>()
    };
    let expected = json!([
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls(&["c1", "c2"])},
        {"role": "tool", "tool_call_id": "c1", "content": "no result"},
        {"role": "tool", "tool_call_id": "c2", "content": "[4]"},
        {"role": "assistant", "content": "And there:", "tool_calls": calls(&["c3"])},
        {"role": "tool", "tool_call_id": "c3", "content": "5"},
        {"role": "assistant", "content": "4 and 5."},
        {"role": "user", "content": "Thanks"},
    ]);
    assert_eq!(sent(&prompt, 1000), expected);
}

#[test]
fn tools_that_another_responder_ran_are_left_out() {
    let mut prompt = prompt(&[], "Thanks");
    let question = user(1, "What time is it?");
    let ran = |plain_text, responder_executed| {
        let PartContent::ToolCall(call) = call("c1", "{}").content else { unreachable!() };
        Part::from(PartContent::ToolCall(ToolCall { plain_text, responder_executed, ..call }))
    };
    for left_out in [ran(false, true), ran(true, false)] {
        let parts =
            vec![Part::text("Well:"), left_out, result("c1", "1").into(), Part::text("Noon.")];
        prompt.history = vec![Arc::clone(&question), reply_parts(2, parts, &question)];
        let expected = json!([
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "Well:\n\nNoon."},
            {"role": "user", "content": "Thanks"},
        ]);
        assert_eq!(sent(&prompt, 1000), expected);
    }
}

#[test]
fn a_prompt_always_ends_with_something_to_answer() {
    // The calls are not in the history.
    let mut prompt = prompt(&[], "x");
    prompt.message = user_parts(5, vec![result("c1", "\"4 °C\""), result("c2", "[1]")]);
    let outputs = json!([{"role": "user", "content": "4 °C\n\n[1]"}]);
    assert_eq!(sent(&prompt, 1000), outputs);
    // The only call is broken.
    let question = user(1, "How warm is it?");
    let broken = reply_parts(2, vec![call("c1", "{")], &question);
    prompt.history = vec![Arc::clone(&question), broken];
    prompt.message = user_parts(3, vec![result("c1", "1")]);
    let again = json!([{"role": "user", "content": "How warm is it?"}]);
    assert_eq!(sent(&prompt, 0), again);
    // Nothing that a model reads.
    let data = Data { kind: "app.place".into(), json: "[1]".into(), id: None };
    prompt.history.clear();
    prompt.message = user_parts(1, vec![PartContent::Data(data)]);
    assert_eq!(sent(&prompt, 1000), json!([{"role": "user", "content": "[1]"}]));
}

#[test]
fn files_and_tools_count_as_tokens() {
    let tokens = |prompt: &Prompt| Context::new(prompt, &budget(100_000)).tokens();
    let mut prompt = prompt(&[], "x");
    let file = File {
        media_type: "image/png".into(),
        url: "data:image/png;base64,AA==".into(),
        name: None,
        size: None,
    };
    prompt.message = user_parts(1, vec![PartContent::File(file.clone())]);
    let one = tokens(&prompt);
    assert!((500..2000).contains(&one), "{one}");
    let mut with_file = result("c1", "1");
    if let PartContent::ToolResult(result) = &mut with_file {
        result.files = vec![file.clone(), file];
    }
    prompt.message = user_parts(1, vec![with_file]);
    assert!(tokens(&prompt) > one);
    let tool = Tool {
        name: "weather".into(),
        description: Some("x".repeat(400).into()),
        parameters: None,
    };
    let options = TurnOptions { tools: vec![tool], ..TurnOptions::default() };
    let fields = UserFields { options: Some(Arc::new(options)), ..UserFields::default() };
    prompt.message = message(1, Content::of_text("x"), Role::User(fields));
    assert!(tokens(&prompt) > 100);
}

#[test]
fn data_of_the_provider_returns_with_the_calls() {
    let mut prompt = with_calls();
    let question = user(3, "How warm is it?");
    let stored = |data: &str| Some(format!(r#"{{"openai":{{"upstream":"one",{data}}}}}"#).into());
    let signed = Part {
        provider_data: stored(r#""extra_content":{"google":{"thought_signature":"s"}}"#),
        ..call("c1", "{}")
    };
    let thought = PartContent::Reasoning("Hm".into()).into();
    let fields = ReplyFields {
        provider_data: stored(r#""reasoning_content":true"#),
        ..ReplyFields::new(question.id, 3, Status::Complete)
    };
    let content = Content::of_parts(vec![thought, signed]);
    prompt.history = vec![Arc::clone(&question), message(4, content, Role::Assistant(fields))];
    let context = Context::new(&prompt, &budget(1000));
    for (reader, returns) in [("one", true), ("two", false)] {
        let line = serde_json::to_value(&context.lines(Some(reader))[1]).unwrap();
        assert_eq!(line.get("reasoning_content").is_some(), returns, "{line}");
        assert_eq!(line["tool_calls"][0].get("extra_content").is_some(), returns, "{line}");
    }
}
