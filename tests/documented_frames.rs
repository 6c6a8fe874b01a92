//! The frames that docs/PROTOCOL.md shows are those of the gateway.

use std::collections::BTreeMap;

use duologue::{
    proto,
    session::{Chunk, Outcome},
};
use serde_json::Value;

use crate::support::{Running, Setup, Socket, create, model::*};

const JSON: &str = "duologue.v1.json";

/// A line of a trace: `>` is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Gateway,
}

type Trace = Vec<(Sender, String)>;

/// Returns the traces of the document by their headings. A trace is a code block whose lines begin
/// with `> ` or `< `. The blocks of one heading are one conversation.
fn traces() -> BTreeMap<String, Trace> {
    let document = include_str!("../docs/PROTOCOL.md");
    let (mut heading, mut inside) = ("", false);
    let mut traces: BTreeMap<String, Trace> = BTreeMap::new();
    for line in document.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if !inside && line.starts_with('#') {
            heading = line.trim_start_matches(['#', ' ']);
        } else if inside && let Some((sender, json)) = line.split_once(" {") {
            let sender = match sender {
                ">" => Sender::Client,
                "<" => Sender::Gateway,
                _ => continue,
            };
            traces.entry(heading.into()).or_default().push((sender, format!("{{{json}")));
        }
    }
    traces
}

#[test]
fn every_documented_frame_is_one_of_the_contract() {
    let traces = traces();
    let frames = traces.values().flatten().filter(|(_, json)| !json.contains('…'));
    let mut checked = 0;
    for (sender, json) in frames {
        let documented: Value =
            serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"));
        let written = match sender {
            Sender::Client => {
                let read: proto::ChatRequest =
                    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
                assert!(read.request.is_some(), "{json}");
                continue;
            }
            Sender::Gateway => {
                let read: proto::ChatResponse =
                    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
                serde_json::to_value(&read).unwrap()
            }
        };
        assert_eq!(written, documented);
        checked += 1;
    }
    assert!(checked >= 20, "{checked} frames");
}

/// Replaces the values that differ from run to run.
fn normalized(mut frame: Value) -> Value {
    fn visit(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let varies = name.ends_with("At")
                        || name.ends_with("Ms")
                        || matches!(
                            name.as_str(),
                            "epoch" | "replyId" | "messageId" | "inReplyTo" | "limits"
                        )
                        || name == "id" && value.as_str().is_some_and(|id| id.len() == 36);
                    match varies {
                        true => *value = Value::Null,
                        false => visit(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(visit),
            _ => {}
        }
    }
    visit(&mut frame);
    frame
}

/// Sends what the client sends in a trace, and compares what it receives.
async fn replay(server: &Running, heading: &str) {
    let trace = traces().remove(heading).unwrap_or_else(|| panic!("no trace under {heading}"));
    let token = create(server).await;
    let mut socket = Socket::open(server, &format!("?token={token}"), JSON).await;
    for (sender, json) in trace {
        match sender {
            Sender::Client => socket.text(&json).await,
            Sender::Gateway => {
                let received = socket.next_text().await;
                let [expected, actual] =
                    [&json, &received].map(|json| normalized(serde_json::from_str(json).unwrap()));
                assert_eq!(expected, actual, "{heading}: {received}");
            }
        }
    }
}

fn ends(finish_reason: &str) -> Chunk {
    Chunk::End(Outcome {
        model: Some("example-1".into()),
        ..Outcome::complete(Some(finish_reason.into()), None)
    })
}

#[tokio::test]
async fn the_documented_turn_happens() {
    let model = TestModel::new([vec![text("Hello Ada."), ends("stop")]]);
    let server = Setup::answering(model).start().await;
    replay(&server, "A conversation on the wire").await;
}

#[tokio::test]
async fn the_documented_tool_call_happens() {
    let model = TestModel::new([
        vec![reasoning("I look it up."), call("c1", r#"{"city":"Oslo"}"#), ends("tool_calls")],
        vec![text("It rains."), ends("stop")],
    ]);
    let server = Setup::answering(model).start().await;
    replay(&server, "Tools").await;
}

#[tokio::test]
async fn the_documented_branches_happen() {
    let answers = ["Paris.", "Rome.", "Roma."];
    let model = TestModel::new(answers.map(|answer| vec![text(answer), ends("stop")]));
    let server = Setup::answering(model).start().await;
    replay(&server, "Branches").await;
}
