use super::*;
use crate::responder::openai::tool_calls::CallPiece;

fn parsed(data: &str) -> WireEvent {
    let event = SseEvent { data: data.as_bytes(), kind: EventKind::Message };
    read(&event, None).unwrap_or_else(|error| panic!("{data}: {error}"))
}

fn piece(data: &str) -> WirePiece {
    match parsed(data) {
        WireEvent::Piece(piece) => piece,
        other => panic!("{data}: {other:?}"),
    }
}

#[test]
fn pieces_of_all_servers_are_read() {
    for (data, text) in [
        (r#"{"choices":[{"delta":{"content":"a"}}]}"#, "a"),
        (
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
            "",
        ),
        (r#"{"choices":[{"delta":{}}]}"#, ""),
        (r#"{"choices":[{}]}"#, ""),
        (r#"{"choices":[],"prompt_filter_results":[]}"#, ""),
        (r#"{"choices":null,"error":null}"#, ""),
        (r#"{"choices":[],"usage":null}"#, ""),
        (r#"{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":-1}}"#, ""),
        (r#"{"choices":[{"delta":{"refusal":"No."}}]}"#, "No."),
        (r#"{"choices":[{"delta":{"content":"","refusal":"No."}}]}"#, "No."),
        (r#"{"choices":[{"index":1,"delta":{"content":"the only one"}}]}"#, "the only one"),
        // A repeated name: the last value counts.
        (r#"{"choices":[{"delta":{"content":"x","role":"a","content":"a","role":"b"}}]}"#, "a"),
        (r#"{"choices":[{"message":{"role":"assistant","content":"a"}}]}"#, "a"),
        (r#"{"choices":[{"delta":{"content":""},"message":{"content":"a"}}]}"#, "a"),
        (r#"{"choices":[{"text":"a"}]}"#, "a"),
        (
            r#"{"choices":[{"index":1,"delta":{"content":"other"}},{"index":0,"delta":{"content":"a"}}]}"#,
            "a",
        ),
        (r#"{"choices":[{"delta":{"content":"a"}}],"error":""}"#, "a"),
        (r#"{"choices":[{"delta":{"content":"a"}}],"error":{"message":null}}"#, "a"),
        (r#"{"choices":[{"delta":{"content":"a"},"index":"0"}],"error":[]}"#, "a"),
        (r#"{"choices":[{"delta":{"content":"a"},"index":0.0}]}"#, "a"),
        (
            r#"{"choices":[{"delta":{"content":["a",{"type":"text","text":"\ud83d"}]}}]}"#,
            "a\u{fffd}",
        ),
        (r#"{"choices":[{"delta":{"content":"half \ud83d"}}]}"#, "half \u{fffd}"),
        (r#"{"choices":[{"delta":{"content":[{"text":"c"}]}}]}"#, "c"),
        (
            r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"b"}]}}]}"#,
            "b",
        ),
    ] {
        assert_eq!(piece(data).text, text, "{data}");
        assert_eq!(piece(data).advances(), !text.is_empty(), "{data}");
    }
}

#[test]
fn reasoning_is_no_text() {
    for name in ["reasoning_content", "reasoning"] {
        let piece =
            piece(&format!(r#"{{"choices":[{{"delta":{{"{name}":"hm","content":""}}}}]}}"#));
        assert_eq!((piece.reasoning.as_str(), piece.text.as_str()), ("hm", ""));
    }
    let reasoning = |data: &str| piece(data).reasoning;
    assert_eq!(
        reasoning(r#"{"choices":[{"delta":{"reasoning":null,"reasoning_content":""}}]}"#),
        ""
    );
    // Under both names it is the same.
    assert_eq!(
        reasoning(r#"{"choices":[{"delta":{"reasoning":"hm","reasoning_content":"hm"}}]}"#),
        "hm"
    );
    for part in [
        r#"{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}"#,
        r#"{"type":"thinking","thinking":"hm"}"#,
        r#"{"type":"reasoning","text":"hm"}"#,
    ] {
        assert_eq!(
            reasoning(&format!(r#"{{"choices":[{{"delta":{{"content":[{part}]}}}}]}}"#)),
            "hm"
        );
    }
}

#[test]
fn tool_calls_of_all_servers_are_read() {
    let calls = |delta: &str| piece(&format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#)).calls;
    let call = |index: Option<u32>, id: Option<&str>, arguments: &str| CallPiece {
        index,
        id: id.map(Into::into),
        name: Some("f".into()),
        arguments: arguments.into(),
        ..CallPiece::default()
    };
    for (delta, expected) in [
        (
            r#"{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]}"#,
            call(Some(0), Some("a"), "{}"),
        ),
        (
            r#"{"tool_calls":[{"index":"1","id":null,"function":{"name":"f","arguments":{"x":1}}}]}"#,
            call(Some(1), None, "{\"x\":1}"),
        ),
        (
            r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":null}}]}"#,
            call(None, Some("a"), ""),
        ),
        (r#"{"function_call":{"name":"f","arguments":"{"}}"#, call(Some(0), None, "{")),
    ] {
        assert_eq!(calls(delta), [expected], "{delta}");
    }
    let message = r#"{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":""}}]}}]}"#;
    assert_eq!(piece(message).calls, [call(None, Some("a"), "")]);
    let custom = r#"{"tool_calls":[{"id":"a","type":"custom","custom":{"name":"f","input":"x"}}]}"#;
    assert_eq!(
        calls(custom),
        [CallPiece { plain_text: true, ..call(None, Some("a"), "x") }],
        "a call whose input is no JSON"
    );
    let signed = r#"{"tool_calls":[{"id":"a","function":{"name":"f"},"extra_content":{"x":1}}]}"#;
    assert_eq!(calls(signed)[0].extra, Some(serde_json::json!({"x": 1})));
}

#[test]
fn one_of_two_fields_counts_for_the_whole_piece() {
    let both = piece(
        r#"{"choices":[{"delta":{"content":"a","tool_calls":[{"function":{"name":"f"}}]},
            "message":{"content":"a","reasoning":"hm","tool_calls":[{"function":{"name":"f"}}]}}]}"#,
    );
    assert_eq!((both.form, both.calls.len(), &*both.reasoning), (DocumentForm::Delta, 1, ""));
    let second =
        piece(r#"{"choices":[{"delta":{"role":"assistant"},"message":{"reasoning":"hm"}}]}"#);
    assert_eq!((second.form, &*second.reasoning), (DocumentForm::Message, "hm"));
}

#[test]
fn sources_images_details_and_the_model_are_read() {
    let read = piece(
        r#"{"model":"gpt-x","choices":[{"delta":{
            "annotations":[{"type":"url_citation","url_citation":{"url":"https://a","title":"A","start_index":1,"end_index":3}}],
            "images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}],
            "reasoning_details":[{"type":"reasoning.text"}]}}],
            "usage":{"prompt_tokens":3,"completion_tokens":4,
                "prompt_tokens_details":{"cached_tokens":2},
                "completion_tokens_details":{"reasoning_tokens":1}}}"#,
    );
    assert_eq!(read.model.as_deref(), Some("gpt-x"));
    assert_eq!(read.images, ["data:image/png;base64,AA=="]);
    assert_eq!(
        (read.annotations[0].url.as_str(), read.annotations[0].range),
        ("https://a", Some((1, 3)))
    );
    assert_eq!(read.reasoning_details.len(), 1);
    let usage = read.usage.unwrap();
    assert_eq!((usage.cached_input_tokens, usage.reasoning_tokens), (Some(2), Some(1)));
}

#[test]
fn endings_and_usage_are_read() {
    let end = piece(r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"eos_token"}]}"#);
    assert_eq!((end.text.as_str(), end.finish_reason.as_deref()), ("x", Some("eos_token")));
    assert_eq!(piece(r#"{"choices":[{"delta":{},"finish_reason":""}]}"#).finish_reason, None);
    for none in ["null", "\"null\"", "\"None\"", "false", "0", "0.0", "{}", "\" \"", "\"\""] {
        let piece = piece(&format!(r#"{{"choices":[{{"finish_reason":{none}}}]}}"#));
        assert_eq!(piece.finish_reason, None, "{none}");
    }
    for odd in ["1e400", "-1", "{\"prompt_tokens\":1e400,\"completion_tokens\":2}"] {
        assert_eq!(piece(&format!(r#"{{"choices":[],"usage":{odd}}}"#)).usage, None, "{odd}");
    }
    let number = piece(r#"{"choices":[{"delta":{},"finish_reason":2}]}"#);
    assert_eq!(number.finish_reason.as_deref(), Some("2"));
    let usage = piece(
        r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
    );
    let exact = Usage::exact(3, 4);
    assert_eq!(usage.usage, Some(exact));
    for elsewhere in [
        r#"{"choices":[{"delta":{},"usage":{"prompt_tokens":3,"completion_tokens":4}}]}"#,
        r#"{"choices":[],"x_groq":{"id":"r","usage":{"prompt_tokens":3,"completion_tokens":4}}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":3.0,"completion_tokens":4.0}}"#,
        r#"{"usage":{"prompt_tokens":3,"completion_tokens":4},"usage":null}"#,
    ] {
        assert_eq!(piece(elsewhere).usage, Some(exact), "{elsewhere}");
    }
    assert_eq!(parsed(" [DONE] "), WireEvent::Done);
}

#[test]
fn errors_of_all_forms_are_read() {
    for (data, message, kind, code) in [
        (r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#, "m", "t", "c"),
        (r#"{"error":{"message":"m","code":503}}"#, "m", "", "503"),
        (r#"{"error":"m"}"#, "m", "", ""),
        (r#"[{"error":{"message":"m","type":"t","code":"c"}}]"#, "m", "t", "c"),
        (r#"{"object":"error","message":"m","type":"t","code":40303}"#, "m", "t", "40303"),
    ] {
        let expected = ErrorBody { message: message.into(), kind: kind.into(), code: code.into() };
        assert_eq!(parsed(data), WireEvent::Error(expected.clone()), "{data}");
        let event = SseEvent { data: data.as_bytes(), kind: EventKind::Error };
        assert_eq!(read(&event, None).ok(), Some(WireEvent::Error(expected)), "{data}");
    }
    let in_choice = r#"{"choices":[{"delta":{"content":"a"},"error":{"message":"m","code":502}}]}"#;
    let expected = ErrorBody { message: "m".into(), kind: "".into(), code: "502".into() };
    assert_eq!(parsed(in_choice), WireEvent::Error(expected));
    assert_eq!(ErrorBody::read(b"Bad Gateway").message, "Bad Gateway");
    assert_eq!(ErrorBody::read(br#"{"detail":"Not Found"}"#).message, "Not Found");
    assert_eq!(ErrorBody::read(br#"{"detail":[{"msg":"x"}]}"#).message, r#"[{"msg":"x"}]"#);
}

#[test]
fn what_is_no_json_of_this_form_is_refused() {
    let invalid: [&[u8]; 3] = [
        b"{\"choices\":[",
        b"{\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}",
        b"{\"choices\":[{\"delta\":{\"content\":7}}]}",
    ];
    for data in invalid {
        assert!(read(&SseEvent { data, kind: EventKind::Message }, None).is_err());
    }
    for (data, kind) in [
        ("", EventKind::Message),
        ("", EventKind::Other),
        ("alive", EventKind::Other),
        ("null", EventKind::Message),
        ("ping", EventKind::Message),
    ] {
        let event = SseEvent { data: data.as_bytes(), kind };
        assert_eq!(read(&event, None).ok(), Some(WireEvent::KeepAlive), "{data}");
    }
    for data in ["hello", "7", "[]", r#"["a"]"#, r#"{"response":"a"}"#, "{}"] {
        assert_eq!(parsed(data), WireEvent::Unknown, "{data}");
    }
}

#[test]
fn content_that_is_not_understood_is_reported() {
    for (data, ignored) in [
        (r#"{"choices":[{"delta":{"audio":{"id":"a"}}}]}"#, true),
        (r#"{"choices":[{"delta":{"tool_calls":[],"audio":null}}]}"#, false),
        (r#"{"choices":[{"delta":{"content":[{"type":"image_url"}]}}]}"#, true),
        (r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[]}]}}]}"#, false),
        (r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#, false),
    ] {
        assert_eq!(piece(data).ignored, ignored, "{data}");
    }
}

#[test]
fn one_choice_makes_the_reply_whatever_its_index() {
    let both =
        r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}"#;
    let second = r#"{"choices":[{"index":1,"delta":{"content":"b"}}]}"#;
    let text = |data: &str, adopted| {
        let event = SseEvent { data: data.as_bytes(), kind: EventKind::Message };
        match read(&event, adopted).unwrap() {
            WireEvent::Piece(piece) => (piece.text, piece.choice),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(text(both, None), ("a".into(), Some(0)));
    assert_eq!(text(both, Some(1)), ("b".into(), Some(1)));
    assert_eq!(text(second, None), ("b".into(), Some(1)));
    assert_eq!(text(second, Some(0)), (String::new(), None));
}
