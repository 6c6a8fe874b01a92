//! Parts of messages: every kind reaches every protocol, and the history.

use duologue::session::{
    ApprovalRequest, Chunk, Citation, Data, File, Part, PartContent, Source, ToolCall, ToolResult,
};

use crate::support::{Event, Setup, Transport, create, model::*, proto, stub};

fn user_parts() -> Vec<proto::Part> {
    use proto::part::Content;
    let file = proto::File {
        media_type: "image/png".into(),
        url: "data:image/png;base64,iVBORw0KGgo=".into(),
        name: Some("a.png".into()),
        size: Some(8),
    };
    let link = proto::File {
        media_type: "application/pdf".into(),
        url: "https://example.org/a.pdf".into(),
        name: None,
        size: None,
    };
    let data = proto::Data { r#type: "app.place".into(), json: "[1]".into(), id: Some("d".into()) };
    [
        Content::Text("What is this?".into()),
        Content::File(file),
        Content::File(link),
        Content::Data(data),
        Content::Text("Tell me.".into()),
    ]
    .map(|content| proto::Part { content: Some(content), ..Default::default() })
    .into()
}

/// A reply with parts of every kind.
fn reply_parts() -> Vec<Chunk> {
    let call = ToolCall {
        id: "c1".into(),
        name: "search".into(),
        arguments: "{\"q\":1}".into(),
        plain_text: false,
        responder_executed: true,
    };
    let picture = File {
        media_type: "image/png".into(),
        url: "data:image/png;base64,iVBORw0KGgo=".into(),
        name: None,
        size: None,
    };
    let result = ToolResult {
        tool_call_id: "c1".into(),
        output: "{\"n\":4}".into(),
        is_error: false,
        files: vec![picture.clone()],
    };
    let source = Source {
        id: "s1".into(),
        url: Some("https://example.org/".into()),
        title: Some("A".into()),
        media_type: None,
        name: None,
    };
    let citation =
        Citation { source_id: "s1".into(), start: Some(0), end: Some(2), quote: Some("q".into()) };
    let data = Data { kind: "app.card".into(), json: "{}".into(), id: None };
    let approval = ApprovalRequest {
        id: "ap1".into(),
        tool_call_id: None,
        reason: Some("costs".into()),
        json: None,
    };
    vec![
        reasoning("hm"),
        Chunk::PartEnd { citations: Vec::new(), provider_data: Some("{\"x\":{\"s\":1}}".into()) },
        part(PartContent::Reasoning("".into())),
        part(PartContent::ToolCall(call)),
        part(PartContent::ToolResult(result)),
        part(PartContent::File(picture)),
        part(PartContent::Source(source)),
        text("4 "),
        text("°C"),
        Chunk::PartEnd { citations: vec![citation], provider_data: None },
        part(PartContent::Data(data)),
        part(PartContent::ApprovalRequest(approval)),
        end("approval"),
    ]
}

#[tokio::test]
async fn parts_of_every_kind_reach_every_subscriber_and_the_history() {
    for (sender, watcher) in Transport::pairs() {
        let server = Setup::answering(TestModel::new([reply_parts()])).start().await;
        let token = create(&server).await;
        let mut one = sender.open(&server, &token, None).await;
        let mut other = watcher.open(&server, &token, None).await;
        one.send(proto::Send { parts: user_parts(), ..Default::default() }).await.unwrap();
        let (events, reply) = other.reply().await;
        let Some(Event::Message(asked)) =
            events.iter().find(|event| matches!(event, Event::Message(_)))
        else {
            panic!("{events:?}")
        };
        assert_eq!(asked.parts, user_parts(), "{sender:?} {watcher:?}");
        assert_eq!(asked.text, "What is this?\n\nTell me.");
        assert_eq!((reply.text.as_str(), reply.parts.len()), ("4 °C", 9));
        assert_eq!(reply.finish_reason.as_deref(), Some("approval"));
        assert_eq!(reply.model.as_deref(), Some("test-1"));
        assert!(reply.first_content_ms <= reply.duration_ms && reply.duration_ms.is_some());
        assert!(reply.parts.iter().all(|part| part.provider_data.is_none()), "never in a frame");
        let request = proto::RefreshTokenRequest { token, ..Default::default() };
        let page = stub(&server).await.refresh_token(request).await.unwrap().into_inner();
        let asked = proto::Message { parent_seq: Some(0), ..*asked.clone() };
        assert_eq!(page.messages, [asked, reply], "{sender:?} {watcher:?}");
    }
}

#[tokio::test]
async fn provider_data_is_shown_only_if_the_operator_allows_it() {
    for shown in [false, true] {
        let mut setup = Setup::answering(TestModel::new([reply_parts()]));
        setup.session.show_provider_data = shown;
        let server = setup.start().await;
        let token = create(&server).await;
        let mut client = Transport::Grpc.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        client.reply().await;
        for asked in [false, true] {
            let request = proto::RefreshTokenRequest {
                token: token.clone(),
                include_provider_data: asked,
                ..Default::default()
            };
            let page = stub(&server).await.refresh_token(request).await.unwrap().into_inner();
            let data = page.messages[1].parts[0].provider_data.as_deref();
            assert_eq!(data, (shown && asked).then_some("{\"x\":{\"s\":1}}"));
        }
    }
}

#[tokio::test]
async fn a_reply_of_one_signed_text_looks_like_a_text() {
    let script = vec![
        text("hi"),
        Chunk::PartEnd { citations: Vec::new(), provider_data: Some("{\"x\":1}".into()) },
        end("stop"),
    ];
    let server = Setup::answering(TestModel::new([script])).start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    let (_, reply) = client.reply().await;
    assert_eq!((reply.text.as_str(), reply.parts.len()), ("hi", 0));
}

#[tokio::test]
async fn a_call_that_breaks_off_is_dropped_and_the_rest_is_kept() {
    let script = vec![text("Let me see."), call("c1", "{\"ci"), text("never")];
    let model = TestModel::gated([script]);
    let server = Setup::answering(model.clone()).start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    model.gate.add_permits(2);
    while client.delta().await.index == 0 {}
    client.stop().await;
    let (_, reply) = client.reply().await;
    assert_eq!((reply.text.as_str(), reply.parts.len()), ("Let me see.", 0));
    assert_eq!(reply.status(), proto::MessageStatus::Stopped);
}

#[tokio::test]
async fn parts_that_a_user_cannot_send_are_refused_and_the_stream_goes_on() {
    use proto::part::Content;
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let invalid = if transport == Transport::Sse { "400" } else { "invalid_argument" };
        let too_large = if transport == Transport::Sse { "413" } else { "message_too_large" };
        let of =
            |content: Content| vec![proto::Part { content: Some(content), ..Default::default() }];
        let file = |media_type: &str, url: &str| {
            let (media_type, url) = (media_type.into(), url.into());
            of(Content::File(proto::File { media_type, url, ..Default::default() }))
        };
        let result = proto::ToolResult {
            tool_call_id: "c".into(),
            output: "1".into(),
            ..Default::default()
        };
        let signed = Part { provider_data: Some("{}".into()), ..Part::text("a") };
        for (parts, code) in [
            (of(Content::Reasoning("hm".into())), invalid),
            (of(Content::Text(String::new())), invalid),
            (of(Content::ToolResult(result)), invalid),
            (file("text/html", "https://example.org/"), invalid),
            (file("image/png", "file:///etc/passwd"), invalid),
            (file("image/png", "https://a:b@example.org/"), invalid),
            (vec![(&signed).into()], invalid),
            (vec![proto::Part::default()], invalid),
            (of(Content::Text("x".repeat((64 << 10) + 1))), too_large),
        ] {
            let send = proto::Send { parts, ..Default::default() };
            let refused = client.send(send.clone()).await.unwrap_err();
            assert_eq!(refused.code, code, "{transport:?} {:.200}", format!("{send:?}"));
        }
        let both = proto::Send { text: "a".into(), parts: user_parts(), ..Default::default() };
        assert_eq!(client.send(both).await.unwrap_err().code, invalid);
        client.say("still here", None).await.unwrap();
        client.reply().await;
    }
}

/// The limits are consistent: a message at the limit reaches every subscriber.
#[tokio::test]
async fn the_largest_message_and_the_largest_reply_reach_every_subscriber() {
    use proto::part::Content;
    let url = |size: usize| {
        let head = "data:image/png;base64,";
        format!("{head}{}", "A".repeat(size - head.len()))
    };
    let file = |size: usize| {
        let file =
            proto::File { media_type: "image/png".into(), url: url(size), ..Default::default() };
        proto::Part { content: Some(Content::File(file)), ..Default::default() }
    };
    // Two files with their types, and a text: 2 MiB in all.
    let text_size = 64 << 10;
    let second = (2 << 20) - (1 << 20) - text_size - 2 * "image/png".len();
    let large = Part::from(PartContent::File(File {
        media_type: "image/png".into(),
        url: url(1 << 20).into(),
        name: None,
        size: None,
    }));
    let script =
        vec![text(&"\u{1}".repeat((1 << 20) - "image/png".len())), Chunk::Part(large), end("stop")];
    for transport in Transport::ALL {
        let server = Setup::answering(TestModel::new([script.clone()])).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let mut parts = vec![file(1 << 20), file(second)];
        parts.push(proto::Part {
            content: Some(Content::Text("\u{1}".repeat(text_size))),
            ..Default::default()
        });
        let send = proto::Send { parts, ..Default::default() };
        client.send(send.clone()).await.unwrap();
        let (_, reply) = client.reply().await;
        assert_eq!(reply.status(), proto::MessageStatus::Complete, "{transport:?}");
        let mut again = transport.open(&server, &token, Some(&client.at(0))).await;
        let replayed = again.messages(2).await;
        assert_eq!(replayed[0].parts, send.parts, "{transport:?}");
        assert_eq!(replayed[1], reply, "{transport:?}");
        let mut more = send;
        more.parts.push(proto::Part {
            content: Some(Content::Data(proto::Data {
                r#type: "x".into(),
                json: "1".into(),
                id: None,
            })),
            ..Default::default()
        });
        let refused = client.send(more).await.unwrap_err();
        let code = if transport == Transport::Sse { "413" } else { "message_too_large" };
        assert_eq!(refused.code, code, "{transport:?}");
    }
}
