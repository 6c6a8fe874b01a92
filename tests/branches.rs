//! The tree of turns: edits, repeated questions, and the prompts of branches.

use crate::support::{Attached, Setup, Transport, create, model::*, proto, soon, stub};

fn at(text: &str, parent_seq: Option<u32>, id: Option<&str>) -> proto::Send {
    let client_message_id = id.map(Into::into);
    proto::Send { text: text.into(), parent_seq, client_message_id, ..Default::default() }
}

fn again(seq: u32, id: Option<&str>) -> proto::Regenerate {
    proto::Regenerate { seq, client_message_id: id.map(Into::into), ..Default::default() }
}

async fn turn(client: &mut Attached, send: proto::Send) -> proto::Accepted {
    let accepted = client.send(send).await.unwrap();
    client.reply().await;
    accepted
}

#[tokio::test]
async fn an_edit_continues_from_its_parent_and_the_prompt_is_its_branch() {
    for transport in Transport::ALL {
        let model = TestModel::new([]);
        let server = Setup::answering(model.clone()).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let one = turn(&mut client, at("one", None, None)).await;
        let two = turn(&mut client, at("two", None, None)).await;
        // Named by the reply of the turn, and by the root.
        let edited = turn(&mut client, at("two, edited", Some(2), None)).await;
        let root = turn(&mut client, at("one, edited", Some(0), None)).await;
        let next = turn(&mut client, at("three", None, None)).await;
        let parents = [&one, &two, &edited, &root, &next].map(|it| (it.seq, it.parent_seq));
        assert_eq!(parents, [(1, 0), (3, 1), (5, 1), (7, 0), (9, 7)], "{transport:?}");
        let expected: [&[&str]; 5] = [
            &["one"],
            &["one", "ok", "two"],
            &["one", "ok", "two, edited"],
            &["one, edited"],
            &["one, edited", "ok", "three"],
        ];
        assert_eq!(model.prompts(), expected, "{transport:?}");
    }
}

#[tokio::test]
async fn a_question_is_asked_again_under_its_parent() {
    for transport in Transport::ALL {
        let model = TestModel::new([]);
        let server = Setup::answering(model.clone()).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        turn(&mut client, at("one", None, None)).await;
        turn(&mut client, at("two", None, None)).await;
        for (seq, parent) in [(0, 1), (4, 1), (5, 1), (1, 0)] {
            let accepted = client.regenerate(again(seq, None)).await.unwrap();
            let (_, reply) = client.reply().await;
            assert_eq!(accepted.parent_seq, parent, "{transport:?} {seq}");
            assert_eq!(reply.in_reply_to.as_ref(), Some(&accepted.message_id));
        }
        let prompts = model.prompts();
        assert!(prompts[2..5].iter().all(|prompt| *prompt == ["one", "ok", "two"]));
        assert_eq!(prompts[5], ["one"]);
        let request = proto::RefreshTokenRequest { token, ..Default::default() };
        let page = stub(&server).await.refresh_token(request).await.unwrap().into_inner();
        let users = page.messages.iter().filter(|message| message.role() == proto::Role::User);
        let tree: Vec<_> = users.map(|it| (it.seq, it.parent_seq, it.regenerates_seq)).collect();
        let expected = [
            (1, Some(0), None),
            (3, None, None),
            (5, Some(1), Some(3)),
            (7, Some(1), Some(3)),
            (9, Some(1), Some(3)),
            (11, Some(0), Some(1)),
        ];
        assert_eq!(tree, expected, "{transport:?}: the first original, never a chain");
    }
}

#[tokio::test]
async fn a_retry_of_either_kind_is_one_turn() {
    let server = Setup::default().start().await;
    for (first, second) in Transport::pairs() {
        let token = create(&server).await;
        let mut one = first.open(&server, &token, None).await;
        turn(&mut one, at("one", None, None)).await;
        let edit = turn(&mut one, at("edit", Some(0), Some("e"))).await;
        let asked = one.regenerate(again(1, Some("r"))).await.unwrap();
        one.reply().await;
        let mut two = second.open(&server, &token, None).await;
        // An absent parent and a target of 0 match what was chosen.
        for parent in [Some(0), None] {
            let answer = two.send(at("edit", parent, Some("e"))).await.unwrap();
            assert!(answer.duplicate, "{first:?} {second:?} {parent:?}");
            assert_eq!((answer.seq, answer.parent_seq), (edit.seq, 0));
        }
        for seq in [1, 2, 0, asked.seq] {
            let answer = two.regenerate(again(seq, Some("r"))).await.unwrap();
            assert!(answer.duplicate && answer.seq == asked.seq, "{first:?} {second:?} {seq}");
        }
        let reused = if second == Transport::Sse { "409" } else { "message_id_reused" };
        for refused in [
            two.send(at("other", Some(0), Some("e"))).await,
            two.send(at("edit", Some(1), Some("e"))).await,
            two.send(at("one", None, Some("r"))).await,
            two.regenerate(again(0, Some("e"))).await,
            two.regenerate(again(edit.seq, Some("r"))).await,
        ] {
            assert_eq!(refused.unwrap_err().code, reused, "{first:?} {second:?}");
        }
    }
}

#[tokio::test]
async fn a_parent_or_a_turn_that_does_not_exist_is_refused_and_the_stream_goes_on() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let invalid = if transport == Transport::Sse { "400" } else { "invalid_argument" };
        let refused = client.regenerate(again(0, None)).await.unwrap_err();
        assert_eq!(refused.code, invalid, "{transport:?}: an empty log");
        let refused = client.send(at("a", Some(1), Some("m"))).await.unwrap_err();
        assert_eq!(refused.code, invalid, "{transport:?}");
        if transport != Transport::Sse {
            assert_eq!(refused.client_message_id.as_deref(), Some("m"));
        }
        assert_eq!(turn(&mut client, at("a", None, Some("m"))).await.seq, 1);
        let refused = client.regenerate(again(9, None)).await.unwrap_err();
        assert_eq!(refused.code, invalid, "{transport:?}");
    }
}

#[tokio::test]
async fn the_parent_is_shown_where_it_cannot_be_derived() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        for send in [at("1", None, None), at("3", None, None), at("5", Some(1), None)] {
            client.send(send).await.unwrap();
            client.reply().await;
        }
        for (seq, expected) in [
            (0, vec![(1, Some(0)), (3, None), (5, Some(1))]),
            (1, vec![(3, Some(1)), (5, Some(1))]),
            (4, vec![(5, Some(1))]),
        ] {
            let mut again = transport.open(&server, &token, Some(&client.at(seq))).await;
            let count = 6 - seq as usize;
            let messages = again.messages(count).await;
            let users = messages.iter().filter(|message| message.role() == proto::Role::User);
            let parents: Vec<_> = users.map(|it| (it.seq, it.parent_seq)).collect();
            assert_eq!(parents, expected, "{transport:?} from {seq}");
        }
    }
}

#[tokio::test]
async fn a_stop_names_its_turn() {
    for transport in Transport::ALL {
        let model = TestModel::gated([]);
        let server = Setup::answering(model.clone()).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        for text in ["one", "two"] {
            client.say(text, None).await.unwrap();
        }
        // A turn that waits ends without the model; a stop of no turn has no effect.
        client.stop_turn(Some(2)).await;
        client.stop_turn(Some(9)).await;
        // The answer to a message shows that the stops before it have arrived.
        client.say("three", None).await.unwrap();
        model.gate.add_permits(4);
        let mut replies = Vec::new();
        for _ in 0..3 {
            let (_, reply) = soon("a reply", client.reply()).await;
            replies.push((reply.text.clone(), reply.status()));
        }
        use proto::MessageStatus::{Complete, Stopped};
        let expected = [("ok", Complete), ("", Stopped), ("ok", Complete)];
        let expected = expected.map(|(text, status)| (text.to_owned(), status));
        assert_eq!(replies, expected, "{transport:?}");
        let asked: Vec<_> = model.prompts().into_iter().filter_map(|mut it| it.pop()).collect();
        assert_eq!(asked, ["one", "three"], "{transport:?}");
        // A stop that comes late does not hit the next turn.
        client.say("four", None).await.unwrap();
        client.stop_turn(Some(1)).await;
        client.stop_turn(Some(4)).await;
        client.say("five", None).await.unwrap();
        model.gate.add_permits(4);
        for _ in 0..2 {
            assert_eq!(client.reply().await.1.status(), Complete, "{transport:?}");
        }
    }
}
