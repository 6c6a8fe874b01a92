//! The formats of an export: that of this version, with everything that a session can have, and
//! the first one, of gateways before messages had parts.

use duologue::session::Token;
use serde_json::{Value, json};

use crate::administration::{StoreFolder, json_lines, stop};
use crate::support::{Rest, Transport, history};

const SESSION: &str = "01a20459-2ae4-75e7-b50f-667a3bbc3f67";
const TOKEN: &str = "5f0c1ae8-3bd1-4c0a-9d47-0b9ad9a2a9c7";
const READER: &str = "b6d0a7a0-6f0b-4f0e-8f7e-5a5b3a1d9c11";

fn sha256(token: &str) -> String {
    let hash = Token::parse(token).unwrap().hash();
    hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id of a message of the session.
fn id(seq: u32) -> String {
    format!("01a20459-2ae4-75e7-b50f-{seq:012x}")
}

/// Lines of JSON, with the fields that every message has.
fn lines(format: u32, session: &Value, messages: &[Value]) -> String {
    let at = "2026-11-22T17:41:22.297Z";
    let header = json!({"export": {"format": format, "exported_at": at, "sessions": 1}});
    let mut session = session.clone();
    for (name, value) in [
        ("id", SESSION.into()),
        ("name", "Ada".into()),
        ("epoch", "83305790305c487b".into()),
        ("created_at", at.into()),
        ("expires_at", "2100-01-01T00:00:00.000Z".into()),
        ("ends_at", "2100-01-02T00:00:00.000Z".into()),
        ("messages", messages.len().into()),
    ] {
        session[name] = value;
    }
    let mut text = format!("{header}\n{}\n", json!({ "session": session }));
    for (message, seq) in messages.iter().zip(1..) {
        let mut message = message.clone();
        message["session"] = SESSION.into();
        message["seq"] = seq.into();
        message["id"] = id(seq).into();
        message["created_at"] = at.into();
        text += &format!("{}\n", json!({ "message": message }));
    }
    text
}

#[tokio::test]
async fn an_export_of_the_first_format_is_imported_as_a_line_of_turns() {
    let usage = json!({"input_tokens": 2, "output_tokens": 9, "estimated": true});
    let old = lines(
        1,
        &json!({"token_sha256": sha256(TOKEN)}),
        &[
            json!({"role": "user", "text": "one", "client_message_id": "m1"}),
            json!({"role": "assistant", "text": "Echo: one", "in_reply_to": id(1),
                   "status": "complete", "finish_reason": "stop", "usage": usage}),
            json!({"role": "user", "text": "two"}),
            json!({"role": "assistant", "text": "", "in_reply_to": id(3), "status": "failed",
                   "failure": {"code": "x", "message": "It failed"}}),
            json!({"role": "user", "text": "three", "waiting": {"attempt": 1, "text": "so"}}),
        ],
    );
    let place = StoreFolder::new();
    for expected in ["1 session imported, with 5 messages", "0 sessions imported"] {
        let done = place.run_with(&["sessions", "import"], &old).await;
        assert_eq!(done.code, Some(0), "{}", done.told);
        assert!(done.out.starts_with(expected), "{}", done.out);
    }
    let exported = json_lines(&place.print(&["sessions", "export"]).await);
    assert_eq!(exported[0]["export"]["format"], 2);
    let tokens = &exported[1]["session"]["tokens"];
    assert_eq!(tokens[0]["sha256"], sha256(TOKEN));
    assert_eq!((&tokens[0]["scope"], &tokens[1]), (&"write".into(), &Value::Null));
    let parents: Vec<_> =
        exported[2..].iter().map(|line| line["message"]["parent_seq"].as_u64()).collect();
    assert_eq!(parents, [Some(0), None, Some(1), None, Some(3)]);
    assert_eq!(exported[6]["message"]["waiting"], json!({"attempt": 1, "text": "so"}));

    let process = place.start().await;
    let address = process.address();
    let log = crate::support::soon("the reply", async {
        loop {
            let log = history(&address, Transport::Sse, TOKEN).await;
            if log.len() == 6 {
                return log;
            }
        }
    });
    let texts: Vec<_> = log.await.into_iter().map(|entry| entry.3).collect();
    assert_eq!(texts, ["one", "Echo: one", "two", "", "three", "You said: three"]);
    stop(process).await;
}

/// A session with every field and every kind of part. The last turn has no attempt left.
fn everything() -> String {
    let file = json!({"media_type": "image/png", "url": "data:image/png;base64,iVBORw0KGgo=",
                      "name": "a.png", "size": 8});
    let tools = json!([{"name": "weather", "description": "d", "parameters": "{}"}]);
    let usage = json!({"input_tokens": 10, "output_tokens": 20, "estimated": false,
                       "cached_input_tokens": 1, "cache_write_tokens": 2, "reasoning_tokens": 3});
    lines(
        2,
        &json!({
            "title": "Travel", "metadata": {"plan": "free"}, "subject": "key:shop/ada",
            "delete_at": "2100-02-01T00:00:00.000Z",
            "tokens": [
                {"id": id(101), "sha256": sha256(TOKEN), "scope": "write"},
                {"id": id(102), "sha256": sha256(READER), "scope": "read", "label": "phone",
                 "expires_at": "2099-01-01T00:00:00.000Z", "ends_at": "2099-01-02T00:00:00.000Z"},
            ],
        }),
        &[
            json!({
                "role": "user", "client_message_id": "m1", "parent_seq": 0,
                "metadata": {"k": "v"},
                "parts": [{"text": "What is this?"}, {"file": file},
                          {"data": {"type": "app.form", "json": "{\"a\":1}", "id": "d"}}],
                "options": {"model": "m", "instructions": "Be short.", "tools": tools,
                            "tool_choice": "weather", "max_output_tokens": 9, "temperature": 0.5,
                            "extra": "{\"top_p\":1}"},
            }),
            json!({
                "role": "assistant", "in_reply_to": id(1), "status": "complete",
                "finish_reason": "tool_calls", "usage": usage, "model": "m-1",
                "first_content_ms": 7, "duration_ms": 8, "provider_data": "{\"x\":{}}",
                "metadata": {"trace": "t"},
                "parts": [
                    {"reasoning": "", "provider_data": "{\"x\":1}", "duration_ms": 5},
                    {"tool_call": {"id": "s", "name": "search", "arguments": "a b",
                                   "plain_text": true, "responder_executed": true}},
                    {"tool_result": {"tool_call_id": "s", "output": "1", "is_error": true,
                                     "files": [file]}},
                    {"source": {"id": "w", "url": "https://a.example", "title": "A"}},
                    {"text": "Hm.", "citations": [{"source_id": "w", "start": 0, "end": 3,
                                                   "quote": "q"}]},
                    {"tool_call": {"id": "c", "name": "weather", "arguments": "{\"c\":\"Oslo\"}"}},
                    {"approval_request": {"id": "a", "tool_call_id": "c", "reason": "why",
                                          "json": "{}"}},
                ],
            }),
            json!({
                "role": "user", "parent_seq": 1,
                "parts": [{"tool_result": {"tool_call_id": "c", "output": "4"}},
                          {"approval_response": {"approval_id": "a", "approved": true}}],
            }),
            json!({"role": "assistant", "in_reply_to": id(3), "status": "stopped"}),
            json!({
                "role": "user", "text": "Again?", "parent_seq": 0, "regenerates_seq": 1,
                "waiting": {"attempt": 2, "parts": [{"reasoning": "hm"}, {"text": "so"}]},
            }),
        ],
    )
}

#[tokio::test]
async fn everything_of_a_session_is_exported_and_imported() {
    let whole = everything();
    let place = StoreFolder::new();
    let done = place.run_with(&["sessions", "import"], &whole).await;
    assert_eq!(done.code, Some(0), "{}", done.told);
    let exported = place.print(&["sessions", "export"]).await;
    assert_eq!(json_lines(&exported)[1..], json_lines(&whole)[1..]);
    let again = place.run_with(&["sessions", "import"], &exported).await;
    assert!(again.out.contains("1 already there, 0 different"), "{}", again.out);
    for (from, to) in [
        ("\"output\":\"4\"", "\"output\":\"5\""),
        ("\"temperature\":0.5", "\"temperature\":0.25"),
        ("\"parent_seq\":0,\"regenerates_seq\"", "\"parent_seq\":1,\"regenerates_seq\""),
        ("\"reasoning_tokens\":3", "\"reasoning_tokens\":4"),
    ] {
        assert!(exported.contains(from), "{from} is not in {exported}");
        let other = place.run_with(&["sessions", "import"], &exported.replacen(from, to, 1)).await;
        assert!(other.out.contains("0 already there, 1 different"), "{from}: {}", other.out);
    }

    let shown = place.print(&["sessions", "show", SESSION]).await;
    for line in [
        "title          Travel",
        "subject        key:shop/ada",
        &format!("token          {}  read   phone", id(102)),
        "    What is this?",
        "    [file image/png, a.png, 8 bytes]",
        "    [tool call weather {\"c\":\"Oslo\"}]",
        "    [tool result 4]",
        "    [approved a]",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    for part in [
        "assistant  complete  m-1  10 + 20 tokens\n",
        "user\n    [tool result",
        "user  (at the root)  (#1 again)  (waits for its reply)\n    Again?\n",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[tokio::test]
async fn the_content_of_a_reply_before_the_export_is_kept_when_no_attempt_is_left() {
    let place = StoreFolder::new();
    let done = place.run_with(&["sessions", "import"], &everything()).await;
    assert_eq!(done.code, Some(0), "{}", done.told);
    let process = place.start().await;
    let address = process.address();
    crate::support::soon("the end of the last turn", async {
        while place.list(&[]).await[0]["messages"] != 6 {}
    })
    .await;
    let refresh = |token: &str| format!("/refresh_token?token={token}");
    let session = Rest::call(&address, "GET", &refresh(READER)).await.json();
    assert_eq!(session["messages"][5]["msg"], "so");
    let refused = Rest::call(&address, "POST", &format!("/messages?token={READER}&text=x")).await;
    assert_eq!(refused.status, 403, "its scope came with it");
    stop(process).await;
    let exported = json_lines(&place.print(&["sessions", "export"]).await);
    let reply = &exported[7]["message"];
    assert_eq!((&reply["status"], &reply["in_reply_to"]), (&"interrupted".into(), &id(5).into()));
    assert_eq!(reply["parts"], json!([{"reasoning": "hm"}, {"text": "so"}]));
}
