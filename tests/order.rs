//! Promise 3: one gapless number per session, the same log through every transport.

use duologue::session::{self, Caller, ErrorKind, Subscription};
use futures_util::future::join_all;

use crate::support::{
    Call, DelayedStore, Event, Scripted, Setup, Step, Transport, core, create, history,
    new_message, proto, proto::chat_request::Request, soon, unshared, watched,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_connections_sending_at_once_share_one_gapless_log() {
    const EACH: usize = 8;
    let mut setup = Setup::default();
    setup.session.max_queued_turns = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let transports = Transport::ALL.into_iter().cycle().take(16);
    let clients = join_all(transports.map(|transport| transport.open(&server, &token, None))).await;
    let seen = join_all(clients.into_iter().enumerate().map(async |(number, mut client)| {
        for turn in 0..EACH {
            let text = format!("{number}/{turn}");
            client.say(&text, Some(&text)).await.unwrap();
        }
        client.messages(16 * EACH * 2).await
    }))
    .await;

    let seqs: Vec<u32> = seen[0].iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (1..=16 * EACH as u32 * 2).collect::<Vec<_>>());
    for (number, other) in seen.iter().enumerate() {
        assert_eq!(other, &seen[0], "client {number}");
    }
    for number in 0..16 {
        let own = seen[0].iter().filter(|message| message.client_message_id.is_some());
        let own = own.filter(|message| message.text.starts_with(&format!("{number}/")));
        let turns: Vec<_> = own.map(|message| message.text.clone()).collect();
        let sent: Vec<_> = (0..EACH).map(|turn| format!("{number}/{turn}")).collect();
        assert_eq!(turns, sent, "what one connection sent in order was kept in order");
    }
    let log = history(&server, Transport::Grpc, &token).await;
    assert_eq!(log.len(), seen[0].len());
    assert_eq!(log, history(&server, Transport::Sse, &token).await);
}

#[tokio::test]
async fn turns_run_one_at_a_time_and_replies_come_in_the_order_of_the_messages() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let mut asked = Vec::new();
        for turn in 0..10 {
            asked.push(client.say(&format!("{turn}"), None).await.unwrap().message_id);
        }
        for (turn, id) in asked.into_iter().enumerate() {
            let reply = client.reply().await.1;
            assert_eq!(reply.text, format!("Echo: {turn}"), "{transport:?}");
            assert_eq!(reply.in_reply_to, Some(id), "{transport:?}");
        }
    }
}

#[tokio::test]
async fn two_codecs_on_one_session_see_the_same_events() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let clients =
        join_all(Transport::ALL.map(|transport| transport.open(&server, &token, None))).await;
    let mut sender = Transport::Json.open(&server, &token, None).await;
    sender.say("hello", Some("m1")).await.unwrap();
    let seen = join_all(clients.into_iter().map(async |mut client| {
        let (mut before, reply) = client.reply().await;
        before.push(crate::support::Event::Message(Box::new(reply)));
        before
    }))
    .await;
    assert_eq!(seen[0].len(), 4, "message, reply_started, delta, message");
    assert!(seen.iter().all(|events| *events == seen[0]), "{seen:#?}");
}

#[tokio::test]
async fn a_history_can_be_read_in_pages_forward_and_the_newest_part_at_once() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut client = Transport::Json.open(&server, &token, None).await;
    for turn in 0..5 {
        client.say(&format!("{turn}"), None).await.unwrap();
        client.reply().await;
    }
    let mut stub = crate::support::stub(&server).await;
    let mut read = async |after, limit| {
        let request = crate::support::proto::RefreshTokenRequest {
            token: token.clone(),
            after,
            limit,
            ..Default::default()
        };
        let page = stub.refresh_token(request).await.unwrap().into_inner();
        let seqs: Vec<_> = page.messages.iter().map(|message| message.seq).collect();
        (seqs, page.has_more, page.position.unwrap().seq)
    };
    assert_eq!(read(Some(0), Some(4)).await, (vec![1, 2, 3, 4], true, 10));
    assert_eq!(read(Some(4), Some(4)).await, (vec![5, 6, 7, 8], true, 10));
    assert_eq!(read(Some(8), Some(4)).await, (vec![9, 10], false, 10));
    assert_eq!(read(Some(10), None).await, (vec![], false, 10));
    assert_eq!(read(Some(99), None).await, (vec![], false, 10));
    assert_eq!(read(None, Some(3)).await, (vec![8, 9, 10], true, 10));
    assert_eq!(read(None, Some(0)).await, (vec![], true, 10));
    assert_eq!(read(Some(3), Some(0)).await, (vec![], true, 10));
    assert_eq!(read(None, None).await.0.len(), 10);
}

/// A reply is committed while an earlier message is not published yet. The next reply must not
/// begin before this one is published, even if reads of the log fail.
#[tokio::test(start_paused = true)]
async fn a_reply_that_overtakes_a_message_is_published_before_the_next_one_begins() {
    for failures in [0, 1, 4] {
        let script = [Step::Say("a"), Step::Gate, Step::Say("b"), Step::End];
        let (store, responder) = (DelayedStore::new(), Scripted::new(&script).0);
        let gate = responder.gate.clone();
        let gateway = core(&store, responder).await;
        let (mut attachment, token) = watched(&gateway).await;
        gateway.send(&Caller::default(), &token, new_message("one")).await.unwrap();
        gateway.send(&Caller::default(), &token, new_message("two")).await.unwrap();
        let late = store.hold_next(Call::Append);
        let third = attachment.send(new_message("three"));
        store.holds(1).await;
        store.refuse_reads.lock().unwrap().extend(vec![ErrorKind::Internal; failures]);
        // The reply to the first gets number 4, and number 3 is not known here yet.
        gate.add_permits(3);
        assert_eq!(numbers_of_whole_replies(&mut attachment, "ab").await, [1, 2, 3, 4, 5, 6]);
        late.close();
        assert_eq!(third.end().await.unwrap().message.seq, 3);
    }
}

/// Returns the numbers of the next six messages. Checks that each reply has this text, in its
/// deltas and in its message, and begins after the one before it is published.
async fn numbers_of_whole_replies(attachment: &mut Subscription, text: &str) -> Vec<u32> {
    let (mut said, mut numbers) = (String::new(), Vec::new());
    while numbers.len() < 6 {
        match soon("an event", attachment.next()).await.unwrap() {
            session::Event::Message(event) => {
                let message = event.message;
                numbers.push(message.seq);
                if message.in_reply_to().is_some() {
                    assert_eq!(
                        (std::mem::take(&mut said).as_str(), &**message.text()),
                        (text, text)
                    );
                }
            }
            session::Event::Delta(delta) => said.push_str(delta.piece.text()),
            session::Event::ReplyPart(part) => panic!("{part:?}"),
            session::Event::ReplyStarted(started) => {
                assert_eq!((said.as_str(), started.offset), ("", 0));
            }
            session::Event::GoAway(_) => {}
        }
    }
    numbers
}

/// A commit may take as long as a disk does.
#[tokio::test]
async fn a_reply_goes_on_on_the_stream_whose_next_message_is_being_committed() {
    let script = [Step::Say("a"), Step::Gate, Step::Say("b"), Step::Gate, Step::End];
    let (store, responder) = (DelayedStore::new(), Scripted::new(&script).0);
    let gate = responder.gate.clone();
    let server = Setup { storage: unshared(&store), ..Setup::answering(responder) }.start().await;
    for transport in [Transport::Grpc, Transport::Json, Transport::Proto] {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("one", None).await.unwrap();
        assert_eq!(crate::support::piece_of(&client.delta().await), "a");
        store.hold(Call::Append);
        let text = "two".into();
        client.ask(Request::Send(proto::Send { text, ..Default::default() })).await;
        store.holds(1).await;
        gate.add_permits(1);
        assert_eq!(crate::support::piece_of(&client.delta().await), "b", "{transport:?}");
        store.release();
        gate.add_permits(3);
        let mut replies = 0;
        while replies < 2 {
            replies += usize::from(client.reply().await.1.text == "ab");
        }
    }
}

/// The message is in the log, and was published already by a catch-up.
#[tokio::test]
async fn accepted_precedes_the_message_itself() {
    let (store, responder) = (DelayedStore::new(), Scripted::new(&[Step::Say("a"), Step::End]).0);
    let server = Setup { storage: unshared(&store), ..Setup::answering(responder) }.start().await;
    for transport in [Transport::Grpc, Transport::Json, Transport::Proto] {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        store.hold(Call::Append);
        let text = "hello".into();
        client.ask(Request::Send(proto::Send { text, ..Default::default() })).await;
        store.holds(1).await;
        let other = transport.open(&server, &token, Some(&client.at(1))).await;
        assert!(other.opened.recovered, "{transport:?}");
        // Time for the stream to say too much.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        store.release();
        let first = client.next().await;
        assert!(matches!(first, Event::Accepted(_)), "{transport:?}: {first:?}");
        let second = client.next().await;
        assert!(matches!(second, Event::Message(_)), "{transport:?}: {second:?}");
        assert_eq!(client.reply().await.1.text, "a");
    }
}
