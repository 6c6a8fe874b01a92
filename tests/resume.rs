//! Promise 4: from a position, no gap and no duplicate, on any protocol.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use duologue::{
    responder::Simulated,
    session::{self, Caller, ErrorKind, Gateway, PageRequest, Settings},
};
use tokio::time::{Instant, timeout};

use crate::support::{
    Call, DelayedStore, Event, Scripted, Setup, Step, Transport, core, create, new_message,
    piece_of, proto, soon, stub, unshared, watched,
};

#[tokio::test]
async fn from_every_position_through_every_transport_nothing_is_missed_and_nothing_comes_twice() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let mut client = Transport::Grpc.open(&server, &token, None).await;
    for turn in 0..4 {
        client.say(&format!("{turn}"), None).await.unwrap();
        client.reply().await;
    }
    for (transport, seq) in
        Transport::ALL.into_iter().flat_map(|transport| (0..=8).map(move |seq| (transport, seq)))
    {
        let at = client.at(seq);
        let mut back = transport.open(&server, &token, Some(&at)).await;
        assert!(back.opened.recovered, "{transport:?} from {seq}");
        assert_eq!(back.opened.position, Some(at));
        assert_eq!(back.opened.head_seq, 8);
        let replayed = back.messages(8 - seq as usize).await;
        let seqs: Vec<_> = replayed.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, (seq + 1..=8).collect::<Vec<_>>(), "{transport:?} from {seq}");
    }
}

#[tokio::test]
async fn a_long_replay_comes_in_order_with_what_happens_meanwhile() {
    let mut setup = Setup::default();
    setup.session.max_queued_turns = 1000;
    let server = setup.start().await;
    let token = create(&server).await;
    let mut writer = Transport::Proto.open(&server, &token, None).await;
    let start = writer.at(0);
    for turn in 0..200 {
        writer.say(&format!("{turn}"), None).await.unwrap();
    }
    for transport in Transport::ALL {
        let mut back = transport.open(&server, &token, Some(&start)).await;
        writer.say("meanwhile", None).await.unwrap();
        let seqs: Vec<_> = back.messages(402).await.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, (1..=402).collect::<Vec<_>>(), "{transport:?}");
    }
}

#[tokio::test]
async fn a_reply_that_was_left_in_the_middle_is_completed_on_the_other_protocol() {
    for (left, back) in Transport::pairs() {
        let script = [
            Step::Say("one "),
            Step::Say("two "),
            Step::Gate,
            Step::Say("three "),
            Step::Gate,
            Step::Say("four"),
            Step::End,
        ];
        let (responder, _) = Scripted::new(&script);
        let gate = responder.gate.clone();
        let server = Setup::answering(responder).start().await;
        let token = create(&server).await;

        let mut client = left.open(&server, &token, None).await;
        client.say("go", None).await.unwrap();
        // As two pieces or as one.
        let mut seen = String::new();
        while seen.len() < "one two ".len() {
            seen.push_str(piece_of(&client.delta().await));
        }
        assert_eq!(seen, "one two ");
        let at = client.at(1);
        drop(client);
        gate.add_permits(1);

        let mut client = back.open(&server, &token, Some(&at)).await;
        let Event::ReplyStarted(started) = client.next().await else { panic!("{left:?} {back:?}") };
        assert_eq!(started.offset, 0, "the position names no reply");
        let (mut text, mut end) = (String::new(), 0);
        gate.add_permits(1);
        let (events, reply) = client.reply().await;
        for event in events {
            let Event::Delta(delta) = event else { panic!("{left:?} {back:?}: {event:?}") };
            assert_eq!((delta.index, delta.offset), (0, end));
            assert_eq!(delta.reply_id, started.reply_id);
            end = delta.end;
            text.push_str(piece_of(&delta));
        }
        assert_eq!(text, "one two three four", "{left:?} {back:?}");
        assert_eq!((reply.text, reply.id), (text, started.reply_id));
    }
}

#[tokio::test]
async fn positions_that_cannot_be_honored_give_recovered_false_and_start_at_the_head() {
    let server = Setup::default().start().await;
    let unknown = Some("another".to_owned());
    let cases = Transport::ALL
        .into_iter()
        .flat_map(|transport| [(transport, unknown.clone(), 1), (transport, None, 3)]);
    for (transport, epoch, seq) in cases {
        let token = create(&server).await;
        let mut client = Transport::Json.open(&server, &token, None).await;
        client.say("hello", None).await.unwrap();
        client.reply().await;
        let position =
            proto::Position { epoch: epoch.unwrap_or(client.at(0).epoch), seq, reply: None };
        let mut back = transport.open(&server, &token, Some(&position)).await;
        assert!(!back.opened.recovered, "{transport:?} {position:?}");
        assert_eq!(back.opened.position, Some(client.at(2)));
        assert_eq!(back.opened.head_seq, 2);
        back.say("next", None).await.unwrap();
        assert_eq!(back.messages(1).await[0].seq, 3, "nothing old is replayed");
    }
}

#[tokio::test]
async fn a_malformed_position_is_an_error_and_not_a_fresh_start() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let malformed = proto::Position { epoch: "e".repeat(65), ..Default::default() };
    for transport in [Transport::Json, Transport::Proto, Transport::Grpc] {
        let mut client = transport.connect(&server, &token, Some(&malformed)).await;
        let Event::Error(error) = client.next().await else { panic!("{transport:?}") };
        assert_eq!(error.code, "invalid_argument", "{transport:?}");
    }
    let path = format!("/events?token={token}&position=nonsense");
    let answer = crate::support::Rest::call(&server, "GET", &path).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, r#"{"detail":"A position has the form EPOCH:SEQ or EPOCH:SEQ:REPLY:OFFSET"}"#)
    );
}

#[tokio::test]
async fn an_open_on_an_open_stream_attaches_anew() {
    let server = Setup::default().start().await;
    for transport in [Transport::Json, Transport::Proto, Transport::Grpc] {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("hello", None).await.unwrap();
        client.reply().await;
        let open = proto::Open { token: None, position: Some(client.at(0)), ..Default::default() };
        client.ask(proto::chat_request::Request::Open(open)).await;
        let Event::Opened(opened) = client.next().await else { panic!("{transport:?}") };
        assert!(opened.recovered);
        assert_eq!(client.messages(2).await.len(), 2, "{transport:?}");
    }
}

/// A request during a replay must not restart the read of the log.
#[tokio::test]
async fn a_replay_from_a_slow_store_goes_on_while_the_client_talks() {
    let store = DelayedStore::new();
    let server = Setup { storage: unshared(&store), ..Setup::default() }.start().await;
    for transport in [Transport::Json, Transport::Proto, Transport::Grpc] {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.say("hello", None).await.unwrap();
        client.reply().await;
        let at = client.at(0);
        *store.read_time.lock().unwrap() = Duration::from_millis(100);
        let reads = store.reads.load(Ordering::SeqCst);
        let mut back = transport.open(&server, &token, Some(&at)).await;
        let began = Instant::now();
        let mut messages = 0;
        while messages < 2 {
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "{transport:?}: no replay beside pings"
            );
            back.ask(proto::chat_request::Request::Ping(proto::Ping {})).await;
            while let Ok(event) = timeout(Duration::from_millis(10), back.next()).await {
                messages += usize::from(matches!(event, Event::Message(_)));
            }
        }
        assert_eq!(
            store.reads.load(Ordering::SeqCst) - reads,
            1,
            "{transport:?}: one page, one read"
        );
        *store.read_time.lock().unwrap() = Duration::ZERO;
    }
}

#[tokio::test]
async fn a_session_that_expires_during_the_start_does_not_prevent_it() {
    let store = DelayedStore::new();
    let (responder, _) = Scripted::new(&[Step::Hang]);
    let before = Setup { storage: unshared(&store), ..Setup::answering(responder) }.start().await;
    let token = create(&before).await;
    let mut client = Transport::Json.open(&before, &token, None).await;
    client.say("unanswered", None).await.unwrap();
    client.messages(1).await;
    store.reads_fail.store(true, Ordering::SeqCst);
    let responder = Arc::new(Simulated::new("{text}", Duration::ZERO));
    Gateway::start(Settings::default(), unshared(&store), responder)
        .await
        .expect("the others are served");
}

/// A client that has read a durable message from the log must not get `recovered: false` for its
/// position.
#[tokio::test]
async fn a_position_at_a_durable_but_unpublished_message_is_honored() {
    let store = DelayedStore::new();
    let gateway = core(&store, Simulated::new("{text}", Duration::ZERO)).await;
    let (mut first, token) = watched(&gateway).await;
    store.hold(Call::Append);
    let sending = first.send(new_message("hello"));
    store.holds(1).await;
    let read = gateway
        .refresh_token(
            &Caller::default(),
            &token,
            PageRequest { after: Some(0), ..PageRequest::default() },
        )
        .await
        .unwrap();
    let at = read.position();
    assert_eq!(at.seq, 1);

    store.refuse_reads.lock().unwrap().push(ErrorKind::Internal);
    let refused =
        gateway.attach(&Caller::default(), &token, Some(&at)).await.err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::Internal), "not known is not refused");
    let (mut second, opened) = gateway.attach(&Caller::default(), &token, Some(&at)).await.unwrap();
    assert_eq!((opened.recovered, opened.position), (true, at));
    store.release();
    assert_eq!(sending.end().await.unwrap().message.seq, 1);
    for (attachment, expected) in [(&mut first, vec![1, 2]), (&mut second, vec![2])] {
        let mut seen = Vec::new();
        while seen.last() != Some(&2) {
            if let session::Event::Message(event) = soon("it", attachment.next()).await.unwrap() {
                let message = event.message;
                seen.push(message.seq);
            }
        }
        assert_eq!(seen, expected);
    }
}

/// The reply to a message of a stream may precede the position of a second `open`: the client has
/// seen it on another stream.
#[tokio::test]
async fn a_half_closed_stream_that_was_opened_anew_ends_wherever_its_answers_are() {
    let store = DelayedStore::new();
    let server = Setup { storage: unshared(&store), ..Setup::default() }.start().await;
    for (seq, expected) in [(4, vec![]), (3, vec![4]), (2, vec![3, 4]), (0, vec![1, 2, 3, 4])] {
        let token = create(&server).await;
        let mut other = Transport::Json.open(&server, &token, None).await;
        other.say("first", None).await.unwrap();
        other.reply().await;
        let (requests, outgoing) = tokio::sync::mpsc::unbounded_channel();
        let ask = |request| requests.send(proto::ChatRequest { request: Some(request) }).unwrap();
        let start = other.at(0);
        let open = |seq| {
            let position = Some(proto::Position { seq, ..start.clone() });
            let token = Some(token.clone());
            proto::chat_request::Request::Open(proto::Open {
                token,
                position,
                ..Default::default()
            })
        };
        // Its replay waits for the store, and everything behind it waits, too.
        store.hold(Call::Read);
        ask(open(0));
        let send = proto::Send { text: "second".into(), ..Default::default() };
        ask(proto::chat_request::Request::Send(send));
        let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
        let mut stream = stub(&server).await.chat(outgoing).await.unwrap().into_inner();
        other.reply().await;
        ask(open(seq));
        drop(requests);
        let mut opened = 0;
        let mut seen = Vec::new();
        let end = loop {
            let next = soon("the end", stream.message()).await;
            match next.map(|response| response.and_then(|response| response.event)) {
                Ok(Some(Event::Opened(_))) => {
                    opened += 1;
                    if opened == 2 {
                        store.release();
                    }
                }
                Ok(Some(Event::Message(message))) => seen.push(message.seq),
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(end, Ok(None)), "{seq}: {end:?}");
        assert_eq!((opened, seen), (2, expected), "{seq}");
    }
}
