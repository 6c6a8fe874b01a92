//! Tools that the client runs: the reply ends with calls, the next message brings the results.

use duologue::session::{ApprovalRequest, Chunk, PartContent};

use crate::support::{Attached, Setup, Transport, create, model::*, proto};

fn result(id: &str) -> proto::Part {
    let result = proto::ToolResult {
        tool_call_id: id.into(),
        output: "{\"celsius\":4}".into(),
        ..Default::default()
    };
    proto::Part { content: Some(proto::part::Content::ToolResult(result)), ..Default::default() }
}

fn results(ids: &[&str], parent_seq: Option<u32>) -> proto::Send {
    let parts = ids.iter().map(|id| result(id)).collect();
    proto::Send { parts, parent_seq, ..Default::default() }
}

/// Two calls that the client runs.
fn calls() -> Vec<Chunk> {
    vec![call("c1", "{\"city\":"), call("c1", "\"Oslo\"}"), call("c2", "{}"), end("tool_calls")]
}

async fn refusal(client: &mut Attached, send: proto::Send) -> String {
    client.send(send).await.unwrap_err().code
}

#[tokio::test]
async fn calls_end_a_reply_and_their_results_are_the_next_message() {
    for transport in Transport::ALL {
        let model = TestModel::new([calls(), vec![text("4 °C"), end("stop")]]);
        let server = Setup::answering(model.clone()).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("How warm is it?", None).await.unwrap();
        let (_, reply) = client.reply().await;
        assert_eq!(reply.finish_reason.as_deref(), Some("tool_calls"));
        let called = reply.parts.iter().filter_map(|part| match &part.content {
            Some(proto::part::Content::ToolCall(call)) => Some((&*call.id, &*call.arguments)),
            _ => None,
        });
        assert_eq!(called.collect::<Vec<_>>(), [("c1", "{\"city\":\"Oslo\"}"), ("c2", "{}")]);
        // Not every call needs a result.
        client.send(results(&["c1"], None)).await.unwrap();
        assert_eq!(client.reply().await.1.text, "4 °C", "{transport:?}");
        let prompt = model.last_prompt();
        assert_eq!(prompt.history.len(), 2);
        assert!(matches!(prompt.message.content.parts()[0].content, PartContent::ToolResult(_)));
    }
}

#[tokio::test]
async fn results_that_match_no_open_call_are_refused() {
    for transport in Transport::ALL {
        let model = TestModel::new([calls()]);
        let server = Setup::answering(model).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let invalid = if transport == Transport::Sse { "400" } else { "invalid_argument" };
        assert_eq!(refusal(&mut client, results(&["c1"], None)).await, invalid, "no turn");
        client.say("How warm is it?", None).await.unwrap();
        client.reply().await;
        for ids in [&["c3"][..], &["c1", "c1"], &["c1", "c3"]] {
            assert_eq!(refusal(&mut client, results(ids, None)).await, invalid, "{ids:?}");
        }
        client.send(results(&["c1", "c2"], None)).await.unwrap();
        client.reply().await;
        // A second device answers the same calls: only as a sibling, explicitly.
        assert_eq!(refusal(&mut client, results(&["c1"], None)).await, invalid, "answered");
        let sibling = client.send(results(&["c1"], Some(1))).await.unwrap();
        assert_eq!(sibling.parent_seq, 1, "{transport:?}");
        client.reply().await;
    }
}

#[tokio::test]
async fn results_for_a_reply_in_progress_are_refused() {
    let model = TestModel::gated([calls()]);
    let server = Setup::answering(model.clone()).start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    client.say("How warm is it?", None).await.unwrap();
    model.gate.add_permits(2);
    client.delta().await;
    assert_eq!(refusal(&mut client, results(&["c1"], None)).await, "invalid_argument");
}

#[tokio::test]
async fn an_approval_is_asked_for_and_given() {
    let request = ApprovalRequest {
        id: "ap1".into(),
        tool_call_id: None,
        reason: Some("costs 40 EUR".into()),
        json: None,
    };
    let script = vec![part(PartContent::ApprovalRequest(request)), end("approval")];
    let server = Setup::answering(TestModel::new([script])).start().await;
    let token = create(&server).await;
    let mut client = Transport::Proto.open(&server, &token, None).await;
    client.say("Buy it", None).await.unwrap();
    assert_eq!(client.reply().await.1.finish_reason.as_deref(), Some("approval"));
    let decide = |id: &str| {
        let response = proto::ApprovalResponse {
            approval_id: id.into(),
            approved: false,
            reason: Some("too dear".into()),
            json: None,
        };
        let content = Some(proto::part::Content::ApprovalResponse(response));
        let part = proto::Part { content, ..Default::default() };
        proto::Send { parts: vec![part], ..Default::default() }
    };
    assert_eq!(refusal(&mut client, decide("ap2")).await, "invalid_argument");
    client.send(decide("ap1")).await.unwrap();
    client.reply().await;
}
