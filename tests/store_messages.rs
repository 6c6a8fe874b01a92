//! Messages with all of their fields, in every store.

use std::sync::Arc;

use duologue::session::{
    ApprovalRequest, ApprovalResponse, Checkpoint, Citation, Content, Data, File, Metadata,
    NewReply, NewTurn, Part, PartContent, Question, ReplyFields, Session, Source, Tool, ToolCall,
    ToolResult, TurnOptions, Usage, UserFields,
};

use crate::store_contract::{ALL, NOW, created, new_session, reply, stores, terms, user};

#[tokio::test]
async fn everything_of_a_session_is_read_as_it_was_written() {
    for store in stores().await {
        let (mut new, token) = new_session();
        let metadata = Metadata::new([("plan".to_owned(), "free".to_owned())].into());
        (new.session.metadata, new.session.delete_at) = (metadata, None);
        new.session.title = Some("Travel".into());
        new.session.subject = Some("key:shop/ada".into());
        new.token.label = Some("phone".into());
        store.create(new.clone()).await.unwrap();
        let found = store.find(&token.hash(), NOW).await.unwrap();
        assert_eq!((&found.session, &found.token), (&new.session, &new.token));
        let asked = store.append(new.session.id, user("x", None), terms()).await.unwrap();
        let renewed = Session { expires_at: asked.expires_at, ..new.session };
        assert_eq!(store.read(renewed.id, NOW, ALL).await.unwrap().session, renewed);
        assert_eq!(store.renew(renewed.id, new.token.id, NOW, NOW).await.unwrap(), renewed);
        assert_eq!(store.take_over(None, None, 1, NOW).await.unwrap()[0].session, renewed);
    }
}

#[tokio::test]
async fn everything_of_a_message_is_read_as_it_was_written() {
    let file = File {
        media_type: "image/png".into(),
        url: "data:image/png;base64,AA==".into(),
        name: Some("a".into()),
        size: Some(1),
    };
    let metadata = Metadata::new([("k".to_owned(), "v".to_owned())].into());
    let options = Arc::new(TurnOptions {
        model: Some("m".into()),
        tools: vec![Tool { name: "f".into(), description: None, parameters: Some("{}".into()) }],
        temperature: Some(0.7),
        ..TurnOptions::default()
    });
    let data = Data { kind: "k".into(), json: "[1]".into(), id: Some("d".into()) };
    let user_parts = vec![
        Part::text("a\u{1}\"é"),
        PartContent::File(file.clone()).into(),
        PartContent::Data(data).into(),
    ];
    let call = ToolCall {
        id: "c".into(),
        name: "f".into(),
        arguments: "{broken".into(),
        plain_text: true,
        responder_executed: true,
    };
    let result = ToolResult {
        tool_call_id: "c".into(),
        output: "1".into(),
        is_error: true,
        files: vec![file],
    };
    let source =
        Source { id: "s".into(), url: None, title: Some("T".into()), media_type: None, name: None };
    let citation =
        Citation { source_id: "s".into(), start: Some(0), end: None, quote: Some("q".into()) };
    let request = ApprovalRequest {
        id: "a".into(),
        tool_call_id: Some("c".into()),
        reason: Some("why".into()),
        json: Some("{}".into()),
    };
    let response = ApprovalResponse {
        approval_id: "a".into(),
        approved: true,
        reason: Some("since".into()),
        json: Some("null".into()),
    };
    let reply_parts = vec![
        Part {
            provider_data: Some("{\"x\":1}".into()),
            duration_ms: Some(5),
            ..PartContent::Reasoning("".into()).into()
        },
        PartContent::ToolCall(call).into(),
        PartContent::ToolResult(result).into(),
        PartContent::Source(source).into(),
        PartContent::ApprovalRequest(request).into(),
        PartContent::ApprovalResponse(response).into(),
        Part { citations: vec![citation], ..Part::text("b") },
    ];
    for store in stores().await {
        let (session, _) = created(&*store).await;
        let question =
            Question::New { content: Content::of_parts(user_parts.clone()), parent_seq: None };
        let turn = NewTurn {
            metadata: metadata.clone(),
            options: Some(Arc::clone(&options)),
            question,
            ..user("", Some("k"))
        };
        let asked = store.append(session.id, turn.clone(), terms()).await.unwrap();
        assert!(store.append(session.id, turn, terms()).await.unwrap().duplicate);
        let content = Content::of_parts(reply_parts.clone());
        let at = Checkpoint { seq: 1, attempt: 2, content: content.clone() };
        let lease = store.lease(session.id, NOW).await.unwrap();
        store.checkpoint(session.id, lease, at, NOW).await.unwrap();
        assert_eq!(store.take_over(None, None, 1, NOW).await.unwrap()[0].partial, content);
        let usage = Usage {
            cached_input_tokens: Some(1),
            cache_write_tokens: Some(2),
            reasoning_tokens: Some(3),
            ..Usage::exact(10, 20)
        };
        let fields = ReplyFields {
            usage: Some(usage),
            model: Some("m-1".into()),
            first_content_ms: Some(7),
            duration_ms: Some(8),
            provider_data: Some("{\"x\":2}".into()),
            ..reply(&asked).fields
        };
        let answer = NewReply { content, metadata: metadata.clone(), fields, ..reply(&asked) };
        let answered = store.answer_alone(session.id, answer, NOW).await.unwrap();
        let again = store.append(
            session.id,
            NewTurn { question: Question::Again { seq: 2 }, ..user("", None) },
            terms(),
        );
        let again = again.await.unwrap().message;
        assert_eq!((&again.content, &again.metadata), (&asked.message.content, &metadata));
        let expected = UserFields {
            client_message_id: None,
            parent_seq: 0,
            regenerates_seq: Some(1),
            options: Some(Arc::clone(&options)),
        };
        assert_eq!(again.user(), Some(&expected));
        let page = store.read(session.id, NOW, ALL).await.unwrap();
        assert_eq!(page.messages, [asked.message, answered.message, again]);
        assert_eq!(page.usage, usage);
    }
}
