use std::{future::poll_fn, sync::Arc};

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::draft_events::PIECE;
use super::*;
use crate::session::{
    live::{
        event::EventFilter,
        subscriber_queue::{QueueCapacity, SubscriberQueue},
    },
    model::{Data, TokenId},
};

const LIMITS: ReplyLimits = ReplyLimits { max_size: 1 << 20, max_text_size: 1 << 20 };

/// A step of a responder.
#[derive(Clone, Debug)]
enum Step {
    Text(String),
    Reasoning(String),
    /// A piece of the call of this number.
    Call(u8, String),
    WholeText(String, bool),
    WholeReasoning(String),
    WholeCall(u8, String),
    Data,
    EndPart(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let text = || "[aé漢😀\n\"]{0,12}";
    let step = prop_oneof![
        4 => text().prop_map(Step::Text),
        2 => text().prop_map(Step::Reasoning),
        3 => (0_u8..4, text()).prop_map(|(call, text)| Step::Call(call, text)),
        1 => (text(), any::<bool>()).prop_map(|(text, cited)| Step::WholeText(text, cited)),
        1 => text().prop_map(Step::WholeReasoning),
        1 => (0_u8..4, text()).prop_map(|(call, text)| Step::WholeCall(call, text)),
        1 => Just(Step::Data),
        1 => any::<bool>().prop_map(Step::EndPart),
    ];
    prop::collection::vec(step, 1..24)
}

fn citations(cited: bool) -> Vec<Citation> {
    let citation = Citation { source_id: "s".into(), start: None, end: None, quote: None };
    if cited { vec![citation] } else { Vec::new() }
}

fn call(number: u8, arguments: &str) -> ToolCall {
    ToolCall {
        id: format!("c{number}").into(),
        name: "f".into(),
        arguments: arguments.into(),
        plain_text: false,
        responder_executed: false,
    }
}

impl Step {
    fn run(self, draft: &mut ReplyDraft, send: &mut dyn FnMut(Event)) -> Extended {
        let sink = &mut Some(send);
        match self {
            Self::Text(text) => draft.append(Piece::Text(text), LIMITS, sink),
            Self::Reasoning(text) => draft.append(Piece::Reasoning(text), LIMITS, sink),
            Self::Call(number, arguments) => {
                let ToolCall { id, name, plain_text, responder_executed, .. } = call(number, "");
                let piece = ToolCallPiece { id, name, arguments, plain_text, responder_executed };
                draft.append(Piece::ToolCall(piece), LIMITS, sink)
            }
            Self::WholeText(text, cited) => {
                let part = Part { citations: citations(cited), ..Part::text(text) };
                draft.push(part, LIMITS, sink)
            }
            Self::WholeReasoning(text) => {
                draft.push(PartContent::Reasoning(text.into()).into(), LIMITS, sink)
            }
            Self::WholeCall(number, text) => {
                draft.push(PartContent::ToolCall(call(number, &text)).into(), LIMITS, sink)
            }
            Self::Data => {
                let data = Data { kind: "k".into(), json: "1".into(), id: None };
                draft.push(PartContent::Data(data).into(), LIMITS, sink)
            }
            Self::EndPart(cited) => draft.end_part(citations(cited), None, LIMITS, sink),
        }
    }
}

/// A client as the protocol describes it: it compares one number, and appends or replaces.
#[derive(Clone, Debug, Default, PartialEq)]
struct Client {
    end: u32,
    parts: Vec<PartContent>,
}

impl Client {
    fn receive(&mut self, event: &Event) {
        let (index, offset, end) = match event {
            Event::Delta(delta) => (delta.index, delta.offset, delta.end),
            Event::ReplyPart(part) => (part.index, part.offset, part.end),
            other => panic!("{other:?}"),
        };
        assert!(end > offset, "an event covers something: {event:?}");
        assert_eq!(offset, self.end, "no gap and no duplicate: {event:?}");
        self.end = end;
        let index = index as usize;
        match event {
            Event::ReplyPart(part) => {
                self.parts.truncate(index);
                self.parts.push(part.part.content.clone());
            }
            Event::Delta(delta) => {
                assert!(self.parts.len() == index || self.parts.len() == index + 1);
                if self.parts.len() == index {
                    self.parts.push(match &delta.piece {
                        DeltaPiece::Text(_) => PartContent::Text("".into()),
                        DeltaPiece::Reasoning(_) => PartContent::Reasoning("".into()),
                        DeltaPiece::ToolCall(piece) => {
                            let ToolCallPiece { id, name, .. } = &**piece;
                            let (id, name) = (Arc::clone(id), Arc::clone(name));
                            PartContent::ToolCall(ToolCall { id, name, ..call(0, "") })
                        }
                    });
                }
                let grow =
                    |text: &mut Arc<str>| *text = format!("{text}{}", delta.piece.text()).into();
                match (&mut self.parts[index], &delta.piece) {
                    (PartContent::Text(text), DeltaPiece::Text(_))
                    | (PartContent::Reasoning(text), DeltaPiece::Reasoning(_)) => grow(text),
                    (PartContent::ToolCall(call), DeltaPiece::ToolCall(_)) => {
                        grow(&mut call.arguments);
                    }
                    (part, piece) => panic!("{part:?} grows by {piece:?}"),
                }
                let bytes = delta.piece.text().len() as u32 + u32::from(delta.done);
                assert_eq!(end - offset, bytes);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn contents(content: &Content) -> Vec<PartContent> {
    match content.parts() {
        [] if content.text().is_empty() => Vec::new(),
        [] => vec![PartContent::Text(Arc::clone(content.text()))],
        parts => parts.iter().map(|part| part.content.clone()).collect(),
    }
}

/// Runs the steps and returns the events, and the drafts after each step.
fn produce(steps: Vec<Step>) -> (ReplyDraft, Vec<Event>, Vec<ReplyDraft>) {
    let mut draft = ReplyDraft::new(MessageId::generate());
    let (mut events, mut states) = (Vec::new(), Vec::new());
    for step in steps {
        let mut sent = Vec::new();
        let extended = step.run(&mut draft, &mut |event| sent.push(event));
        assert!(extended != Extended::Invalid || sent.is_empty());
        events.append(&mut sent);
        states.push(draft.clone());
    }
    (draft, events, states)
}

proptest! {
    #[test]
    fn the_committed_parts_are_those_of_the_events(steps in steps(), complete: bool) {
        let (mut draft, mut events, _) = produce(steps);
        let content = draft.finish(complete, &mut Some(&mut |event| events.push(event)));
        let mut client = Client::default();
        events.iter().for_each(|event| client.receive(event));
        let mut parts = client.parts;
        // A call without its end is dropped when the reply breaks off. An empty text is no content.
        if !complete && parts.len() > contents(&content).len() {
            prop_assert!(matches!(parts.pop(), Some(PartContent::ToolCall(_))));
        }
        let committed = contents(&content);
        let is_only_empty = committed.is_empty() && parts == [PartContent::Text("".into())];
        prop_assert!(committed == parts || is_only_empty, "{committed:?} {parts:?}");
    }

    #[test]
    fn a_client_continues_from_every_end_that_it_has_seen(steps in steps(), at: prop::sample::Index) {
        let (draft, events, states) = produce(steps);
        let state = at.get(&states);
        let mut expected = Client::default();
        events.iter().for_each(|event| expected.receive(event));
        // It leaves after each event that had been sent, and comes back to a later state.
        let sent = events.iter().take_while(|event| event.reply_end().is_some_and(|(_, end)| end <= state.end()));
        let mut client = Client::default();
        for event in std::iter::once(None).chain(sent.map(Some)) {
            event.iter().for_each(|event| client.receive(event));
            prop_assert!(state.is_boundary(client.end));
            let mut again = client.clone();
            state.events_after(again.end).for_each(|event| again.receive(&event));
            prop_assert_eq!(again.end, state.end());
            draft.events_after(again.end).for_each(|event| again.receive(&event));
            prop_assert_eq!(&again, &expected);
        }
    }

    #[test]
    fn only_places_between_characters_are_honored(steps in steps()) {
        let (draft, ..) = produce(steps);
        let mut expected = Client::default();
        draft.events_after(0).for_each(|event| expected.receive(&event));
        for at in 0..=draft.end() + 1 {
            if draft.is_boundary(at) {
                let mut end = at;
                for event in draft.events_after(at) {
                    let (_, next) = event.reply_end().unwrap();
                    prop_assert!(next > end);
                    end = next;
                }
                prop_assert_eq!(end, draft.end());
            } else {
                prop_assert!(at > 0);
            }
        }
        prop_assert!(!draft.is_boundary(draft.end() + 1));
    }

    #[test]
    fn merged_events_are_worth_the_same(steps in steps(), reads in prop::collection::vec(0_usize..4, 24)) {
        let (_, events, _) = produce(steps);
        let capacity = QueueCapacity { events: usize::MAX, bytes: usize::MAX };
        let queue = SubscriberQueue::new(capacity, EventFilter::All, TokenId::generate());
        let (mut fast, mut slow) = (Client::default(), Client::default());
        let next = || poll_fn(|cx| queue.poll_next(cx)).now_or_never();
        for (event, reads) in events.iter().zip(reads.iter().cycle()) {
            fast.receive(event);
            queue.push(event);
            for _ in 0..*reads {
                if let Some(Ok(event)) = next() {
                    slow.receive(&event);
                }
            }
        }
        while let Some(Ok(event)) = next() {
            slow.receive(&event);
        }
        prop_assert_eq!(slow, fast);
    }

    #[test]
    fn another_process_shows_the_same(
        steps in steps(),
        from in prop::sample::Index::arbitrary(),
        lost in prop::option::of(any::<prop::sample::Index>()),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (draft, events, states) = produce(steps);
        // It asks in the middle of the reply, and the rest follows.
        let asked = from.get(&states);
        let later = events.iter().filter(|event| {
            event.reply_end().is_some_and(|(_, end)| end > asked.end())
        });
        let mut sent: Vec<Event> = asked.events_after(0).chain(later.cloned()).collect();
        for place in &repeated {
            if !sent.is_empty() {
                let (from, to) = (place.index(sent.len()), place.index(sent.len() + 1));
                sent.insert(from.max(to), sent[from.min(to)].clone());
            }
        }
        if let Some(lost) = lost.filter(|_| !sent.is_empty()) {
            sent.remove(lost.index(sent.len()));
        }
        let (mut mirror, mut client) = (ReplyDraft::new(draft.reply), Client::default());
        for event in sent {
            match mirror.mirror(event) {
                Mirrored::New(event) => client.receive(&event),
                Mirrored::Known => {}
                Mirrored::Gap => {
                    prop_assert!(lost.is_some());
                    // It asks again, from where it is.
                    prop_assert!(draft.is_boundary(mirror.end()));
                    for event in draft.events_after(mirror.end()) {
                        if let Mirrored::New(event) = mirror.mirror(event) {
                            client.receive(&event);
                        }
                    }
                }
            }
            prop_assert_eq!(client.end, mirror.end());
            let mut late = Client::default();
            mirror.events_after(0).for_each(|event| late.receive(&event));
            prop_assert_eq!(&late, &client);
        }
        if lost.is_none() {
            let mut expected = Client::default();
            events.iter().for_each(|event| expected.receive(event));
            prop_assert_eq!(&client, &expected);
        }
    }
}

#[test]
fn a_reply_ends_at_its_limits() {
    let limits = ReplyLimits { max_size: 8, max_text_size: 5 };
    let mut draft = ReplyDraft::new(MessageId::generate());
    let mut text = |text: &str| draft.append(Piece::Text(text.into()), limits, &mut None);
    assert_eq!(text("abc"), Extended::Whole);
    assert_eq!(text("dé"), Extended::TooLong);
    assert_eq!(**draft.content().text(), *"abcd");
    let reasoning = Piece::Reasoning("12345".into());
    assert_eq!(draft.append(reasoning, limits, &mut None), Extended::TooLong);
    let parts = draft.content().parts().to_vec();
    assert_eq!(parts[1].content, PartContent::Reasoning("1234".into()));
    assert_eq!(draft.push(Part::text("e"), limits, &mut None), Extended::TooLong);
}

#[test]
fn a_call_that_has_ended_cannot_grow() {
    let mut draft = ReplyDraft::new(MessageId::generate());
    let mut send = |_| {};
    let mut run = |step: Step| step.run(&mut draft, &mut send);
    assert_eq!(run(Step::Call(1, "{".into())), Extended::Whole);
    assert_eq!(run(Step::Text("a".into())), Extended::Whole);
    assert_eq!(run(Step::Call(1, "}".into())), Extended::Invalid);
    assert_eq!(run(Step::WholeCall(1, "{}".into())), Extended::Invalid);
}

#[test]
fn a_late_subscriber_receives_pieces_of_16_kib() {
    let mut draft = ReplyDraft::new(MessageId::generate());
    let large = "é".repeat(PIECE);
    let _whole = draft.append(Piece::Text(large.clone()), LIMITS, &mut None);
    let mut client = Client::default();
    let mut count = 0;
    for event in draft.events_after(0) {
        assert!(event.cost() <= PIECE + 64);
        client.receive(&event);
        count += 1;
    }
    assert_eq!((count, client.parts), (2, vec![PartContent::Text(large.into())]));
}
