//! The tree of turns, as every store keeps it: parents, repeated questions, retries and results.

use std::sync::Arc;

use duologue::session::{
    AppendLimits, Appended, Content, ErrorKind, Message, Metadata, NewReply, NewTurn, Part,
    PartContent, Question, Result, Session, ToolCall, ToolResult, TurnOptions, UserFields,
};

use crate::store_contract::{ALL, AnyStore, NOW, created, kind, reply, stores, terms, user};

fn asked(text: &str, key: Option<&str>, parent_seq: Option<u32>) -> NewTurn {
    let question = Question::New { content: Content::of_text(text), parent_seq };
    NewTurn { question, ..user("", key) }
}

fn again(seq: u32, key: Option<&str>) -> NewTurn {
    NewTurn { question: Question::Again { seq }, ..user("", key) }
}

async fn append(store: &dyn AnyStore, session: &Session, turn: NewTurn) -> Result<Appended> {
    let wide = AppendLimits { max_queued_turns: 100, ..terms() };
    store.append(session.id, turn, wide).await
}

/// Appends a turn with its reply. Returns the user message.
async fn answered(store: &dyn AnyStore, session: &Session, turn: NewTurn) -> Arc<Message> {
    let asked = append(store, session, turn).await.unwrap();
    store.answer_alone(session.id, reply(&asked), NOW).await.unwrap();
    asked.message
}

fn fields(message: &Message) -> &UserFields {
    message.user().expect("it is a user message")
}

#[tokio::test]
async fn a_turn_follows_the_newest_one_or_the_one_that_is_given() {
    for store in stores().await {
        let store = &*store;
        let (session, _) = created(store).await;
        // A turn is named by its user message or by its reply.
        for (parent, seq, expected) in [
            (None, 1, 0),
            (None, 3, 1),
            (Some(0), 5, 0),
            (Some(1), 7, 1),
            (Some(4), 9, 3),
            (None, 11, 9),
        ] {
            let message = answered(store, &session, asked("x", None, parent)).await;
            assert_eq!((message.seq, fields(&message).parent_seq), (seq, expected), "{parent:?}");
        }
        let waiting = append(store, &session, asked("x", None, None)).await.unwrap().message;
        let next = append(store, &session, asked("x", None, None)).await.unwrap().message;
        assert_eq!(fields(&next).parent_seq, waiting.seq, "also one that waits");
        let missing = append(store, &session, asked("x", None, Some(99))).await;
        assert_eq!(kind(missing), ErrorKind::InvalidArgument);
        assert_eq!(store.read(session.id, NOW, ALL).await.unwrap().head_seq, next.seq);
    }
}

#[tokio::test]
async fn a_repeated_question_has_the_content_and_the_parent_of_the_original() {
    let metadata = |value: &str| Metadata::new([("k".to_owned(), value.to_owned())].into());
    let options = |model: &str| {
        Some(Arc::new(TurnOptions { model: Some(model.into()), ..TurnOptions::default() }))
    };
    for store in stores().await {
        let store = &*store;
        let (session, _) = created(store).await;
        assert_eq!(
            kind(append(store, &session, again(0, None)).await),
            ErrorKind::InvalidArgument,
            "there is no turn"
        );
        answered(store, &session, asked("one", None, None)).await;
        let original =
            NewTurn { metadata: metadata("a"), options: options("a"), ..asked("two", None, None) };
        let original = answered(store, &session, original).await;
        let second = answered(store, &session, again(4, None)).await;
        assert_eq!(second.text(), original.text());
        assert_eq!((second.metadata.clone(), second.seq), (metadata("a"), 5));
        assert_eq!(
            fields(&second),
            &UserFields {
                client_message_id: None,
                parent_seq: 1,
                regenerates_seq: Some(3),
                options: options("a"),
            }
        );
        // The newest turn is a repeated one; the number stays that of the original.
        let other = NewTurn { metadata: metadata("b"), options: options("b"), ..again(0, None) };
        let third = append(store, &session, other).await.unwrap().message;
        assert_eq!((third.text(), &third.metadata), (original.text(), &metadata("b")));
        assert_eq!(fields(&third).regenerates_seq, Some(3));
        assert_eq!((fields(&third).parent_seq, &fields(&third).options), (1, &options("b")));
        assert!(append(store, &session, again(third.seq, None)).await.is_ok(), "while it waits");
        let missing = append(store, &session, again(99, None)).await;
        assert_eq!(kind(missing), ErrorKind::InvalidArgument);
        let full = AppendLimits { max_queued_turns: 2, ..terms() };
        let refused = store.append(session.id, again(1, None), full).await;
        assert_eq!(kind(refused), ErrorKind::QueueFull);
    }
}

#[tokio::test]
async fn a_retry_has_the_same_content_and_the_same_parent_if_one_is_given() {
    for store in stores().await {
        let store = &*store;
        let (session, _) = created(store).await;
        answered(store, &session, asked("one", None, None)).await;
        let first = answered(store, &session, asked("two", Some("k"), None)).await;
        answered(store, &session, asked("three", None, Some(0))).await;
        let changed = NewTurn {
            metadata: Metadata::new([("k".to_owned(), "v".to_owned())].into()),
            options: Some(Arc::default()),
            ..asked("two", Some("k"), None)
        };
        for retry in [
            changed,
            asked("two", Some("k"), None),
            asked("two", Some("k"), Some(1)),
            asked("two", Some("k"), Some(2)),
        ] {
            let retried = append(store, &session, retry.clone()).await.unwrap();
            assert_eq!((retried.duplicate, retried.reply_seq), (true, Some(4)), "{retry:?}");
            assert_eq!(retried.message, first);
        }
        for other in [
            asked("2", Some("k"), None),
            asked("two", Some("k"), Some(0)),
            asked("two", Some("k"), Some(5)),
            asked("two", Some("k"), Some(99)),
            again(3, Some("k")),
            again(0, Some("k")),
        ] {
            let refused = append(store, &session, other.clone()).await;
            assert_eq!(kind(refused), ErrorKind::MessageIdReused, "{other:?}");
        }
    }
}

#[tokio::test]
async fn a_repeated_question_is_retried_by_the_turn_that_it_repeats() {
    for store in stores().await {
        let store = &*store;
        let (session, _) = created(store).await;
        answered(store, &session, asked("one", None, None)).await;
        answered(store, &session, asked("two", None, None)).await;
        let first = append(store, &session, again(3, Some("k"))).await.unwrap().message;
        // The second names the reply, the last one the repeated question itself.
        for seq in [3, 4, 0, first.seq] {
            let retried = append(store, &session, again(seq, Some("k"))).await.unwrap();
            assert!(retried.duplicate && retried.message == first, "{seq}");
            assert_eq!(retried.reply_seq, None);
        }
        for other in [again(1, Some("k")), asked("two", Some("k"), None)] {
            let refused = append(store, &session, other.clone()).await;
            assert_eq!(kind(refused), ErrorKind::MessageIdReused, "{other:?}");
        }
    }
}

fn call(id: &str) -> Part {
    let call = ToolCall {
        id: id.into(),
        name: "weather".into(),
        arguments: "{}".into(),
        plain_text: false,
        responder_executed: false,
    };
    PartContent::ToolCall(call).into()
}

fn results(ids: &[&str], parent_seq: Option<u32>) -> NewTurn {
    let result = |id: &&str| ToolResult {
        tool_call_id: (*id).into(),
        output: "4".into(),
        is_error: false,
        files: Vec::new(),
    };
    let parts = ids.iter().map(|id| PartContent::ToolResult(result(id)).into());
    let question = Question::New { content: Content::of_parts(parts.collect()), parent_seq };
    NewTurn { question, ..user("", None) }
}

#[tokio::test]
async fn results_belong_to_the_open_calls_of_the_parent_turn() {
    for store in stores().await {
        let store = &*store;
        let (session, _) = created(store).await;
        let asked = append(store, &session, asked("weather?", None, None)).await.unwrap();
        let early = append(store, &session, results(&["a"], None)).await;
        assert_eq!(kind(early), ErrorKind::InvalidArgument, "the parent is not answered");
        let content = Content::of_parts(vec![call("a"), call("b")]);
        let calls = NewReply { content, ..reply(&asked) };
        store.answer_alone(session.id, calls, NOW).await.unwrap();
        for (ids, parent) in
            [(&["c"][..], None), (&["a", "a"], None), (&["a"], Some(0)), (&["a", "c"], Some(2))]
        {
            let refused = append(store, &session, results(ids, parent)).await;
            assert_eq!(kind(refused), ErrorKind::InvalidArgument, "{ids:?} after {parent:?}");
        }
        // Not all calls must be answered.
        let one = append(store, &session, results(&["b"], None)).await.unwrap().message;
        assert_eq!((one.seq, fields(&one).parent_seq), (3, 1));
        let second = append(store, &session, results(&["b"], None)).await;
        assert_eq!(kind(second), ErrorKind::InvalidArgument, "the newest turn is now another");
        assert!(append(store, &session, results(&["a", "b"], Some(1))).await.is_ok(), "a sibling");
    }
}
