//! Promise 4, inside a reply: from an offset, on any structured protocol, without a gap and without
//! a duplicate.

use duologue::session::{Data, PartContent};

use crate::support::{
    Attached, Event, Running, Setup, Transport, create, model::*, piece_of, proto,
};

/// The part of a reply that a client has, as the protocol tells it to keep it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Received {
    reply_id: String,
    end: u32,
    parts: Vec<proto::Part>,
}

impl Received {
    fn receive(&mut self, event: &Event) {
        match event {
            Event::ReplyStarted(started) => {
                if started.offset == 0 {
                    *self = Self { reply_id: started.reply_id.clone(), ..Self::default() };
                }
                assert_eq!((started.offset, &started.reply_id), (self.end, &self.reply_id));
            }
            Event::Delta(delta) => {
                assert_eq!(delta.offset, self.end, "{delta:?}");
                self.end = delta.end;
                if self.parts.len() == delta.index as usize {
                    self.parts.push(empty(delta.piece.as_ref().unwrap()));
                }
                grow(self.parts.last_mut().unwrap(), piece_of(delta));
            }
            Event::ReplyPart(part) => {
                assert_eq!(part.offset, self.end, "{part:?}");
                self.end = part.end;
                self.parts.truncate(part.index as usize);
                self.parts.push(part.content.clone().unwrap());
            }
            _ => {}
        }
    }

    fn position(&self, at: &proto::Position) -> proto::Position {
        let reply = proto::ReplyPosition { reply_id: self.reply_id.clone(), offset: self.end };
        proto::Position { reply: Some(reply), ..at.clone() }
    }
}

fn empty(piece: &proto::delta::Piece) -> proto::Part {
    use proto::{delta::Piece, part::Content};
    let content = match piece {
        Piece::Text(_) => Content::Text(String::new()),
        Piece::Reasoning(_) => Content::Reasoning(String::new()),
        Piece::ToolCall(call) => {
            Content::ToolCall(proto::ToolCall { arguments: String::new(), ..call.clone() })
        }
    };
    proto::Part { content: Some(content), ..Default::default() }
}

fn grow(part: &mut proto::Part, more: &str) {
    use proto::part::Content;
    match part.content.as_mut().unwrap() {
        Content::Text(text) | Content::Reasoning(text) => text.push_str(more),
        Content::ToolCall(call) => call.arguments.push_str(more),
        other => panic!("{other:?} does not grow"),
    }
}

/// A reply with parts of several kinds, one chunk at a time.
fn script() -> Vec<duologue::session::Chunk> {
    let data = Data { kind: "app.card".into(), json: "{\"x\":1}".into(), id: None };
    vec![
        reasoning("Let me "),
        reasoning("think 漢"),
        text("Grüße, "),
        text("Welt 😀"),
        part(PartContent::Data(data)),
        call("c1", "{\"city\":"),
        call("c1", "\"Oslo\"}"),
        text("the end"),
        end("tool_calls"),
    ]
}

async fn begin(transport: Transport) -> (Running, TestModel, String, Attached) {
    let model = TestModel::gated([script()]);
    let server = Setup::answering(model.clone()).start().await;
    let token = create(&server).await;
    let mut client = transport.open(&server, &token, None).await;
    client.say("go", None).await.unwrap();
    (server, model, token, client)
}

/// Receives until the reply has this many offsets.
async fn until(client: &mut Attached, received: &mut Received, end: u32) {
    while received.end < end {
        let event = client.next().await;
        received.receive(&event);
    }
}

#[tokio::test]
async fn a_reply_continues_at_its_offset_over_every_pair_of_transports() {
    for (left, back) in Transport::pairs() {
        let (server, model, token, mut client) = begin(left).await;
        let at = client.at(1);
        let mut received = Received::default();
        // "Let me think 漢" and its end, "Grü".
        model.gate.add_permits(3);
        until(&mut client, &mut received, 16 + 9).await;
        drop(client);
        model.gate.add_permits(2);

        let position = received.position(&at);
        let mut client = back.open(&server, &token, Some(&position)).await;
        assert!(client.opened.recovered, "{left:?} {back:?}");
        assert_eq!(client.opened.position.as_ref(), Some(&position), "{left:?} {back:?}");
        let Event::ReplyStarted(started) = client.next().await else { panic!("{back:?}") };
        assert_eq!(started.offset, received.end, "{left:?} {back:?}");
        model.gate.add_permits(10);
        let (events, reply) = client.reply().await;
        events.iter().for_each(|event| received.receive(event));
        assert_eq!(reply.id, received.reply_id);
        let without_times = |part: &proto::Part| proto::Part { duration_ms: None, ..part.clone() };
        let committed: Vec<_> = reply.parts.iter().map(without_times).collect();
        let received: Vec<_> = received.parts.iter().map(without_times).collect();
        assert_eq!(committed, received, "{left:?} {back:?}");
        assert_eq!(reply.text, "Grüße, Welt 😀\n\nthe end");
    }
}

#[tokio::test]
async fn an_offset_that_cannot_be_honored_begins_the_reply_anew() {
    for transport in Transport::ALL {
        let (server, model, token, mut client) = begin(transport).await;
        let at = client.at(1);
        let mut received = Received::default();
        model.gate.add_permits(2);
        until(&mut client, &mut received, 15).await;
        let Received { reply_id, end, .. } = received.clone();
        let other = "01a20447-4730-70c4-871f-27437cce3343".to_owned();
        // In the middle of a character, beyond the end, of another reply, and of none.
        for (reply_id, offset) in
            [(&reply_id, end - 1), (&reply_id, end + 1), (&other, 3), (&"x".to_owned(), 3)]
        {
            let reply = proto::ReplyPosition { reply_id: reply_id.clone(), offset };
            let position = proto::Position { reply: Some(reply), ..at.clone() };
            if transport == Transport::Sse && reply_id == "x" {
                continue;
            }
            let mut again = transport.open(&server, &token, Some(&position)).await;
            assert!(again.opened.recovered, "the position in the log is honored");
            assert_eq!(again.opened.position, Some(at.clone()), "{transport:?} {offset}");
            let mut anew = Received::default();
            until(&mut again, &mut anew, end).await;
            assert_eq!(anew, received, "{transport:?} {offset}");
        }
    }
}

#[tokio::test]
async fn a_reply_that_has_ended_comes_as_its_message() {
    for transport in Transport::ALL {
        let (server, model, token, mut client) = begin(transport).await;
        let at = client.at(1);
        let mut received = Received::default();
        model.gate.add_permits(2);
        until(&mut client, &mut received, 15).await;
        model.gate.add_permits(10);
        client.reply().await;
        let mut again = transport.open(&server, &token, Some(&received.position(&at))).await;
        assert_eq!(again.opened.position, Some(at), "{transport:?}: no reply is in progress");
        let Event::Message(message) = again.next().await else { panic!("{transport:?}") };
        assert_eq!((message.seq, message.id), (2, received.reply_id));
    }
}

#[tokio::test]
async fn a_client_that_joins_late_receives_the_whole_reply() {
    for transport in Transport::ALL {
        let (server, model, token, mut client) = begin(transport).await;
        let mut early = Received::default();
        model.gate.add_permits(5);
        until(&mut client, &mut early, 16 + 21).await;
        let mut late = Received::default();
        let mut other = transport.open(&server, &token, None).await;
        until(&mut other, &mut late, early.end).await;
        assert_eq!(late, early, "{transport:?}");
    }
}
