//! Replies of a bot that are more than text, and what a bot learns of a turn.

use duologue::{proto::ReplyOutcome, responder::grpc};
use proto::{part::Content, reply_delta::Piece, respond_response::Event as BotEvent};

use crate::bot::{attached, complete, failed, gateway, turn};
use crate::support::{
    Act, Event, Setup, TestBot, Transport, bot_call, bot_part, calls, create,
    proto::{self, MessageStatus},
    stub,
};

fn reasoning(text: &str) -> Act {
    let piece = Some(Piece::Reasoning(text.into()));
    Act::Send(BotEvent::Delta(proto::ReplyDelta { piece }))
}

fn result(id: &str, output: &str) -> Act {
    let (tool_call_id, output) = (id.into(), output.into());
    let result = proto::ToolResult { tool_call_id, output, ..Default::default() };
    bot_part(Content::ToolResult(result))
}

fn part_end(citations: Vec<proto::Citation>, provider_data: Option<&str>) -> Act {
    let provider_data = provider_data.map(Into::into);
    Act::Send(BotEvent::PartEnd(proto::PartEnd { citations, provider_data }))
}

fn source() -> proto::Source {
    let url = Some("https://example.org/".into());
    proto::Source { id: "s1".into(), url, ..Default::default() }
}

/// A reply that thinks, runs a tool, and cites a source.
fn script() -> Vec<Act> {
    let cited = proto::Citation { source_id: "s1".into(), ..Default::default() };
    let outcome = ReplyOutcome {
        finish_reason: Some("stop".into()),
        model: Some("clock-1\u{202e}".into()),
        metadata: [("lang".to_owned(), "en".to_owned())].into(),
        provider_data: Some("{\"bot\":{\"id\":7}}".into()),
        ..Default::default()
    };
    vec![
        reasoning("Hm, "),
        reasoning("what time?"),
        part_end(vec![], Some("{\"bot\":{\"signature\":\"x\"}}")),
        bot_call("c1", ""),
        bot_call("c1", "{\"zone\":"),
        bot_call("c1", "\"UTC\"}"),
        result("c1", "\"12:00\""),
        // Empty pieces are keep-alives, also of a call that has ended.
        bot_call("c1", ""),
        Act::Say(""),
        bot_part(Content::Source(source())),
        Act::Say("It is "),
        Act::Say("noon."),
        part_end(vec![cited], None),
        Act::Outcome(outcome),
    ]
}

#[tokio::test]
async fn the_parts_of_a_bot_reach_every_transport_and_the_bot_again() {
    let last = [Act::Say("You are welcome."), Act::done()];
    for transport in Transport::ALL {
        let mut bot = TestBot::start(&[&script(), &last]).await;
        let server = gateway(calls(bot.addr)).await;
        let mut client = attached(&server, transport).await;
        client.say("What time is it?", None).await.unwrap();
        let (events, reply) = client.reply().await;
        let contents: Vec<_> =
            reply.parts.iter().map(|part| part.content.clone().unwrap()).collect();
        let call = proto::ToolCall {
            id: "c1".into(),
            name: "clock".into(),
            arguments: "{\"zone\":\"UTC\"}".into(),
            plain_text: false,
            responder_executed: true,
        };
        let result = proto::ToolResult {
            tool_call_id: "c1".into(),
            output: "\"12:00\"".into(),
            ..Default::default()
        };
        let expected = [
            Content::Reasoning("Hm, what time?".into()),
            Content::ToolCall(call),
            Content::ToolResult(result),
            Content::Source(source()),
            Content::Text("It is noon.".into()),
        ];
        assert_eq!(contents, expected, "{transport:?}");
        assert_eq!(reply.text, "It is noon.");
        assert_eq!(reply.parts[4].citations[0].source_id, "s1");
        assert_eq!(
            (reply.status(), reply.model.as_deref()),
            (MessageStatus::Complete, Some("clock-1"))
        );
        assert_eq!(reply.metadata["lang"], "en");
        let told = format!("{events:?} {reply:?}");
        assert!(!told.contains("signature"), "provider data is for responders: {told}");

        assert_eq!(turn(&mut client, "Thanks").await, complete("You are welcome."));
        bot.called().await;
        let (request, _) = bot.called().await;
        let seen = &request.history[1];
        assert_eq!(seen.parts.len(), 5);
        let signature = seen.parts[0].provider_data.as_deref();
        assert_eq!(signature, Some("{\"bot\":{\"signature\":\"x\"}}"));
        assert_eq!(seen.provider_data.as_deref(), Some("{\"bot\":{\"id\":7}}"));
    }
}

#[tokio::test]
async fn a_bot_learns_the_metadata_and_the_options() {
    let mut bot = TestBot::start(&[&[Act::Say("yes"), Act::done()]]).await;
    let server = gateway(calls(bot.addr)).await;
    let metadata = [("plan".to_owned(), "free".to_owned())].into();
    let request = proto::CreateTokenRequest { name: "Ada".into(), metadata, ..Default::default() };
    let token = stub(&server).await.create_token(request).await.unwrap().into_inner().token;
    let mut client = Transport::Grpc.open(&server, &token, None).await;
    let options = proto::TurnOptions { temperature: Some(0.5), ..Default::default() };
    let text = proto::Part { content: Some(Content::Text("a".into())), ..Default::default() };
    let file = proto::File {
        media_type: "image/png".into(),
        url: "data:image/png;base64,AAAA".into(),
        ..Default::default()
    };
    let file = proto::Part { content: Some(Content::File(file)), ..Default::default() };
    let send = proto::Send {
        parts: vec![text, file],
        metadata: [("page".to_owned(), "7".to_owned())].into(),
        options: Some(options.clone()),
        ..Default::default()
    };
    client.send(send.clone()).await.unwrap();
    client.reply().await;
    let (request, _) = bot.called().await;
    assert_eq!(request.metadata["plan"], "free");
    assert_eq!(request.options, Some(options));
    let message = request.message.unwrap();
    assert_eq!((message.metadata["page"].as_str(), message.parent_seq), ("7", Some(0)));
    assert_eq!(message.parts, send.parts);
}

#[tokio::test]
async fn a_bot_that_leaves_messages_out_says_so_before_its_first_word() {
    let trimmed = Act::Send(BotEvent::ContextTrimmed(proto::ContextTrimmed {}));
    let script = [trimmed.clone(), Act::Say("a"), trimmed, Act::Say("b"), Act::done()];
    let bot = TestBot::start(&[&script]).await;
    let server = gateway(calls(bot.addr)).await;
    let mut client = attached(&server, Transport::Json).await;
    client.say("go", None).await.unwrap();
    let (events, reply) = client.reply().await;
    assert_eq!(reply.text, "ab");
    let started = events.iter().filter_map(|event| match event {
        Event::ReplyStarted(started) => Some(started.context_trimmed),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn metadata_that_is_too_long_is_dropped_and_the_reply_is_not() {
    let outcome = ReplyOutcome {
        metadata: [("long".to_owned(), "x".repeat(513))].into(),
        provider_data: Some("no object".into()),
        ..Default::default()
    };
    let bot = TestBot::start(&[&[Act::Say("a"), Act::Outcome(outcome)]]).await;
    let server = gateway(calls(bot.addr)).await;
    let mut client = attached(&server, Transport::Json).await;
    client.say("go", None).await.unwrap();
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Complete, "a"));
    assert!(reply.metadata.is_empty(), "{reply:?}");
}

#[tokio::test]
async fn a_call_of_a_tool_that_the_client_runs_ends_the_reply() {
    let call = proto::ToolCall {
        id: "c1".into(),
        name: "weather".into(),
        arguments: "{}".into(),
        ..Default::default()
    };
    let outcome = ReplyOutcome { finish_reason: Some("tool_calls".into()), ..Default::default() };
    let asks = [bot_part(Content::ToolCall(call)), Act::Outcome(outcome)];
    let mut bot = TestBot::start(&[&asks, &[Act::Say("cold"), Act::done()]]).await;
    let server = gateway(calls(bot.addr)).await;
    let token = create(&server).await;
    let mut client = Transport::Proto.open(&server, &token, None).await;
    client.say("Warm?", None).await.unwrap();
    assert_eq!(client.reply().await.1.finish_reason.as_deref(), Some("tool_calls"));
    bot.called().await;
    let result =
        proto::ToolResult { tool_call_id: "c1".into(), output: "4".into(), ..Default::default() };
    let part = proto::Part { content: Some(Content::ToolResult(result)), ..Default::default() };
    client.send(proto::Send { parts: vec![part.clone()], ..Default::default() }).await.unwrap();
    assert_eq!(client.reply().await.1.text, "cold");
    assert_eq!(bot.called().await.0.message.unwrap().parts, [part]);
}

#[tokio::test]
async fn parts_that_contradict_the_contract_fail_the_reply_and_keep_its_content() {
    let data = proto::Data { r#type: "app.x".into(), json: "{".into(), id: None };
    for wrong in [
        vec![bot_call("c1", "{}"), result("c1", "1"), bot_call("c1", "{}")],
        vec![result("c1", "no JSON")],
        vec![bot_part(Content::Data(data))],
    ] {
        let script = [vec![Act::Say("so far")], wrong, vec![Act::done()]].concat();
        let bot = TestBot::start(&[&script]).await;
        let server = gateway(calls(bot.addr)).await;
        let mut client = attached(&server, Transport::Grpc).await;
        assert_eq!(turn(&mut client, "go").await, failed("so far", "upstream_protocol"));
    }
}

#[tokio::test]
async fn a_reply_whose_parts_are_too_large_is_cut() {
    let file = proto::File {
        media_type: "image/png".into(),
        url: format!("data:image/png;base64,{}", "A".repeat(2000)),
        ..Default::default()
    };
    let script = [Act::Say("so far"), bot_part(Content::File(file)), Act::Hang];
    let mut bot = TestBot::start(&[&script]).await;
    let mut setup = Setup::answering(grpc::Bot::new(calls(bot.addr)).unwrap());
    setup.session.max_reply_size = 1000;
    let server = setup.start().await;
    let mut client = attached(&server, Transport::Grpc).await;
    client.say("go", None).await.unwrap();
    let reply = client.reply().await.1;
    assert_eq!((reply.status(), reply.text.as_str()), (MessageStatus::Interrupted, "so far"));
    assert!(bot.let_go().await);
}
